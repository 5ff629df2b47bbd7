"""Many lines in one night: isolation, one summary, one exit code, signals, verdicts."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest

from admodels.cli import app
from admodels.foundation.errors import ConfigurationError, SourceError
from admodels.images import decode
from admodels.inference import model
from admodels.nights import run as nights
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.history import NightSummary, last
from admodels.nights.limits import Limit
from admodels.nights.pictures import pointing_of
from admodels.nights.plant import PlantLine
from admodels.nights.run import Options
from admodels.scoring import engine
from admodels.scoring.engine import LineImages, Model, local, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.rows import Read
from admodels.scoring.stopping import Stop
from tests import cards, tiny
from tests.plants import Lines, line, night, write_plant

ROOT = Path(__file__).parents[1]
KEY = ["line", "path", "image_sha256", "model_fingerprint", "contract_fingerprint"]


def draw(folder: Path, count: int, seed: int = 3) -> None:
    for at, pixels in enumerate(tiny.stripes(count, seed)):
        decode.write_png(folder / f"{at:04d}.png", pixels.transpose(1, 2, 0))


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lines with six images each, one bundle."""
    cards.save_draem(tmp_path / "models" / "draem" / "stripes")
    draw(tmp_path / "press", 6)
    draw(tmp_path / "weld", 6, seed=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(lines: Lines, *limits: str, settle_seconds: float = 0.0) -> dict[str, object]:
    asked = [Limit.of(text) for text in limits]
    return night(lines, options=Options(settle_seconds, limits=asked))


def table(name: str) -> pd.DataFrame:
    return pd.read_parquet(Path("ledger") / name).sort_values(KEY).reset_index(drop=True)


@pytest.mark.slow
def test_one_night_scores_all_lines_into_one_ledger(plant: Path) -> None:
    told = run({"press": line("press"), "weld": line("weld")})
    assert told["exit_code"] == 0
    assert list(told["lines"]) == ["press", "weld"]
    scores, verdicts = table("scores"), table("verdicts")
    assert scores["line"].value_counts().to_dict() == {"press": 6, "weld": 6}
    assert verdicts[KEY].equals(scores[KEY])
    assert verdicts["is_anomalous"].notna().all()
    press = told["lines"]["press"]
    flagged = verdicts.query("line == 'press'")["is_anomalous"].sum()
    assert (press["flagged"], press["expected_false_alarms"]) == (flagged, 1.2)
    kept = json.loads((plant / "ledger/runs/000001.json").read_text(encoding="utf-8"))
    assert kept == told
    night = last(Path("ledger"))  # as an alert and the dead-man check read it
    assert night == NightSummary.of(json.dumps(told))
    assert (night.page, night.page_faults) == (f"{plant}/ledger/pages/000001.html", [])


def plain(found: pd.DataFrame) -> pd.DataFrame:
    """With one kind of null."""
    return found.astype(object).where(found.notna(), None)


@pytest.mark.slow
def test_duckdb_reads_and_joins_both_tables_as_pandas_does(plant: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    (plant / "press/a, b.png").write_bytes(b"bad")
    run({"press": line("press"), "weld": line("weld")})
    scores, verdicts = "'ledger/scores/**/*.parquet'", "'ledger/verdicts/*/*/*.parquet'"
    query = f"""SELECT * FROM {scores} NATURAL JOIN {verdicts} ORDER BY {", ".join(KEY)}"""
    found = duckdb.sql(query).df()
    expected = table("scores").merge(table("verdicts"), on=KEY)
    assert len(found) == 13
    pd.testing.assert_frame_equal(plain(found), plain(expected))
    worst = duckdb.sql(f"SELECT line, max(anomaly_score) FROM {scores} GROUP BY ALL").fetchall()
    assert dict(worst) == table("scores").groupby("line")["anomaly_score"].max().to_dict()


@pytest.mark.slow
def test_the_second_night_counts_only_its_own(plant: Path) -> None:
    run({"press": line("press")})
    draw(plant / "press" / "late", 2, seed=9)
    press = run({"press": line("press")})["lines"]["press"]
    assert (press["found"], press["old"], press["images"]) == (8, 6, 2)
    assert press["expected_false_alarms"] == 0.4
    assert press["flagged"] <= 2
    assert len(table("verdicts")) == 8


@pytest.mark.slow
def test_a_line_that_fails_costs_the_others_nothing(plant: Path) -> None:
    lines = {
        "gone": line("no_such_folder"),
        "refused": line("x" * 300, pattern="*.png"),  # the system says no, as for a stale mount
        "untrained": line("press", bundle="draem/other"),
        "weld": line("weld"),
    }
    told = run(lines)
    codes = {name: found["exit_code"] for name, found in told["lines"].items()}
    assert codes == {"gone": 2, "refused": 2, "untrained": 4, "weld": 0}
    assert told["exit_code"] == 4
    assert "no folder to score" in told["lines"]["gone"]["told"][0]
    assert len(table("scores")) == 6


def test_a_bug_on_one_line_is_reported_and_kept_to_it(plant: Path, monkeypatch) -> None:

    inner = model.statistics

    def broken(rgb):
        if rgb.shape[0] == 65:
            raise ZeroDivisionError("a bug")
        return inner(rgb)

    monkeypatch.setattr(model, "statistics", broken)
    cards.card(plant / "press" / "odd.png", 50, side=65)
    told = run({"press": line("press"), "weld": line("weld")})
    assert (told["exit_code"], told["lines"]["weld"]["exit_code"]) == (1, 0)
    assert told["lines"]["press"]["told"] == ["ZeroDivisionError: a bug"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "code"),
    [("unreadable>20%", 5), ("unreadable > 25%", 0), ("unreadable>1", 5), ("flagged>99%", 0)],
)
def test_the_limits_decide_about_the_exit_code(plant: Path, limit: str, code: int) -> None:
    for name in ("a.png", "b.png"):
        (plant / "press" / name).write_bytes(b"bad")
    (plant / "press" / "notes.txt").write_bytes(b"no image, and none expected")
    told = run({"press": line("press")}, limit)
    assert told["exit_code"] == code
    press = told["lines"]["press"]
    assert (press["images"], press["unreadable"]) == (8, 2)
    assert press["told"] == ([f"more than allowed: {Limit.of(limit)}"] if code else [])
    assert run({"press": line("press")}, limit)["exit_code"] == 0  # they are no news


@pytest.mark.parametrize("text", ["unreadable", "lost>2%", "unreadable>x", "unreadable>-1"])
def test_a_limit_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no limit"):
        Limit.of(text)


@pytest.mark.slow
def test_files_that_no_line_claims_are_counted(plant: Path) -> None:
    draw(plant / "hall/cam1", 2)
    draw(plant / "hall/cam2", 3)
    lines = {"cam1": line("hall", pattern="cam1/*"), "press": line("press")}
    assert run(lines)["unclaimed"] == 3
    lines["cam2"] = line("hall", pattern="cam2/*")
    assert run(lines)["unclaimed"] == 0
    assert table("scores")["line"].value_counts().to_dict() == {"press": 6, "cam2": 3, "cam1": 2}


def test_unsettled_files_are_counted_and_have_no_row(plant: Path) -> None:
    told = run({"press": line("press")}, settle_seconds=3600)
    assert told["lines"]["press"]["unsettled"] == 6
    assert not list(Path("ledger").rglob("scores/**/*.parquet"))


def test_a_budget_that_cannot_be_held_flags_nothing(plant: Path) -> None:
    told = run({"press": line("press", alpha=0.01)})
    assert told["lines"]["press"]["flagged"] is None
    assert table("verdicts")["is_anomalous"].isna().all()


def admodels(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Exit code and stdout of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["admodels", *words])
    with pytest.raises(SystemExit) as end:
        sys.exit(app.main())
    return int(end.value.code or 0), capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_calibrate_rejudge_and_take_feedback(plant: Path, monkeypatch, capsys) -> None:
    written(plant, press={"folder": "press", "alpha": 0.2})
    run({"press": line("press")})
    draw(plant / "good", 12, seed=7)
    where = ("--plant", ".")
    words = ("calibrate", "press", "good", *where)
    told = (0, "press: 12 images, the smallest alpha is 0.0769\n")
    assert admodels(monkeypatch, capsys, *words) == told
    before = table("verdicts")
    words = ("rejudge", "press", "--alpha", "0.95")
    code, out = admodels(monkeypatch, capsys, *words, *where)
    assert (code, out.splitlines()[-1]) == (0, "a preview: `--why TEXT` keeps it")
    assert table("verdicts").equals(before)
    assert admodels(monkeypatch, capsys, *words, "--night", "2001-01-01", *where)[0] == 2
    code, out = admodels(monkeypatch, capsys, *words, "--why", "more alarms", *where)
    added = table("verdicts").query("judgement == 2")
    flagged_now = set(added.loc[added["is_anomalous"] == True, "path"])  # noqa: E712
    later = len(flagged_now) - before["is_anomalous"].sum()
    assert f"regions of {later} images were made\n" in out
    assert later > 0
    files = ("--coco", "regions.json", "--csv", "regions.csv")
    assert admodels(monkeypatch, capsys, "regions", "export", "press", *files, *where)[0] == 0
    regions, coco = pd.read_csv("regions.csv"), json.loads(Path("regions.json").read_bytes())
    assert {image["file_name"] for image in coco["images"]} == set(regions["path"]) == flagged_now
    boxes = regions[["left", "top", "width", "height"]].to_numpy().tolist()
    assert [region["bbox"] for region in coco["annotations"]] == boxes
    assert regions["is_anomalous"].all()
    assert set(added["alpha"]) == {0.95}
    assert set(added["why"]) == {"more alarms"}
    assert len(table("verdicts")) == 2 * len(before)
    (plant / "said.csv").write_text("line,path,verdict\npress,0001.png,fine\n", encoding="utf-8")
    code, out = admodels(monkeypatch, capsys, "feedback", "said.csv", *where)
    assert code == 0
    assert out == "press: 1 marks are kept; see `admodels promise press`\n"
    code, out = admodels(monkeypatch, capsys, "promise", "press", *where)
    assert (code, out.startswith("press, model ")) == (0, True)  # an audited night, no mark
    assert admodels(monkeypatch, capsys, "calibrate", "weld", "good", *where)[0] == 2


def test_a_folder_that_is_scored_alone_ends_by_the_same_policy(
    plant: Path, monkeypatch, capsys
) -> None:
    (plant / "press/bad.png").write_bytes(b"bad")
    words = ("score", "press", "--bundle", "models/draem/stripes", "--alpha", "0.2", "--out", "out")
    code, out = admodels(monkeypatch, capsys, *words)
    told = json.loads(out.splitlines()[-1])
    assert (code, told["exit_code"], told["unreadable"], told["images"]) == (5, 5, 1, 7)
    code, out = admodels(monkeypatch, capsys, *words, "--fail-if", "unreadable>20%")
    assert (code, json.loads(out.splitlines()[-1])["exit_code"]) == (0, 0)
    assert len(pd.read_parquet("out/scores.parquet")) == 7


# Real processes, as a scheduler starts them.


def written(plant: Path, **lines: dict[str, object]) -> None:
    write_plant(plant, {name: line("") | rest for name, rest in lines.items()})


def command(plant: Path, verb: str, *words: str, **how: object) -> subprocess.Popen[str]:
    code = "import sys; from admodels.cli.app import main; main()"
    options = ["--plant", ".", "--settle-seconds", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ADMODELS_DEVICE": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", code, verb, *options, *words],
        cwd=plant,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, object], str]:
    """Exit code, the summary in the last line, stderr."""
    out, told = process.communicate(timeout=120)
    lines = out.splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, told


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_night_in_order_and_the_next_goes_on(plant: Path, number: int) -> None:
    draw(plant / "many", 250)
    written(plant, many={"folder": "many", "alpha": 0.2}, weld={"folder": "weld", "alpha": 0.2})
    process = command(plant, "nightly")
    while not (plant / "ledger/index.sqlite").exists():
        time.sleep(0.02)
    time.sleep(0.7)
    process.send_signal(number)
    code, told, stderr = ended(process)
    assert (code, told["exit_code"]) == (128 + number, 128 + number), stderr
    kept = len(table("scores")) if list(Path("ledger/scores").rglob("*.parquet")) else 0
    assert kept < 256
    if number == signal.SIGTERM:
        code, told, stderr = ended(command(plant, "nightly"))
        assert code == 0, stderr
        assert told["lines"]["many"]["old"] == kept
        found = table("scores")
        assert (len(found), found["path"].nunique()) == (256, 250)


