"""Verdicts from the ledger: calibration of a line, another budget, lists, what people say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from admodels.bundles.bundle import Bundle
from admodels.foundation import files, manifest
from admodels.foundation.errors import DataError
from admodels.inference.conformal import benjamini_hochberg, p_values
from admodels.nights import calibrate as calibrating
from admodels.nights.calibrations import Calibration
from admodels.nights.judgements import JudgedRows, write_list
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.stopping import Stop
from tests.cards import card, judge, judged, make_bundle

ALPHA = 0.2
LEVELS = range(60, 160, 10)  # the scores of ten cards; the bundle's calibration is 50..130


@contextmanager
def held(place: Path) -> Iterator[Ledger]:
    with open_ledger(place / "ledger") as ledger:
        yield ledger


def night(ledger: Ledger, place: Path, bundle: Bundle | None = None) -> JudgedRows:
    model = Model.of(bundle or make_bundle())
    score_line(ledger, LineImages("press", place / "in"), model, Stop())
    return judge(ledger, "press", model)


def table(place: Path) -> pd.DataFrame:
    return judged(place / "ledger")


def flagged(place: Path) -> list[str]:
    found = table(place)["is_anomalous"]
    return list(found.index[found.eq(True)])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for level in LEVELS:
        card(tmp_path / "in" / f"{level:03d}.png", level)
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    with held(tmp_path) as ledger:
        rows = night(ledger, tmp_path)
        assert (rows.scores_count, rows.flags_count, rows.median_score) == (10, 3, 105)
        ledger.finish({"whole": True, "lines": {"press": {"exit_code": 0}}})
    return tmp_path


def test_the_list_holds_its_share_of_false_alarms() -> None:
    p = [0.01, 0.04, 0.03, 0.5, 0.2, 0.02]
    brute = max(
        (c for c in p if c <= 0.1 * sum(other <= c for other in p) / len(p)),
        default=0.0,
    )
    assert benjamini_hochberg(p, 0.1) == brute == 0.04
    assert benjamini_hochberg([], 0.1) == 0.0
    assert benjamini_hochberg([0.5, 0.9], 0.1) == 0.0
    rng, shares = np.random.default_rng(3), []
    for _ in range(300):
        calibration = rng.normal(size=400)
        scores = np.concatenate([rng.normal(size=180), rng.normal(4, 1, size=20)])
        found = p_values(scores, calibration) <= benjamini_hochberg(
            p_values(scores, calibration), 0.2
        )
        shares.append(found[:180].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.2 * 0.9 + 2 * np.std(shares) / 300**0.5
    assert np.mean(shares) > 0.1  # and it is no empty promise


def test_a_list_names_the_night_s_worst_first(place: Path) -> None:
    with held(place) as ledger:
        card(place / "in" / "new.png", 200)
        card(place / "in" / "usual.png", 61)
        assert write_list(ledger, night(ledger, place), 0.2) == 1
        (path,) = (place / "ledger" / "lists").rglob("*.csv")
    found = pd.read_csv(path)
    assert found[["path", "anomaly_score", "p_value"]].values.tolist() == [["new.png", 200, 0.1]]


def calibrate(ledger: Ledger, place: Path, bundle: Bundle | None = None) -> Calibration:
    model = Model.of(bundle or make_bundle())
    return calibrating.calibrate(
        ledger, "press", model, place / "good", place / "manifests", Stop()
    )


def test_a_line_s_own_calibration_decides_from_then_on(place: Path) -> None:
    for level in range(100, 200, 5):
        card(place / "good" / f"{level}.png", level)
    (place / "good" / "about.txt").write_text("approved by B.", encoding="utf-8")
    with held(place) as ledger:
        found = calibrate(ledger, place)
        assert found.scores == tuple(range(100, 200, 5))
        before = table(place)
        for level in LEVELS:
            card(place / "in" / "later" / f"{level:03d}.png", level, side=48)
        night(ledger, place)
    later = table(place).loc["later/060.png":]
    assert not later["is_anomalous"].any()
    np.testing.assert_array_equal(later["p_value"], p_values([*LEVELS], [*range(100, 200, 5)]))
    pd.testing.assert_frame_equal(table(place).loc[before.index], before)


def test_what_the_ledger_knows_is_not_scored_for_calibration(place: Path) -> None:
    (place / "in").rename(place / "good")
    (place / "good" / "bad.png").unlink()
    bundle = make_bundle()
    with held(place) as ledger:
        assert calibrate(ledger, place, bundle).scores == tuple(LEVELS)
    assert bundle.detector.chunks == []


def test_calibration_refuses_images_that_cannot_be_scored(place: Path) -> None:
    card(place / "good" / "a.png", 100)
    (place / "good" / "b.png").write_bytes(b"bad")
    with held(place) as ledger, pytest.raises(DataError, match=r"1 images .* b\.png"):
        calibrate(ledger, place)


def test_calibration_refuses_images_that_the_model_learnt_from(place: Path) -> None:
    path = card(place / "good" / "a.png", 100)
    row = manifest.ManifestRow(
        *("a", "train/a.png", files.sha256_of(path), 1, 1, "RGB", 8, "normal"), *[""] * 5
    )
    (place / "manifests" / "grey_cards").mkdir(parents=True)
    manifest.write(place / "manifests" / "grey_cards" / "train.csv", [row])
    with held(place) as ledger, pytest.raises(DataError, match=r"learnt from 1 .* train/a\.png"):
        calibrate(ledger, place)


def test_rows_of_an_earlier_model_keep_its_calibration(place: Path) -> None:
    before = table(place)
    other = make_bundle([float(at) for at in range(9)])
    other = replace(other, model_fingerprint="n" * 16)
    with held(place) as ledger:
        night(ledger, place, other)
    found = table(place)
    kept = found[found["model_fingerprint"] == "m" * 16]
    pd.testing.assert_frame_equal(kept, before)
    assert (found[found["model_fingerprint"] == "n" * 16]["p_value"].dropna() == 0.1).all()


def test_each_row_is_judged_by_its_own_model_though_one_run_had_two(place: Path) -> None:
    other = replace(make_bundle([500.0 + at for at in range(9)]), model_fingerprint="n" * 16)
    with held(place) as ledger:
        for bundle in (make_bundle(), other):  # as in a watch, while a bundle is replaced
            card(place / "in" / f"{bundle.model_fingerprint[0]}.png", 135)
            night(ledger, place, bundle)
        ledger.compact("press")
        assert len(ledger.parts("press", ledger.run)) == 1
        ledger.merge_judgements("press", "2026-11-30")
    found = table(place).reset_index()
    scored = found[found["p_value"].notna()]
    by_other = scored["model_fingerprint"].eq("n" * 16)
    assert scored.loc[by_other, "p_value"].eq(1).all()
    assert by_other.sum() == 12
    assert list(scored.loc[~by_other, "path"][scored["is_anomalous"].eq(True)]) == (
        ["130.png", "140.png", "150.png", "m.png"]
    )
