"""`admodels start` and `admodels task`: what they print, refuse and write to params.yaml."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from admodels.cli.check import check
from admodels.datasets import mvtec_ad
from admodels.foundation.params import load
from admodels.sources.fetch import fetch
from admodels.sources.source import Task
from tests.names import mvtec, put

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "params.yaml"
Ended = tuple[int, str, str]
Command = Callable[..., Ended]
LOADED = Path("params.yaml")


def add_words(
    source: object, *more: str, category: str = "cap", layout: str = "folder"
) -> list[str]:
    words = f"task add cap --dataset {layout} --category {category} --kind object --source"
    return [*words.split(), str(source), *more]


def pin(task: str) -> str:
    return str(load()["tasks"][task]["source"]["sha256"])


@pytest.mark.slow
def test_add_prints_what_the_layout_makes_of_a_source_and_pins_it(
    command: Command, tmp_path: Path
) -> None:
    source = mvtec(tmp_path / "caps" / "cap")
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "e.gif"):
        (source / f"train/good/{name}").write_bytes(b"")
    put(source, **{"test__hole__@eaDir": 1})
    (source / "license.txt").write_bytes(b"")
    code, out, stderr = command(*add_words(tmp_path / "caps", layout="mvtec_ad"))
    assert (code, stderr) == (0, "")
    assert out.splitlines() == [
        f"cap: the layout `mvtec_ad`, category cap, of {tmp_path}/caps",
        "  normal     12 to learn from, 2 to test with",
        "  anomalous  4 to test with: 1 crack, 3 hole",
        "  masks      3 of 4 anomalous images have one",
        "  files      used 22 of 27 files: 5 unknown suffix, 1 folder excluded",
        "             excluded: cap/test/hole/@eaDir/",
        "             unknown suffix: cap/train/good/a.txt, cap/train/good/b.txt, "
        "cap/train/good/c.txt and 2 more",
        "  too few    verdicts with a false-alarm budget of 0.05 need 18 more normal images",
        f"tasks.cap is in params.yaml, pinned to {pin('cap')[:12]}",
        "licence of the images: not stated, and every bundle and report says so; "
        "`--licence` states it",
    ]
    assert load()["run"]["tasks"] == ["sample_brick", "sample_gravel", "cap"]
    assert load()["tasks"]["cap"] == {
        "dataset": "mvtec_ad",
        "category": "cap",
        "kind": "object",
        "licence": "not stated",
        "source": {"kind": "path", "location": f"{tmp_path}/caps", "sha256": pin("cap")},
    }


def test_what_was_looked_at_is_what_is_fetched(command: Command, tmp_path: Path) -> None:
    source = put(tmp_path / "caps", OK=20, NG=3, previews=4)
    words = ["--normal", "OK", "--exclude", "previews"]
    code, out, _ = command(*add_words(source, *words))
    assert (code, "normal     20 to learn from" in out) == (0, True)
    assert "anomalous  3 to test with: 3 NG" in out
    task = Task.model_validate_json(json.dumps(load()["tasks"]["cap"]), strict=True)
    assert (task.normal_folders, task.exclude) == (("OK",), ("previews",))
    fetch(task.source, task.category, tmp_path / "raw", task.exclude)
    assert len([*tmp_path.glob("raw/OK/*")]) == 20


@pytest.mark.parametrize(
    ("counts", "words", "code", "messages"),
    [
        (
            {"bottle__train__good": 12, "cable__train__good": 12},
            ["--category", "botle", "--dataset", "mvtec_ad"],
            3,
            ["0 normal images", "bottle, cable; did you mean `bottle`?"],
        ),
        (
            {"bottle__train__good": 12, "cable__train__good": 12},
            ["--category", "zipper"],
            3,
            ["0 normal images", "bottle, cable"],
        ),
        ({"normal": 10}, [], 3, ["10 normal images", "add 1 normal image"]),
        ({"OK": 30, "NG": 5}, [], 2, ["`NG` (5 images), `OK` (30 images)", "`--normal OK`"]),
        ({"0": 30, "1": 5}, [], 2, ["`0` (30 images), `1` (5 images)", "`--normal NAME`"]),
        (
            {"train__good": 30, "test__0": 5, "test__1": 2},
            ["--dataset", "mvtec_ad"],
            2,
            ["`0` (5 images), `1` (2 images)"],
        ),
        (
            {"x__y__images__train": 30, "x__y__images__val": 5},
            ["--dataset", "mvtec_ad"],
            3,
            ["0 normal images", "30 images in x/y/images/train", "train/good/*.png"],
        ),
        (
            {"x__y__cap__train__good": 30},
            ["--dataset", "mvtec_ad"],
            3,
            ["give the folder `{source}/x/y/cap` as the source"],
        ),
        ({"normal": 30}, ["--dataset", "mvtec_ad"], 3, ["`--dataset folder`"]),
        ({"normal": 30}, ["--dataset", "foldr"], 2, ["no dataset layout named `foldr`; did you"]),
        ({"normal": 30}, ["--dataset", "MVTec_AD"], 2, ["did you mean `mvtec_ad`?"]),
        ({"normal": 30}, ["--kind", "objekt"], 2, ["--kind"]),
        ({"normal": 30}, ["--source", "gone/x"], 69, ["source is missing\n", "gone/x"]),
        ({"normal": 30}, ["--source", "in/Norma"], 69, ["missing; did you mean `normal`?"]),
        ({"normal": 30}, ["--source", "params.yaml"], 3, ["archive cannot be read", "a folder"]),
    ],
)
def test_what_cannot_train_is_refused_before_anything_is_written(
    command: Command,
    tmp_path: Path,
    counts: dict[str, int],
    words: list[str],
    code: int,
    messages: list[str],
) -> None:
    source = put(tmp_path / "in", **counts)
    paths = sorted(tmp_path.rglob("*"))
    ended, _, stderr = command(*add_words(source, *words))
    assert ended == code, stderr
    for message in messages:
        assert message.format(source=source) in stderr
    assert "Traceback" not in stderr
    assert LOADED.read_bytes() == SHIPPED.read_bytes()
    assert sorted(tmp_path.rglob("*")) == paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("press-3", "press_3"),
        ("Bottle", "bottle"),
        ("my bottle.v2", "my_bottle_v2"),
        ("3d_cap", "task_3d_cap"),
        ("Größe", "gr_e"),
        ("mean", "task_mean"),
        ("_", "task"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(
    command: Command, tmp_path: Path, name: str, better: str
) -> None:
    source = put(tmp_path / "in", normal=12)
    for words in (["start", name, str(source)], ["task", "add", name, *add_words(source)[3:]]):
        code, _, stderr = command(*words)
        assert code == 2
        assert f"`{name}` cannot name a task" in stderr
        assert f"run this again with `{better}`" in stderr
    assert command("start", better, str(source))[0] == 0


@pytest.mark.parametrize("words", [["start", "cap"], add_words("")[:-1]])
def test_a_dry_run_prints_and_changes_nothing(
    command: Command, tmp_path: Path, words: list[str]
) -> None:
    source = put(tmp_path / "in", normal=12)
    paths = sorted(tmp_path.rglob("*"))
    code, out, _ = command(*words, str(source), "--dry-run")
    assert (code, "normal     12 to learn from" in out) == (0, True)
    assert out.endswith("params.yaml is as it was: this was a dry run\n")
    assert LOADED.read_bytes() == SHIPPED.read_bytes()
    assert sorted(tmp_path.rglob("*")) == paths


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "words"), [(0, ""), (1, "1 more normal image\n"), (46, "46 ")])
def test_a_look_says_how_many_images_verdicts_and_a_measured_rate_take(
    command: Command, tmp_path: Path, missing: int, words: str
) -> None:
    """19 images calibrate and 11 are learnt from; as many as 19 test where twice as many learn."""
    least = 19 + 3 * 19
    source = put(tmp_path / "in", normal=least - missing)
    _, out, _ = command("start", "cap", str(source), "--dry-run")
    assert ("a measured false-alarm rate needs " + words in out) == bool(missing)
    assert "verdicts" not in out
    (source / "normal/000.png").unlink()
    _, out, _ = command("start", "cap", str(source), "--dry-run")
    assert ("false-alarm budget of 0.05 need 1 more normal image\n" in out) == (missing == 46)


@pytest.mark.slow
def test_images_of_one_piece_are_counted_as_a_group(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for piece in range(40):
        put(source, **{f"normal__{piece:02}": 3})
    before = LOADED.read_bytes()
    for group, message in (
        ("z", "`z` finds no group in the path of 120"),
        ("(", "where:    --group"),
    ):
        code, _, stderr = command("start", "cap", str(source), "--group", group)
        assert (code, message in stderr, LOADED.read_bytes()) == (2, True, before)
    code, out, _ = command("start", "cap", str(source), "--group", "/([0-9]+)/")
    assert (code, "  groups     40 of normal images\n" in out) == (0, True)
    assert "a measured false-alarm rate needs 36 more normal groups\n" in out
    assert load()["tasks"]["cap"]["group"] == "/([0-9]+)/"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("is_url", [False, True])
def test_an_archive_is_looked_at_without_unpacking_it(
    command: Command, tmp_path: Path, kind: str, is_url: bool
) -> None:
    mvtec(tmp_path / "in/cap")
    file = Path(shutil.make_archive(str(tmp_path / "caps"), kind, tmp_path / "in"))
    location = file.as_uri() if is_url else str(file)
    for words in (["start", "cap", location], add_words(location, layout="mvtec_ad")):
        shutil.copyfile(SHIPPED, LOADED)
        code, out, _ = command(*words)
        assert code == 0
        assert f"the layout `mvtec_ad`, category cap, of {location}" in out
        assert "anomalous  4 to test with: 1 crack, 3 hole" in out
        assert "masks      3 of 4" in out
    shutil.copyfile(SHIPPED, LOADED)
    code, _, stderr = command(*add_words(location, category="cups", layout="mvtec_ad"))
    assert (code, f"where:    {location}\n" in stderr) == (3, True)
    assert LOADED.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.slow
def test_a_table_in_an_archive_is_read_and_no_image_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "in", a=12, b=2)
    rows = [f"a/{i:03}.png,normal" for i in range(12)] + ["b/001.png,anomalous"]
    (tmp_path / "in/manifest.csv").write_text("\n".join(["image_path,label", *rows]))
    file = shutil.make_archive(str(tmp_path / "caps"), "gztar", tmp_path / "in")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    code, out, _ = command("start", "cap", file)
    assert (code, "normal     12 to learn from" in out) == (0, True)
    assert "not in manifest: b/000.png" in out
    assert [*(tmp_path / "temporary").iterdir()] == []


@pytest.mark.slow
def test_what_only_a_fetch_can_show_is_said(command: Command, tmp_path: Path) -> None:
    file = Path(shutil.make_archive(str(tmp_path / "caps"), "zip", mvtec(tmp_path / "in")))
    Path("caps.urls").write_text(f"{'0' * 64} {file.as_uri()}\n")
    later = "nothing can be known of it before `dvc repro` fetches it"
    code, out, _ = command(*add_words("caps.urls", layout="mvtec_ad"))
    assert (code, f"cap: caps.urls: {later}" in out) == (0, True)
    code, out, _ = command("start", "cup", file.as_uri(), "--dry-run")
    assert (code, later in out, Path(".work").exists()) == (0, True, False)
    code, _, stderr = command("start", "cup", "caps.urls")
    assert (code, "`admodels task add --dataset`" in stderr) == (2, True)


@pytest.mark.slow
def test_start_trains_one_method_on_one_task_and_nothing_else(
    command: Command, tmp_path: Path
) -> None:
    source = put(tmp_path / "good bottles, öl", **{"": 40})
    code, out, stderr = command("start", "bottle", str(source))
    assert (code, stderr) == (0, "")
    assert out.splitlines() == [
        f"bottle: the layout `folder`, category bottle, of {source}",
        "  normal     40 to learn from",
        "  anomalous  0",
        "  files      used 40 of 40 files",
        "  too few    a measured false-alarm rate needs 36 more normal images",
        f"tasks.bottle is in params.yaml, pinned to {pin('bottle')[:12]}",
        "licence of the images: not stated, and every bundle and report says so; "
        "`--licence` states it",
        "run: patchcore on bottle, and nothing else; folders of sample tasks removed: "
        "sample_brick_line",
        "methods.patchcore: the values of presets/cpu.yaml",
        "kind: object; for a surface such as cloth or leather, run this again with "
        "`--kind texture`",
        "next: dvc repro, then admodels report",
    ]
    check()
    params = load()
    assert params["run"] == {"methods": ["patchcore"], "tasks": ["bottle"]}
    assert params["folders"] == {}
    assert [*params["tasks"]] == ["bottle", "sample_brick", "sample_gravel"]
    kept = load(SHIPPED)
    kept["methods"]["patchcore"] = load(ROOT / "presets/cpu.yaml")["methods"]["patchcore"]
    for key in params.keys() - {"run", "tasks", "folders"}:
        assert params[key] == kept[key]
    comments = re.findall(r"#.*", SHIPPED.read_text(encoding="utf-8"))
    comments.remove("# false-alarm budget")  # of the line
    written = re.findall(r"#.*", LOADED.read_text(encoding="utf-8"))
    assert sorted(written) == sorted(comments)


@pytest.mark.slow
def test_start_again_from_the_same_folder_sets_the_new_values(
    command: Command, tmp_path: Path
) -> None:
    source = put(tmp_path / "in", normal=12)
    command("start", "cap", str(source))
    words = ("--kind", "texture", "--licence", "CC BY-NC 4.0", "--method", "draem")
    code, out, _ = command("start", "cap", f"{source}/", *words)
    assert code == 0
    assert "licence of the images: CC BY-NC 4.0 (NON-COMMERCIAL use only)\n" in out
    assert "kind: texture; for a part with a shape, run this again with `--kind object`\n" in out
    assert load()["tasks"]["cap"]["kind"] == "texture"
    assert load()["run"] == {"methods": ["draem"], "tasks": ["cap"]}
    best = load(ROOT / "presets/cpu.yaml")["methods"]["draem"]
    assert load()["methods"]["draem"] == best
    code, _, stderr = command("start", "cap", str(put(tmp_path / "other", normal=12)))
    assert (code, "tasks.cap exists already" in stderr) == (2, True)
    assert "`admodels task remove cap`" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "crp"], "no method named `crp`; did you mean `cpr`?"),
        (["--kind", "part"], "--kind"),
    ],
)
def test_start_refuses_what_it_does_not_know(
    command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    source = put(tmp_path / "in", normal=12)
    code, _, stderr = command("start", "cap", str(source), *words)
    assert (code, message in stderr) == (2, True)
    assert LOADED.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.slow
def test_a_folder_of_ones_own_is_never_removed_by_the_way(command: Command, tmp_path: Path) -> None:
    source = put(tmp_path / "in", normal=12)
    command("start", "cap", str(source))
    words = "folder add press --folder in --task cap --method patchcore --alpha 0.1"
    assert command(*words.split())[0] == 0
    before = LOADED.read_bytes()
    for words in (
        ["start", "cup", str(source)],
        ["task", "use", "sample_brick"],
        ["start", "cap", str(source), "--method", "draem"],
    ):
        code, _, stderr = command(*words)
        assert code == 2
        assert (
            "folders need a cell that `run` would no longer train (press: patchcore on cap)"
            in stderr
        )
        assert "`admodels folder remove press`" in stderr
        assert LOADED.read_bytes() == before
    assert command("folder", "remove", "press")[0] == 0
    assert command("task", "use", "sample_brick")[0] == 0
    code, _, stderr = command("folder", "remove", "pres")
    assert (code, "no folder named `pres`" in stderr) == (2, True)


@pytest.mark.slow
def test_use_sets_the_tasks_that_run_names(command: Command) -> None:
    assert command("task", "use", "sample_gravel") == (
        0,
        "run.tasks: sample_gravel; folders of sample tasks removed: sample_brick_line\n",
        "",
    )
    assert load()["run"]["tasks"] == ["sample_gravel"]
    assert command("task", "use", "sample_gravel", "sample_brick", "sample_gravel")[0] == 0
    assert load()["run"]["tasks"] == ["sample_gravel", "sample_brick"]
    code, _, stderr = command("task", "use", "sample_brik")
    assert (code, "did you mean `sample_brick`?" in stderr) == (2, True)


@pytest.mark.slow
def test_remove_takes_a_task_out_only_where_nothing_needs_it(command: Command) -> None:
    code, _, stderr = command("task", "remove", "sample_gravel")
    assert code == 2
    assert "run.tasks names `sample_gravel`" in stderr
    assert "`admodels task remove sample_gravel --from-run`" in stderr
    assert command("task", "remove", "sample_gravel", "--from-run")[0] == 0
    assert [*load()["tasks"]] == load()["run"]["tasks"] == ["sample_brick"]
    code, _, stderr = command("task", "remove", "sample_brick", "--from-run")
    assert (code, "run.tasks names only `sample_brick`" in stderr) == (2, True)
    code, _, stderr = command("task", "remove", "sample_gravel")
    assert (code, "no task named `sample_gravel`" in stderr) == (2, True)


@pytest.mark.slow
def test_list_and_show_say_what_the_tasks_are(command: Command, tmp_path: Path) -> None:
    source = put(tmp_path / "in", normal=12, dent=2)
    command(*add_words(source, "--no-run", "--licence", "ours"))
    code, out, _ = command("task", "list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["run", "name", "layout", "category", "kind", "licence", "source"],
        ["no", "cap", "folder", "cap", "object", "ours", str(source)],
        ["yes", "sample_brick", "sample", "brick", "texture", "CC0-1.0", "scikit-image/brick.png"],
        [
            "yes",
            "sample_gravel",
            "sample",
            "gravel",
            "texture",
            "CC0-1.0",
            "scikit-image/gravel.png",
        ],
    ]
    expected = [
        "cap: the layout `folder`, category cap, kind object",
        f"source: path {source}, pinned to {pin('cap')[:12]}",
        "licence of the images: ours",
        "trained: no; folders: none",
    ]
    code, out, _ = command("task", "show", "cap")
    assert code == 0
    assert out.splitlines() == [*expected, "images: not fetched yet: `dvc repro fetch@cap`"]
    shutil.copytree(source, "data/raw/cap")
    assert command("task", "show", "cap")[1].splitlines() == [
        *expected,
        "images, in data/raw/cap:",
        "  normal     12 to learn from",
        "  anomalous  2 to test with: 2 dent",
        "  masks      0 of 2 anomalous images have one",
        "  files      used 14 of 14 files",
    ]
    code, out, _ = command("task", "show", "sample_brick")
    assert "trained: draem, cpr, diffusionad; folders: sample_brick_line" in out
    code, _, stderr = command("task", "show", "cup")
    assert (code, "no task named `cup`; did you mean `cap`?" in stderr) == (2, True)


@pytest.mark.slow
def test_a_task_can_be_added_without_running_it_and_with_its_textures(
    command: Command, tmp_path: Path
) -> None:
    source, textures = put(tmp_path / "in", normal=12), put(tmp_path / "dtd", banded=3)
    assert command(*add_words(source, "--no-run", "--textures", str(textures)))[0] == 0
    assert load()["run"]["tasks"] == ["sample_brick", "sample_gravel"]
    assert load()["textures"]["location"] == str(textures)
    assert load()["textures"]["kind"] == "path"
    assert command("textures", "packaged")[0] == 0
    assert load()["textures"] == load(SHIPPED)["textures"]


def test_an_official_release_whose_hash_is_known_is_added_without_a_download(
    command: Command,
) -> None:
    code, out, _ = command(*add_words("official", category="bottle", layout="mvtec_ad"))
    assert code == 0
    assert "licence of the images: CC BY-NC-SA 4.0 (NON-COMMERCIAL use only)" in out
    assert "nothing can be known of it before `dvc repro` fetches it" in out
    block = load()["tasks"]["cap"]
    assert block["licence"] == "CC BY-NC-SA 4.0"
    assert block["source"]["sha256"] == mvtec_ad.OFFICIAL.sha256
    assert [block["source"]["location"], *block["source"]["mirrors"]] == [*mvtec_ad.OFFICIAL.urls]
    assert not Path(".work/downloads").exists()


@pytest.mark.slow
def test_mirrors_are_kept_by_a_refresh(command: Command, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "x"), "zip", put(tmp_path / "in", normal=12))
    urls = (Path(tmp_path / "gone.zip").as_uri(), Path(archive).as_uri())
    assert command(*add_words(urls[0], "--mirror", urls[1]))[0] == 0
    before = load()["tasks"]["cap"]["source"]
    assert (before["location"], before["mirrors"]) == (urls[0], [urls[1]])
    assert command("task", "refresh", "cap")[1] == "tasks.cap is unchanged\n"
    assert load()["tasks"]["cap"]["source"] == before


@pytest.mark.slow
def test_a_refresh_pins_anew_only_what_changed_and_can_still_train(
    command: Command, tmp_path: Path
) -> None:
    source = put(tmp_path / "in", normal=12)
    command(*add_words(source))
    before = pin("cap")
    assert command("task", "refresh", "cap") == (0, "tasks.cap is unchanged\n", "")
    (source / "normal/000.png").unlink()
    code, out, _ = command("task", "refresh", "cap")
    assert (code, "normal     11 to learn from" in out, pin("cap") == before) == (0, True, False)
    before = pin("cap")
    (source / "normal/001.png").unlink()
    code, _, stderr = command("task", "refresh", "cap")
    assert (code, "10 normal images" in stderr, pin("cap") == before) == (3, True, True)
