import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from admodels.cli import editing
from admodels.cli.check import check, problems
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import load

ROOT = Path(__file__).parents[1]
PRESETS = ("quick", "cpu", "official")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml"))


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def test_the_shipped_params_are_good() -> None:
    assert problems(load(ROOT / "params.yaml")) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("seed: 7", "seed: seven", "seed: Input should be a valid integer"),
        ("seed: 7", "seed: 7\nseeed: 8", "seeed: no such root key"),
        ("\ntextures: {", "\nassets:\n  textures: {", "write what stands below `assets.textures`"),
        ("seed: 7", "", "seed: this root key is missing"),
        ("  min_normal_images: 11", "  min_normal_images: 3", "split.min_normal_images: "),
        ("  mask_px: ", "  mask_px: 1.5  # ", "evaluate.mask_px: Input should be a valid integer"),
        ("    dataset: sample", "    dataset: samples", "tasks.sample_brick.dataset: no `samples`"),
        ("    category: brick", "    kategory: brick", "tasks.sample_brick.kategory: Extra inputs"),
        (
            "methods: [draem, cpr, diffusionad]",
            "methods: [dream, cpr, diffusionad]",
            "run.methods: there is no block `methods.dream`",
        ),
        (
            "methods: [draem, cpr, diffusionad]",
            "methods: [draem, draem]",
            "run.methods: `draem` is named twice",
        ),
        ("methods: [draem, cpr, diffusionad]", "methods: []", "run.methods: "),
        ("tasks: [sample_brick,", "tasks: [bottle,", "run.tasks: there is no block `tasks.bottle`"),
        ("  draem:\n", "  dream:\n", "methods.dream: Extra inputs are not permitted"),
        ("    reconstructive_width:", "    width:", "methods.draem.width: Extra inputs"),
        ("  sample_brick_line:", "  press-3:", "folders.press-3: a name is lower-case letters"),
        ("    task: sample_brick", "    task: brick", "folders.sample_brick_line: `run` trains no"),
        (
            "{kind: sample, loc",
            "{kind: path, loc",
            "tasks.sample_brick.source.kind: dataset `sample`",
        ),
        (
            "dataset: sample",
            "dataset: mvtec_ad",
            "tasks.sample_brick.source.kind: dataset `mvtec_ad`",
        ),
        ("  sample_gravel:", "  mean:", "tasks.mean: the report uses this name"),
    ],
)
def test_what_a_stage_would_stumble_over_is_named_with_its_key(
    copied: Path, old: str, new: str, complaint: str
) -> None:
    text = copied.read_text(encoding="utf-8")
    assert old in text
    copied.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        check(copied)


def test_an_image_side_that_a_network_cannot_halve_is_refused(copied: Path) -> None:
    content = load(copied)
    content["methods"]["draem"]["image_px"] = 100
    assert problems(content) == [
        "methods.draem.image_px: Input should be a multiple of 32",
    ]


def test_every_problem_is_told_at_once(copied: Path) -> None:
    content = load(copied)
    content["seed"] = -1
    content["split"]["extra"] = 1
    del content["evaluate"]
    assert [p.split(":")[0] for p in problems(content)] == ["evaluate", "seed", "split.extra"]


def test_the_quick_preset_is_what_params_ship_with() -> None:
    shipped = dict(leaves(load(ROOT / "params.yaml")))
    preset = dict(leaves(load(ROOT / "presets/quick.yaml")))
    assert len(preset) > 100
    assert {path: shipped.get(path) for path in preset} == preset


def test_the_presets_have_the_same_keys() -> None:
    names = [[path for path, _ in leaves(load(ROOT / f"presets/{p}.yaml"))] for p in PRESETS]
    assert names[0] == names[1] == names[2]


