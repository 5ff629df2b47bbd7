"""Gates: which figures pass, what a bundle that brings none may do, and that reasons are kept."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from admodels.bundles.card import fingerprints, read_card
from admodels.evaluation.metrics import auroc
from admodels.evaluation.paired import paired_difference
from admodels.evaluation.resampling import draw
from admodels.foundation import manifest
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.foundation.files import write_json
from admodels.nights import deploy
from admodels.nights.plant import Plant
from admodels.tracking import gates
from admodels.tracking.evidence import Evidence, evidence_of, export_bundle, write_evidence
from admodels.tracking.gates import Candidate, Champion, Gates
from tests import cards, plants
from tests.test_evaluation import BLOCK, toy

PLANT = Path("plant")
ALPHA = 0.2
CALIBRATION = np.linspace(0, 1, 20)


def evidence_from(
    scores: np.ndarray,
    anomalous: np.ndarray,
    model: str = "m" * 16,
    drawn: Sequence[bool] | None = None,
) -> Evidence:
    rows = [
        {
            "image_id": f"test/{place}",
            "image_sha256": f"{place:064x}",
            "is_anomalous": bool(is_anomalous),
            "counts": drawn is None or bool(drawn[place]),
            "anomaly_score": float(score),
        }
        for place, (score, is_anomalous) in enumerate(zip(scores, anomalous, strict=True))
    ]
    about = {"schema": 1, "method": "draem", "task": "stripes", "model_fingerprint": model}
    more = {"image_cpu_seconds": 0.1, "metrics": {}, "intervals": {}, "images": rows}
    return Evidence.model_validate_json(json.dumps(about | more))


def sides(shift: float, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 40 normal and 30 anomalous images, which are `shift` standard deviations apart."""
    anomalous = np.arange(70) >= 40
    return np.random.default_rng(seed).normal(size=70) + shift * anomalous, anomalous


def check(block: Gates, own: Evidence | None, champion: Champion | None = None) -> list[bool]:
    candidate = Candidate(own, CALIBRATION, ALPHA)
    return [row.passes for row in gates.checks(block, candidate, champion)]


def test_a_paired_difference_is_that_of_images_drawn_together() -> None:
    first, anomalous = sides(1.0)
    second = first + np.random.default_rng(1).normal(size=70)
    difference, (low, high) = paired_difference(auroc, first, second, anomalous)
    expected = roc_auc_score(anomalous, first) - roc_auc_score(anomalous, second)
    assert difference == pytest.approx(expected)
    twins = []
    for counts in draw(anomalous).astype(int):
        rows = np.repeat(np.arange(70), counts)
        one, other = (_pairs_ranked_right(side[rows], anomalous[rows]) for side in (first, second))
        twins.append(one - other)
    assert (low, high) == pytest.approx(tuple(np.quantile(twins, [0.025, 0.975])))
    assert paired_difference(auroc, first, first, anomalous) == (0.0, (0.0, 0.0))
    assert paired_difference(auroc, first, second, np.ones(70, bool)) is None


def _pairs_ranked_right(scores: np.ndarray, anomalous: np.ndarray) -> float:
    return float((scores[anomalous][:, None] > scores[~anomalous]).mean())


def test_the_gates_see_the_figures_that_the_evaluation_writes() -> None:
    drawn = np.arange(6) != 2  # the false alarm is no image of its own
    images = replace(toy(), drawn=drawn)
    evaluation = gates_figures(images)
    rows = evidence_from(images.anomaly_scores, images.anomalous, drawn=drawn)
    candidate = Candidate(rows, CALIBRATION, BLOCK.alpha)
    block = Gates(image_auroc=0.5, recall=0.5, false_alarm_rate=0.5)
    texts = [row.measured for row in gates.checks(block, candidate, None)]
    assert texts == evaluation


def gates_figures(images: object) -> list[str]:
    from admodels.evaluation.measure import evaluate

    measured = evaluate(images, CALIBRATION, BLOCK)
    limits = dict(measured.intervals)
    low, high = (measured.metrics[f"false_alarm_{end}"] for end in ("low", "high"))
    limits["false_alarm_rate"] = (low, high)
    return [
        f"{measured.metrics[key]:.3f} ({limits[key][0]:.3f} to {limits[key][1]:.3f})"
        for key in ("image_auroc", "recall", "false_alarm_rate")
    ]