@pytest.mark.slow
def test_storage_that_is_full_ends_with_its_code_and_the_next_run_goes_on(plant: Path) -> None:
    written(plant, press={"folder": "press", "alpha": 0.2})

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, _, told = ended(command(plant, "nightly", preexec_fn=little_room))
    assert (code, "Traceback" in told) == (74, False), told
    code, _, told = ended(command(plant, "nightly"))
    assert code == 0, told
    assert len(table("scores")) == 6


@pytest.mark.slow
def test_rows_of_a_line_that_failed_are_reported_once_it_has_its_night(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)

    def lost(*words: object) -> Iterator[Read]:
        yield from islice(local(*words), 4)
        raise SourceError("gone", where="cluster", expected="it", next_step="mend it")

    options = Options(0.0, engine=lost)
    lines = {"press": line("press", fdr=0.5, alpha=0.9)}
    first = night(lines, options=options)["lines"]["press"]
    assert (first["exit_code"], first["images"], len(table("scores"))) == (69, 0, 4)
    run({"weld": line("weld")})  # another file of lines meanwhile
    second = run(lines)["lines"]["press"]
    assert (second["runs"], second["images"], second["old"]) == (
        ["000001", "000002", "000003"],
        6,
        4,
    )
    assert second["flagged"] == table("verdicts").query("line == 'press'")["is_anomalous"].sum()
    assert run(lines)["lines"]["press"]["images"] == 0


