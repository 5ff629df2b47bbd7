"""A row is judged once; a later opinion stands beside the first and changes nothing of it."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.images import decode
from admodels.nights.calibrations import (
    Calibration,
    calibration_in_force,
    keep_calibration,
    read_calibration,
)
from admodels.nights.judgements import opinion_of_today, rows_of_runs
from admodels.nights.page import render
from admodels.nights.rejudge import nights_of_line, rejudge
from admodels.scoring import tables
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.integrity import check
from admodels.scoring.ledger import Ledger, open_ledger, read_ledger
from admodels.scoring.stopping import Stop
from tests import cards, plants, tiny
from tests.cards import ALPHA, card, judge, judged, make_bundle

NIGHT = "2026-11-30"
LEVELS = [40, 55, 70, 85, 100, 115, 130, 145]
KEYS = ("m" * 16, "c" * 16)


def look(ledger: Ledger, place: Path, model: Model, alpha: float = ALPHA) -> None:
    score_line(ledger, LineImages("press", place / "in"), model, Stop())
    judge(ledger, "press", model, alpha)


@contextmanager
def opened(place: Path) -> Iterator[Ledger]:
    with open_ledger(place / "ledger") as ledger:
        yield ledger


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A night of eight cards and a file that is no image."""
    for level in LEVELS:
        card(tmp_path / "in" / f"{level:03d}.png", level)
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    with opened(tmp_path) as ledger:
        look(ledger, tmp_path, Model.of(make_bundle()))
        ledger.finish({"whole": True, "lines": {"press": {"exit_code": 0}}})
    return tmp_path