def test_a_gate_is_passed_by_the_end_of_the_interval_and_not_by_the_figure() -> None:
    own = evidence_from(*sides(2.0))
    (row,) = gates.checks(Gates(image_auroc=0.5), Candidate(own, CALIBRATION, ALPHA), None)
    figure, low = float(row.measured[:5]), float(row.measured[7:12])
    assert 0.5 < low < figure - 0.02
    assert check(Gates(image_auroc=low - 0.001), own) == [True]
    assert check(Gates(image_auroc=(low + figure) / 2), own) == [False]
    assert check(Gates(image_cpu_seconds=0.1), own) == [True]
    assert check(Gates(image_cpu_seconds=0.09), own) == [False]


def test_a_challenger_may_be_worse_by_less_than_the_margin_and_only_surely_so() -> None:
    scores, anomalous = sides(2.0)
    champion = Champion(evidence_from(scores, anomalous), is_candidate=False)
    noise = np.random.default_rng(5).normal(size=70)
    like, worse = (evidence_from(scores + s * noise, anomalous, "n" * 16) for s in (0.05, 1.5))
    assert check(Gates(margin=0.02), like, champion) == [True]
    assert check(Gates(margin=0.02), worse, champion) == [False]
    candidate = Candidate(worse, CALIBRATION, ALPHA)
    (row,) = gates.checks(Gates(margin=0.99), candidate, champion)
    difference, low = float(row.measured[:6]), float(row.measured[8:14])
    assert check(Gates(margin=-(difference + low) / 2), worse, champion) == [False]
    assert check(Gates(margin=0.01 - low), worse, champion) == [True]
    assert check(Gates(margin=0.02), like) == []  # nobody to compare with
    assert check(Gates(margin=0.02), None, Champion(None, is_candidate=True)) == [True]
    assert check(Gates(margin=0.02), like, Champion(None, is_candidate=False)) == [False]
    few = evidence_from(scores[:40], anomalous[:40])  # no anomalous image in common
    assert check(Gates(margin=0.02), like, Champion(few, is_candidate=False)) == [False]


def test_nothing_known_passes_no_gate_that_is_set_and_no_gate_is_set_by_default() -> None:
    every = Gates(image_auroc=0.5, recall=0.1, false_alarm_rate=0.9, image_cpu_seconds=9.0)
    assert check(every, None) == [False] * 4
    assert check(Gates(), None, Champion(None, is_candidate=False)) == []
    own = evidence_from(*sides(9.0))
    starved = Candidate(own, CALIBRATION[:3], ALPHA)  # no threshold
    passes = [row.passes for row in gates.checks(every, starved, None)]
    assert passes == [True, False, False, True]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, width in (("one", 4), ("repo/data/models/draem/stripes", 5)):
        cards.save_draem(folder / name, reconstructive_width=width)
    return folder


@pytest.fixture
def bundles(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles, `one` and another in a checkout, and the inbox of a line."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("press").mkdir()
    return Path("repo/data/models/draem/stripes")


def plant(**block: object) -> Plant:
    line = plants.line(Path("press").absolute(), alpha=ALPHA)
    return plants.write_plant(PLANT, {"press": line | {"gates": block}})


def evaluate_cell(folder: Path, shift: float) -> None:
    """What `dvc repro evaluate` leaves of the bundle in `folder` in its checkout."""
    scores, anomalous = sides(shift)
    own = evidence_from(scores, anomalous)
    labels = ["anomalous" if a else "normal" for a in anomalous]
    rows = [
        manifest.ManifestRow(
            *(image.image_id, f"{image.image_id}.png", image.image_sha256, 9, 9, "L", 8),
            *(label, "", "", "", "", ""),
            group="g" if place < 3 else "",
        )
        for place, (image, label) in enumerate(zip(own.images, labels, strict=True))
    ]
    repo = folder.parents[3]
    (repo / "params.yaml").write_text("seed: 7\n", encoding="utf-8")
    manifest.write(repo / "data/manifests/stripes/test.csv", rows)
    cell = repo / "data/evaluation/draem/stripes"
    write_json(cell / "metrics.json", {"image_auroc": 0.9})
    with (cell / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "label", "anomaly_score"])
        table.writerows(zip((r.image_id for r in rows), labels, scores, strict=True))
    costs = {"model_fingerprint": model_of(folder), "image_cpu_seconds": 0.2}
    write_json(repo / "data/costs/evaluate/draem/stripes.json", costs)


