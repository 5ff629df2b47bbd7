"""Old nights can be removed, and nothing of them is scored again."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from admodels.nights import prune
from admodels.scoring.index import Index
from admodels.scoring.integrity import Check, check
from admodels.scoring.journal import Journal
from admodels.scoring.ledger import open_ledger
from tests.plants import line
from tests.test_check import deeds
from tests.test_nightly import draw, plant, run, table

__all__ = ["plant"]
LEDGER = Path("ledger")
NOW = datetime.now(UTC) + timedelta(hours=1)
LINES = {"press": line("press", alpha=0.9, fdr=0.9)}


@pytest.fixture
def nights(plant: Path) -> Path:
    """Two nights; a picture of each image of the first."""
    run(LINES)
    draw(plant / "press/later", 3, seed=9)
    run(LINES)
    return plant


def pruned(before: datetime = NOW, runs: tuple[str, ...] = ("000001",)) -> None:
    with open_ledger(LEDGER) as ledger:
        found = [night for night in prune.old_nights(ledger, before) if night.run in runs]
        assert [night.run for night in found] == [*runs]
        for night in found:
            prune.prune(ledger, night)


@pytest.mark.slow
def test_an_old_night_goes_whole_and_no_image_of_it_is_scored_again(nights: Path) -> None:
    before = {path.name for path in LEDGER.glob("overlays/press/*")}
    assert before
    pruned()
    assert not list(LEDGER.glob("scores/press/000001/*"))
    assert not list(LEDGER.glob("appearance/press/000001/*"))
    assert not (LEDGER / "pages/000001.html").exists()
    assert (LEDGER / "runs/000001.json").is_file()
    assert not list(LEDGER.glob("regions/press/000001/*"))
    assert {path.name for path in LEDGER.glob("overlays/press/*")} < before
    assert deeds(Path())[-1] == "prune"
    with open_ledger(LEDGER) as ledger:
        assert check(ledger).notes == check(ledger).notes == []
    for harm in ("none", "index", "stamps"):
        if harm == "index":
            (LEDGER / "index.sqlite").unlink()
        elif harm == "stamps":
            (nights / "press/0001.png").touch()
        report = run(LINES)["lines"]["press"]
        assert (report["old"], report["images"]) == (9, 0), harm
    assert len(table("scores")) == 3


def test_judgements_go_with_the_last_run_of_their_night_and_a_list_with_its_own(
    nights: Path,
) -> None:
    draw(nights / "press/again", 2, seed=8)  # the second look of the second night
    run(LINES)
    left = [(11, [1, 2, 3]), (5, [2, 3]), (5, [3]), (0, [])]
    for number, (rows, lists) in enumerate(left):
        if number:
            pruned(runs=(f"{number:06d}",))
        assert sum(map(len, map(pd.read_parquet, LEDGER.glob("verdicts/*/*/*")))) == rows
        assert sorted(int(path.parent.name) for path in LEDGER.glob("lists/*/*")) == lists
    with open_ledger(LEDGER) as ledger:
        assert check(ledger).notes == check(ledger).notes == []
        assert ledger.catalogue.runs_by_night("press") == {}


def test_a_dry_run_removes_nothing_and_a_young_night_is_not_old(nights: Path) -> None:
    with open_ledger(LEDGER) as ledger:
        found = list(prune.old_nights(ledger, NOW))
        assert [(night.run, night.rows) for night in found] == [("000001", 6), ("000002", 3)]
        assert found[0].bytes > 1000
        assert not list(prune.old_nights(ledger, NOW - timedelta(days=1)))
    assert len(table("scores")) == 9


def test_rows_that_no_page_has_shown_are_never_old(nights: Path) -> None:
    summary = LEDGER / "runs/000002.json"
    content = json.loads(summary.read_bytes())
    content["lines"]["press"]["exit_code"] = 69  # the line failed, so its rows are not reported
    summary.write_text(json.dumps(content), encoding="utf-8")
    with open_ledger(LEDGER) as ledger:
        assert [night.run for night in prune.old_nights(ledger, NOW)] == ["000001"]


@pytest.mark.parametrize("died_at", ["prune", "append", "unlink"])
def test_a_prune_that_died_loses_and_doubles_nothing(
    nights: Path, monkeypatch: pytest.MonkeyPatch, died_at: str
) -> None:
    def dying(*_: object, **__: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        if died_at == "unlink":
            patched.setattr(Path, "unlink", _unlink_no_part)
        elif died_at == "prune":
            patched.setattr(Index, "prune", dying)
        elif died_at == "append":
            patched.setattr(Journal, "append", _append_no_prune)
        with pytest.raises(SystemExit):
            pruned()
    assert run(LINES)["lines"]["press"]["old"] == 9
    with open_ledger(LEDGER) as ledger:
        check(ledger)
        assert check(ledger) == Check(files=check(ledger).files)
    assert len(table("scores")["path"].unique()) == len(table("scores"))


UNLINK, APPEND = Path.unlink, Journal.append


def _unlink_no_part(self: Path, missing_ok: bool = False) -> None:
    if self.name == "0001.parquet":
        raise SystemExit(137)
    UNLINK(self, missing_ok)


def _append_no_prune(self: object, do: str, *words: object, **more: object) -> None:
    if do == "prune":
        raise SystemExit(137)
    APPEND(self, do, *words, **more)