def comments(path: Path) -> list[str]:
    return re.findall(r"#.*", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_its_own_values_and_keeps_every_comment(copied: Path, name: str) -> None:
    before = dict(leaves(load(copied)))
    editing.preset(name, copied, ROOT / "presets")
    preset = dict(leaves(load(ROOT / f"presets/{name}.yaml")))
    assert dict(leaves(load(copied))) == before | preset
    assert comments(copied) == comments(ROOT / "params.yaml")


@pytest.mark.slow
def test_going_to_a_preset_and_back_gives_the_same_bytes(copied: Path) -> None:
    before = copied.read_bytes()
    editing.preset("official", copied, ROOT / "presets")
    assert copied.read_bytes() != before
    editing.preset("quick", copied, ROOT / "presets")
    assert copied.read_bytes() == before


def test_an_unknown_preset_is_refused_and_the_known_ones_are_named(copied: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cpu, official, quick"):
        editing.preset("fast", copied, ROOT / "presets")


def line(**changes: Any) -> dict[str, Any]:
    block = {"folder": "in", "task": "sample_brick", "method": "draem", "alpha": 0.1}
    return block | changes


def test_an_added_block_changes_no_other_line_of_the_file(copied: Path) -> None:
    before = copied.read_text(encoding="utf-8").splitlines()
    task = load(copied)["tasks"]["sample_brick"]
    with editing.edit_params(copied) as document:
        editing.add(document, "tasks", "bricks", task)
        editing.add(document, "folders", "press_3", line())
    after = copied.read_text(encoding="utf-8").splitlines()
    for root, name, added in (("tasks", "bricks", 5), ("folders", "press_3", 4)):
        at = after.index(f"  {name}:")
        assert after[at - 1] == f"{root}:"
        assert all(row.startswith("    ") and "#" not in row for row in after[at + 1 :][:added])
        del after[at : at + added + 1]
    assert after == before
    assert load(copied)["tasks"]["bricks"] == task
    assert load(copied)["folders"]["press_3"] == line()


@pytest.mark.slow
def test_a_block_can_be_added_where_there_was_none(copied: Path) -> None:
    with editing.edit_params(copied) as document:
        document["folders"] = {}
    with editing.edit_params(copied) as document:
        editing.add(document, "folders", "press_3", line())
    assert load(copied)["folders"] == {"press_3": line()}
    assert "\n  press_3:\n    folder: in\n" in copied.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_block_added_and_removed_leaves_the_same_bytes(copied: Path) -> None:
    before = copied.read_bytes()
    with editing.edit_params(copied) as document:
        editing.add(document, "folders", "press_3", line())
    with editing.edit_params(copied, without=[("folders", "press_3")]):
        pass
    assert copied.read_bytes() == before


@pytest.mark.parametrize("task", ["sample_brick", "sample_gravel"])
def test_removing_the_last_block_of_a_root_keeps_every_comment(copied: Path, task: str) -> None:
    text = copied.read_text(encoding="utf-8")
    other = "    # what follows the last line\n\n# the end\n"
    copied.write_text(text + other, encoding="utf-8")
    kept = [comment for comment in comments(copied) if comment != "# false-alarm budget"]
    with editing.edit_params(
        copied, without=[("folders", "sample_brick_line"), ("tasks", task)]
    ) as d:
        d["run"]["tasks"].remove(task)
    content = load(copied)
    assert (task in content["tasks"], len(content["tasks"]), content["folders"]) == (False, 1, {})
    assert [c for c in comments(copied) if c != "# false-alarm budget"] == kept
    assert copied.read_text(encoding="utf-8").endswith("\nfolders: {}\n" + other)


def test_a_block_is_removed_from_a_root_on_one_line(copied: Path) -> None:
    text = copied.read_text(encoding="utf-8")
    block = "{folder: x, task: sample_brick, method: cpr, alpha: 0.1}"
    start = text.index("folders:\n")
    copied.write_text(f"{text[:start]}folders: {{a: {block}, b: {block}}}\n", encoding="utf-8")
    with editing.edit_params(copied, without=[("folders", "a")]):
        pass
    assert copied.read_text(encoding="utf-8") == f"{text[:start]}folders: {{b: {block}}}\n"


def test_an_edit_that_would_not_pass_the_check_is_not_written(copied: Path) -> None:
    before = copied.read_bytes()
    with pytest.raises(ConfigurationError, match="trains no draem on glass"):  # noqa: SIM117
        with editing.edit_params(copied) as document:
            editing.add(document, "folders", "press_3", line(task="glass"))
    assert copied.read_bytes() == before
    assert [p.name for p in copied.parent.iterdir()] == ["params.yaml"]


def test_a_name_that_is_taken_is_refused(copied: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists already"):  # noqa: SIM117
        with editing.edit_params(copied) as document:
            editing.add(document, "folders", "sample_brick_line", line())


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check(tmp_path / "params.yaml")


@pytest.mark.slow
def test_the_check_loads_nothing_heavy() -> None:
    code = (
        "import sys; from admodels.cli.check import check; check();"
        "slow = {'torch', 'torchvision', 'pandas', 'mlflow', 'great_expectations', 'skimage',"
        " 'sklearn', 'scipy', 'pyarrow', 'dvc', 'ray', 'matplotlib'};"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_declared_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {canonical(re.split(r"[<>=\[]", package)[0]) for package in declared}
    names.remove(project["name"])  # an extra may name another extra
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==[\w.]+", line) for line in lines if not line.startswith("#")]
    assert names <= {canonical(pin[1]) for pin in pins if pin}
    assert all(pins)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