def hashes(place: Path) -> dict[str, str]:
    paths = (p for p in (place / "ledger").rglob("*") if p.suffix in (".parquet", ".json"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def own(ledger: Ledger, *scores: float) -> None:
    kept = Calibration(origin="line", scores=scores)
    keep_calibration(ledger, "press", KEYS, kept, why="a test")


def brute(score: float, calibration: list[float], alpha: float) -> tuple[float, bool | None]:
    """The p-value by counting, and the verdict; None where n images promise nothing."""
    n = len(calibration)
    p = (1 + sum(other >= score for other in calibration)) / (n + 1)
    return p, None if alpha < 1 / (n + 1) else p <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_the_join_of_scores_and_judgements_is_that_of_a_loop_over_all_rows(
    tmp_path: Path, alpha: float
) -> None:
    rng = np.random.default_rng(int(alpha * 100))
    models = {
        "m" * 16: sorted(rng.uniform(40, 160, 9).tolist()),
        "n" * 16: sorted(rng.uniform(40, 160, 14).tolist()),
    }
    expected = {}
    with opened(tmp_path) as ledger:
        for number, (name, scores) in enumerate(models.items()):
            for level in rng.choice(np.arange(30, 180), 6, replace=False):
                card(tmp_path / "in" / f"{number}-{level}.png", int(level))
            bundle = replace(make_bundle(scores), model_fingerprint=name)
            look(ledger, tmp_path, Model.of(bundle), alpha)
        ledger.compact("press")
        ledger.merge_judgements("press", NIGHT)
        for _, group in ledger.groups("press"):
            for row in group.to_pylist():
                key = row["path"], row["model_fingerprint"]
                calibration = models[row["model_fingerprint"]]
                expected[key] = brute(row["anomaly_score"], calibration, alpha)
        rows = rows_of_runs(ledger, "press", ["000001"]).to_pylist()
    assert len(rows) == len(expected) == 6 + 12
    for row in rows:
        p, flag = expected[row["path"], row["model_fingerprint"]]
        assert (row["p_value"], row["is_anomalous"]) == (pytest.approx(p), flag)
        if flag is not None:
            assert (row["anomaly_score"] > row["threshold"]) == flag


def test_another_budget_and_another_calibration_touch_no_row_that_was_judged(place: Path) -> None:
    before = hashes(place)
    for level in (42, 88, 141):
        card(place / "in" / "later" / f"{level}.png", level)
    with opened(place) as ledger:
        own(ledger, *range(60, 80))
        look(ledger, place, Model.of(make_bundle()), alpha=0.5)
    table = judged(place / "ledger")
    assert {name: sha for name, sha in hashes(place).items() if name in before} == before
    first, later = table.drop(index=table.loc["later":].index), table.loc["later":]
    assert (set(first["alpha"]), set(later["alpha"])) == ({ALPHA}, {0.5})
    assert later["calibration"].nunique() == first["calibration"].nunique() == 1
    assert set(later["calibration"]) != set(first["calibration"])
    assert list(later["p_value"]) == [brute(s, [*range(60, 80)], 0.5)[0] for s in (141, 42, 88)]


def test_a_new_opinion_says_who_when_and_why_and_leaves_every_file_as_it_was(place: Path) -> None:
    before, start = hashes(place), datetime.now(UTC)
    with read_ledger(place / "ledger") as ledger:
        own(ledger, *range(50, 60))
        preview = rejudge(ledger, "press", 0.5)
        kept = {path.name for path in (place / "ledger/calibration/press/in_force").iterdir()}
        assert (len(hashes(place)), kept) == (len(before) + 2, {"0001.json", "0002.json"})
        assert rejudge(ledger, "press", 0.5, why="the camera was moved") == preview
    after = hashes(place)
    assert {name: after[name] for name in before} == before
    (path,) = (place / "ledger/verdicts/press" / NIGHT).glob("0002.parquet")
    table = pd.read_parquet(path).set_index("path")
    assert set(table["judgement"]) == {2}
    assert set(table["why"]) == {"the camera was moved"}
    assert all("@" in who for who in table["who"])
    assert (table["judged_at"] >= start).all()
    flags = {f"{level:03d}.png": brute(level, [*range(50, 60)], 0.5)[1] for level in LEVELS}
    assert table["is_anomalous"].drop("bad.png").to_dict() == flags
    assert preview.flagged == sum(flags.values())
    then = judged(place / "ledger")["is_anomalous"].drop("bad.png")
    assert preview.more == sum(flags[name] and not then[name] for name in flags)
    assert preview.fewer == sum(then[name] and not flags[name] for name in flags)


def test_the_first_judgement_is_shown_and_today_s_is_what_counts_now(place: Path) -> None:
    runs = ["000001"]

    def shown() -> tuple[list[bool | None], list[bool | None]]:
        with read_ledger(place / "ledger") as ledger:
            rows = rows_of_runs(ledger, "press", runs)
            today = opinion_of_today(ledger, "press", runs, rows)
            return rows["is_anomalous"].to_pylist(), today.to_pylist()

    first, today = shown()
    assert first == today
    with read_ledger(place / "ledger") as ledger:
        own(ledger, *range(60, 80))
    unchanged, recalibrated = shown()
    by_hand = [brute(level, [*range(60, 80)], ALPHA)[1] for level in LEVELS]
    assert (unchanged, recalibrated) == (first, [*by_hand, None])
    assert recalibrated != first
    with read_ledger(place / "ledger") as ledger:
        rejudge(ledger, "press", 0.9, [date.fromisoformat(NIGHT)], why="more of them")
    unchanged, with_more = shown()
    by_hand = [brute(level, [*range(60, 80)], 0.9)[1] for level in LEVELS]
    assert (unchanged, with_more) == (first, [*by_hand, None])


def test_a_night_that_a_line_does_not_have_is_refused(place: Path) -> None:
    with read_ledger(place / "ledger") as ledger:
        assert nights_of_line(ledger, "press") == {NIGHT: {"000001"}}
        with pytest.raises(ConfigurationError, match=r"2001-01-01.*\n.*\n.*2026-11-30"):
            rejudge(ledger, "press", 0.5, [date(2001, 1, 1)])


def test_a_look_that_died_before_its_judgement_is_judged_by_the_next_and_once(place: Path) -> None:
    card(place / "in" / "late.png", 120)
    with opened(place) as ledger:  # and dies
        score_line(ledger, LineImages("press", place / "in"), Model.of(make_bundle()), Stop())
    before = judged(place / "ledger")
    assert "late.png" not in before.index
    for _ in range(2):
        with opened(place) as ledger:
            look(ledger, place, Model.of(make_bundle()))
    after = judged(place / "ledger")
    assert after.index.is_unique
    assert set(after.index) - set(before.index) == {"late.png"}
    assert after.loc["late.png", "run"] == "000002"


def test_a_calibration_is_kept_once_by_its_content_and_the_last_record_counts(place: Path) -> None:
    with opened(place) as ledger:
        for scores in ((1.0, 2.0), (3.0,), (1.0, 2.0)):
            own(ledger, *scores)
            kept = calibration_in_force(ledger, "press", *KEYS)
            assert kept.content.scores == scores
            assert kept.sha256 == hashlib.sha256(kept.path.read_bytes()).hexdigest()
            assert kept.path.stem == kept.sha256
        folder = place / "ledger/calibration/press"
        assert len(list(folder.glob("*.json"))) == 3  # that of the bundle, and two
        assert len(list((folder / "in_force").glob("*.json"))) == 4
        assert calibration_in_force(ledger, "press", "m" * 16, "d" * 16) is None
        check(ledger)
        assert check(ledger).notes == []


def test_a_calibration_of_other_content_than_its_name_says_is_refused(place: Path) -> None:
    with opened(place) as ledger:
        path = calibration_in_force(ledger, "press", *KEYS).path
        path.write_text(path.read_text(encoding="utf-8").replace("50.0", "51.0"), encoding="utf-8")
        with pytest.raises(StorageError, match=path.name):
            read_calibration(path)


def test_files_of_judgements_become_one_with_the_same_rows_in_the_same_order(place: Path) -> None:
    for level in (42, 88):
        card(place / "in" / f"x{level}.png", level)
        with opened(place) as ledger:
            look(ledger, place, Model.of(make_bundle()))
    home = place / "ledger/verdicts/press" / NIGHT
    before = pd.concat(map(pd.read_parquet, sorted(home.iterdir())), ignore_index=True)
    assert len(list(home.iterdir())) == 3
    with opened(place) as ledger:
        ledger.merge_judgements("press", NIGHT)
        assert ledger.catalogue.runs_by_night("press") == {NIGHT: {"000001", "000002", "000003"}}
        entry = ledger.journal.last()
        assert entry["do"] == "merge"
        assert sorted(name.rsplit("/")[-1] for name in entry["files"]) == [
            *("0001.parquet", "0002.parquet", "0003.parquet")
        ]
    (path,) = home.iterdir()
    pd.testing.assert_frame_equal(pd.read_parquet(path), before)
    with opened(place) as ledger:
        assert check(ledger).notes == check(ledger).notes == []
        assert len(rows_of_runs(ledger, "press", ["000001", "000003"])) == 10


@pytest.mark.slow
def test_the_page_of_an_old_night_says_what_was_said_then_and_marks_what_differs_today(
    tmp_path: Path,
) -> None:
    cards.save_draem(tmp_path / "models/draem/stripes")
    for number, pixels in enumerate(tiny.stripes(6, seed=3)):
        decode.write_png(tmp_path / f"press/{number}.png", pixels.transpose(1, 2, 0))
    report = plants.night({"press": plants.line("press", alpha=0.95)}, tmp_path)["lines"]["press"]
    fingerprints = report["model_fingerprint"], report["contract_fingerprint"]
    assert report["flagged"] > 1

    def page() -> tuple[str, list[bool], list[bool]]:
        with read_ledger(tmp_path / "ledger") as ledger:
            text = render.write(ledger, "000001").read_text(encoding="utf-8")
        (data,) = re.findall(r'<script[^>]* id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
        columns = json.loads(data)
        return text, columns["is_anomalous"], columns["today"]

    by_the_night = (tmp_path / "ledger/pages/000001.html").read_bytes()
    text, then, today = page()
    assert (tmp_path / "ledger/pages/000001.html").read_bytes() == by_the_night
    assert then == today
    assert sum(then) == report["flagged"]
    assert "would be flagged" not in text
    with read_ledger(tmp_path / "ledger") as ledger:
        loose = Calibration(origin="line", scores=tuple(range(900, 960)))
        keep_calibration(ledger, "press", fingerprints, loose, why="a test")
        rejudge(ledger, "press", 0.02, why="a smaller budget")
    text, still, today = page()
    assert still == then
    assert not any(today)
    fewer = f"0 more and {report['flagged']} fewer images"
    assert f"the budget of today {fewer} of <bdi>press</bdi> would be flagged" in text


@pytest.mark.slow
def test_a_night_that_is_closed_reads_its_scores_once_and_judges_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.save_draem(tmp_path / "models/draem/stripes")
    for number, pixels in enumerate(tiny.stripes(3, seed=3)):
        decode.write_png(tmp_path / f"press/{number}.png", pixels.transpose(1, 2, 0))
    (tmp_path / "press/bad.png").write_bytes(b"bad")
    opened, judged_rows = Counter[str](), list[int]()
    parquet_file, opinions = tables.parquet_file, tables.opinions

    def noted(path: Path) -> object:
        opened[path.relative_to(tmp_path / "ledger").parts[0]] += 1
        return parquet_file(path)

    def noted_opinions(score: pa.ChunkedArray, *words: object) -> pa.Table:
        judged_rows.append(len(score))
        return opinions(score, *words)

    for module in ("index", "tables"):
        monkeypatch.setattr(f"admodels.scoring.{module}.parquet_file", noted)
    monkeypatch.setattr(tables, "opinions", noted_opinions)
    summary = plants.night({"press": plants.line("press", alpha=0.2, fdr=0.2)}, tmp_path)
    assert (summary["closes"], summary["whole"], summary["exit_code"]) == (True, True, 0)
    assert (opened["scores"], judged_rows) == (1, [4])