@pytest.mark.slow
def test_a_night_tells_of_what_a_killed_one_before_it_scored(plant: Path) -> None:
    (plant / "press" / "empty.png").touch()
    own, settings = Model.at(Path("models/draem/stripes")), PlantLine(folder="press", alpha=0.9)
    with open_ledger(Path("ledger")) as ledger:  # and dies before it has told anybody
        kept = ensure_calibration(ledger, "press", own)
        pointing = pointing_of(ledger, "press", settings, own, kept, 500)
        source = LineImages("press", plant / "press", pointing=pointing)
        score_line(ledger, source, own, Stop())
    draw(plant / "press" / "later", 2, seed=9)
    told = run({"press": line("press", alpha=0.9)})
    report = told["lines"]["press"]
    assert report["runs"] == ["000001", "000002"]
    assert report["statuses"] == {"empty": 1, "scored": 8}
    assert (report["images"], report["unreadable"], report["old"]) == (9, 1, 7)
    everything = table("verdicts")["is_anomalous"]
    assert report["flagged"] == everything.sum() > 2
    assert len(list(Path("ledger/overlays/press").glob("*/image.webp"))) >= report["flagged"]
    page = Path("ledger/pages/000002.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("0005.png", "later/0001.png", "empty.png"))
    again = run({"press": line("press", alpha=0.9)})
    assert (again["lines"]["press"]["runs"], again["lines"]["press"]["images"]) == (["000003"], 0)


def test_a_night_that_died_at_its_page_is_reported_by_the_next(plant: Path, monkeypatch) -> None:
    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr(nights.render, "write", killed)
        with pytest.raises(SystemExit):
            run({"press": line("press")})
    report = run({"press": line("press")})["lines"]["press"]
    assert (report["runs"], report["images"], report["old"]) == (["000001", "000002"], 6, 6)
