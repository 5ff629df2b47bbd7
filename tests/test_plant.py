"""The plant folder: plant.yaml, its editing, what `plant check` says, older versions taken over."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.nights import readiness
from admodels.nights.deploy import deployments
from admodels.nights.founding import make_plant, take_over
from admodels.nights.plant import Expect, read_plant, with_environment
from admodels.nights.run import Options, nightly
from tests import cards, plants

OLD = Path(__file__).parent / "old/b9432c6"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def admodels(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`admodels WORDS` for the plant `plant` in a folder of its own: code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADMODELS_PLANT", "plant")
    return cli


def written(folder: Path, **content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = json.dumps({"schema": 1, "timezone": "UTC"} | content)
    (folder / "plant.yaml").write_text(text, encoding="utf-8")
    return folder


def test_a_plant_has_a_calendar_of_its_zone_and_its_hour(tmp_path: Path) -> None:
    calendar = read_plant(written(tmp_path, timezone="Asia/Tokyo", day_ends="22:30")).calendar
    assert (calendar.timezone, calendar.day_ends) == (ZoneInfo("Asia/Tokyo"), time(22, 30))
    assert read_plant(written(tmp_path)).calendar.day_ends == time(6)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"timezone": "Europe/Atlantis"}, "no time zone of this name"),
        ({"timezone": "../../etc/passwd"}, "no time zone of this name"),
        ({"day_ends": "24:00"}, "day_ends"),
        ({"day_ends": 21600}, "day_ends"),
        ({"schema": 2}, "schema"),
        ({"models": "data/models"}, "models: Extra inputs"),
        ({"page_url": "https://me:secret@host/pages"}, "write ${NAME} for it"),
        ({"lines": {"a": {"folder": "in", "alpha": 0.1, "method": "draem"}}}, "lines.a.method"),
        ({"lines": {"a": {"folder": "in", "alpha": 1.0}}}, "lines.a.alpha"),
        ({"lines": {"a": {"folder": "in", "alpha": 0.1, "verdicts": "all"}}}, "lines.a.verdicts"),
        ({"lines": {"a b": {"folder": "in", "alpha": 0.1}}}, "no valid name"),
    ],
)
def test_what_a_night_would_stumble_over_is_refused_by_its_key(
    tmp_path: Path, content: dict[str, object], fault: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read_plant(written(tmp_path, **content))
    assert fault in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert str(tmp_path / "plant.yaml") in str(refusal.value)


@pytest.mark.parametrize(
    ("days", "numbers"),
    [("mon-fri", {0, 1, 2, 3, 4}), ("sat-mon", {5, 6, 0}), ("tue,thu", {1, 3}), ("sun", {6})],
)
def test_the_days_of_a_line_are_days_of_the_week(days: str, numbers: set[int]) -> None:
    text = json.dumps({"images": [1, 9], "days": days, "except": ["2026-12-24"]})
    expect = Expect.model_validate_json(text, strict=True)
    assert (expect.weekdays, expect.but) == (numbers, (date(2026, 12, 24),))
    with pytest.raises(ValueError, match="before the most"):
        Expect.model_validate_json(text.replace("[1, 9]", "[9, 1]"), strict=True)


def test_a_value_of_the_environment_takes_the_place_of_its_name(monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cr3t")
    monkeypatch.delenv("ABSENT", raising=False)
    assert with_environment("https://${TOKEN}@host/$x", "page_url") == "https://s3cr3t@host/$x"
    with pytest.raises(ConfigurationError) as refusal:
        with_environment("${TOKEN}${ABSENT}", "page_url")
    assert "ABSENT is not set" in str(refusal.value)
    assert "s3cr3t" not in str(refusal.value)


def test_lines_are_edited_in_place_and_comments_stay(admodels: Run) -> None:
    assert admodels("plant", "init", "plant", "--timezone", "Europe/Berlin")[0] == 0
    path = Path("plant/plant.yaml")
    path.chmod(0o640)
    add = ("line", "add", "press", "--folder", "in", "--alpha", "0.05", "--page", "0")
    code, out, _ = admodels(*add, "--exclude", "*.bak", "--exclude", "tmp")
    assert (code, "with 259 the false-alarm rate of one stays between" in out) == (0, True)
    admodels("line", "add", "weld", "--folder", "/w", "--alpha", "0.1")
    assert admodels("line", "pause", "press", "--until", "2026-12-24")[0] == 0
    plant = read_plant(Path("plant"))
    press = plant.lines["press"]
    assert (press.exclude, press.page, press.paused_until) == (
        ("*.bak", "tmp"),
        0,
        date(2026, 12, 24),
    )
    assert plant.inbox("press") == Path("in").absolute()
    text = path.read_text(encoding="utf-8")
    assert "# a night is named by the date on which it ends" in text
    assert path.stat().st_mode & 0o777 == 0o640
    assert "press  0.05   none: `admodels deploy`" in admodels("line", "list")[1]
    assert "paused_until: 2026-12-24" in admodels("line", "show", "press")[1]
    assert admodels("line", "remove", "press")[0] == 0
    assert list(read_plant(Path("plant")).lines) == ["weld"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("line add weld --folder in --alpha 2", "lines.weld.alpha"),
        ("line add Press --folder in --alpha 0.1", "share a folder"),
        ("line add press --folder in --alpha 0.1", "lines.press exists already"),
        ("line add weld --folder . --alpha 0.1", "the plant stands inside the inbox"),
        ("line add weld --folder= --alpha 0.1", "`--folder` is empty"),
        ("line remove weld", "no line named `weld`"),
        ("line pause weld --until 2026-12-24", "no line named `weld`"),
        ("deploy weld models", "no line named `weld`"),
        ("deploy press", "neither a bundle nor --undo"),
        ("deploy press --undo", "no deployment before"),
        ("plant init plant --timezone UTC", "something already"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_changes_nothing(
    admodels: Run, words: str, fault: str
) -> None:
    written(Path("plant"), lines={"press": {"folder": "in", "alpha": 0.1}})
    before = Path("plant/plant.yaml").read_bytes()
    code, _, stderr = admodels(*words.split())
    assert (code, fault in stderr) == (2, True), stderr
    assert Path("plant/plant.yaml").read_bytes() == before
    assert not Path("plant/deployments.jsonl").exists()


RUN_TIME = "nightly|calibrate press in|rejudge press|feedback x.csv|collect press x|page"


@pytest.mark.parametrize("words", [*RUN_TIME.split("|"), "deploy press x", "line list"])
def test_no_folder_is_taken_for_a_plant_unless_it_is_named(
    admodels: Run, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    written(Path())
    monkeypatch.delenv("ADMODELS_PLANT")
    code, _, stderr = admodels(*words.split())
    assert (code, "no plant is named" in stderr, "ADMODELS_PLANT" in stderr) == (2, True, True)
    assert sorted(path.name for path in Path().iterdir()) == ["plant.yaml"]


def test_a_plant_in_a_git_work_tree_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(ConfigurationError, match="git work tree"):
        make_plant(tmp_path / "deep/plant", "UTC")
    assert not (tmp_path / "deep").exists()
    make_plant(tmp_path / "deep/plant", "UTC", here=True)
    assert f"stands in the git work tree {tmp_path}" in "".join(
        readiness.warnings(read_plant(tmp_path / "deep/plant"))
    )


def test_a_night_without_lines_is_no_night_without_faults(admodels: Run) -> None:
    written(Path("plant"))
    code, out, stderr = admodels("nightly")
    assert (code, out, "the plant has no line" in stderr) == (2, "", True)


def said(plant: Path) -> str:
    return "\n".join(readiness.warnings(read_plant(plant)))


def test_the_check_names_all_that_is_not_ready(tmp_path: Path, monkeypatch) -> None:
    cards.save_draem(tmp_path / "models/draem/stripes")
    place = tmp_path / "plant"
    lines = {
        "gone": plants.line("/nowhere"),
        "inside": plants.line(place / "in", bundle="none/none"),
        "greedy": plants.line(tmp_path / "in", alpha=0.01),
    }
    (tmp_path / "in").mkdir()
    plants.write_plant(place, lines, tmp_path / "models", page_url="https://${NO_SUCH_NAME}/")
    (place / "in").mkdir()
    (place / "plant.yaml").chmod(0o666)
    monkeypatch.setattr(readiness, "ROOM_BYTES", 1 << 62)
    text = said(place)
    for fault in (
        "gone: the inbox /nowhere is missing",
        "inside: the inbox",
        "stands inside the plant",
        "inside: no bundle is deployed yet: `admodels deploy inside BUNDLE`",
        "greedy: no verdicts: 90 more normal images are needed to hold alpha 0.01",
        "everybody may write to",
        "GiB are free",
        "page_url: NO_SUCH_NAME is not set",
        "no look in the last 3 nights",
    ):
        assert fault in text
    assert "gone: no verdicts" not in text


@pytest.mark.parametrize(
    ("minutes", "is_warned"), [((5,), False), ((600,), True), ((-30, 5), False), ((-30,), True)]
)
def test_the_check_says_where_no_look_followed_the_end_of_a_day(
    tmp_path: Path, minutes: tuple[int, ...], is_warned: bool
) -> None:
    place, calendar = written(tmp_path), read_plant(written(tmp_path)).calendar
    last = calendar.night_of(datetime.now(UTC))
    number = 0
    for day in range(6, 0, -1):
        for minute in minutes:
            start = calendar.end_of(last - timedelta(days=day)) + timedelta(minutes=minute)
            number += 1
            run = {"run": f"{number:06d}", "exit_code": 0, "started": start.isoformat()}
            path = place / f"ledger/runs/{number:06d}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(run | {"seconds": 60, "host": "here", "lines": {}}))
    count = said(place).count("let a timer fire 5 minutes after 06:00 UTC")
    assert count == (readiness.NIGHTS_ASKED if is_warned else 0)


@pytest.mark.slow
def test_lines_bundles_and_ledger_of_an_older_version_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    monkeypatch.chdir(old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    place = tmp_path / "plant"
    assert take_over(place, "UTC", Path("lines.yaml"), Path("ledger"), Path("models")) == []
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    for path in (old / "ledger/scores").rglob("*.parquet"):
        assert (place / path.relative_to(old)).read_bytes() == path.read_bytes()
    assert (place / "feedback").is_dir()
    plant = read_plant(place)
    assert (plant.lines["forge"].tile.tile_px, plant.lines["press"].fdr) == (32, 0.2)
    assert plant.inbox("weld") == old / "inbox"
    held = deployments(place)
    assert held["press"][-1].origin == str(old / "models/draem/stripes")
    assert held["press"][-1].bundle == held["forge"][-1].bundle != held["weld"][-1].bundle
    monkeypatch.chdir(tmp_path)
    report = nightly(place, Options(0.0, pictures=0))["lines"]
    assert {name: line["images"] for name, line in report.items()} == dict.fromkeys(report, 0)


@pytest.mark.parametrize("is_there", [False, True])
def test_nothing_is_taken_over_where_a_bundle_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    monkeypatch.chdir(OLD)
    place = tmp_path / "plant"
    if is_there:
        place.mkdir()
    with pytest.raises(BundleError):
        take_over(place, "UTC", Path("lines.yaml"), None, tmp_path)
    assert not list(tmp_path.rglob("plant/*"))
    assert place.exists() is is_there


def test_a_plant_is_made_in_an_empty_folder_as_it_is(tmp_path: Path) -> None:
    before = tmp_path.stat().st_ino
    make_plant(tmp_path, "Europe/Berlin")
    assert tmp_path.stat().st_ino == before
    assert read_plant(tmp_path).timezone == "Europe/Berlin"


@pytest.mark.parametrize("rows", ["", "press,a.png,\n"])
def test_a_table_without_a_verdict_is_said_to_have_none(admodels: Run, rows: str) -> None:
    written(Path("plant"), lines={"press": {"folder": "in", "alpha": 0.1}})
    Path("marks.csv").write_text("line,path,verdict\n" + rows, encoding="utf-8")
    assert admodels("feedback", "marks.csv")[:2] == (
        0,
        "no row of marks.csv has a verdict (fine, defect or unsure): nothing is kept\n",
    )


def test_an_empty_plant_file_is_not_taken_for_params(admodels: Run) -> None:
    written(Path("plant")).joinpath("plant.yaml").write_bytes(b"")
    code, _, err = admodels("nightly")
    assert (code, "plant.yaml is not a mapping" in err) == (2, True)
    assert "presets" not in err
    assert "correct plant/plant.yaml, then run this again" in err