def model_of(folder: Path) -> str:
    return fingerprints(read_card(folder))[0]


def test_the_evaluation_of_a_checkout_goes_with_a_bundle_that_is_exported(bundles: Path) -> None:
    assert evidence_of(bundles) is None
    assert not export_bundle(bundles, Path("bare"))
    evaluate_cell(bundles, 3.0)
    own = evidence_of(bundles)
    assert [image.counts for image in own.images].count(False) == 2  # of a group of three
    assert own.image_cpu_seconds == 0.2
    assert export_bundle(bundles, Path("copy"))
    assert evidence_of(Path("copy")) == own
    with pytest.raises(ConfigurationError, match="something already"):
        export_bundle(bundles, Path("copy"))
    write_evidence(Path("one"), own)
    with pytest.raises(BundleError, match="of another bundle"):
        evidence_of(Path("one"))
    Path("one/evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot be read"):
        evidence_of(Path("one"))
    write_json(Path("repo/data/costs/evaluate/draem/stripes.json"), {"model_fingerprint": "x"})
    assert evidence_of(bundles) is None  # measured was another training


def test_a_line_refuses_a_bundle_that_fails_a_gate_until_somebody_says_why(bundles: Path) -> None:
    place = plant(image_auroc=0.8)
    with pytest.raises(BundleError, match=r"image AUROC +>= 0\.8 +not measured +FAILS"):
        deploy.deploy(place, "press", "one")
    with pytest.raises(ConfigurationError, match="needs a reason"):
        deploy.deploy(place, "press", "one", force=True)
    assert not list(PLANT.glob("models/*"))
    deploy.deploy(place, "press", "one", force=True, why="the only one there is")
    evaluate_cell(bundles, 3.0)
    second = deploy.deploy(place, "press", str(bundles)).bundle
    entries = deploy.history(PLANT, "press")
    assert [entry.get("gates") for entry in entries] == [
        ["image AUROC >= 0.8 not measured FAILS"],
        None,
    ]
    assert evidence_of(PLANT / "models" / second) == evidence_of(bundles)
    assert deploy.undo(place, "press").bundle != second


def test_the_deployed_bundle_is_the_champion_of_its_line(bundles: Path) -> None:
    place = plant(margin=0.05)
    scores, anomalous = sides(4.0)
    write_evidence(Path("one"), evidence_from(scores, anomalous, model_of(Path("one"))))
    deploy.deploy(place, "press", "one")
    evaluate_cell(bundles, 1.0)
    with pytest.raises(BundleError, match=r"image AUROC - champion's +> -0\.05 +-0"):
        deploy.deploy(place, "press", str(bundles))
    deploy.deploy(place, "press", "one")
    evaluate_cell(bundles, 4.0)
    deploy.deploy(place, "press", str(bundles))
    (PLANT / "models" / deploy.deployments(PLANT)["press"][-1].bundle / "bundle.json").unlink()
    with pytest.raises(BundleError, match="champion not measured"):
        deploy.deploy(place, "press", "one")


def test_the_gates_of_a_line_take_the_place_of_those_of_its_plant(bundles: Path) -> None:
    write_evidence(Path("one"), evidence_from(*sides(1.0), model_of(Path("one"))))
    place = plant().model_copy(update={"gates": Gates(image_auroc=0.99)})
    deploy.deploy(place, "press", "one")  # `gates: {}` of the line
    bare = place.lines["press"].model_copy(update={"gates": None})
    place = place.model_copy(update={"lines": {"press": bare}})
    with pytest.raises(BundleError, match="1 of 1 gates fail"):
        deploy.deploy(place, "press", "one")
