"""A set of images measured by hand, and the stage that gathers the cells."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from admodels.evaluation import measure
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.evaluation.power import Power
from admodels.evaluation.table import BY_SIZE, BY_TYPE, METRICS, MORE, Metric
from admodels.foundation.errors import DataError
from stages import report as report_stage

CALIBRATION = np.arange(19) / 19  # the largest is 18/19
POWER = Power(images=2, diameter_shares=(0.1, 0.5), contrasts=(60.0,))
BLOCK = Evaluate(
    mask_px=32,
    ground_truth_rule="nearest",
    aupro_fpr_limit=0.5,
    alpha=0.05,
    overlay_images=3,
    power=POWER,
)


def toy() -> ScoredSet:
    """Three normal images and three anomalous, of two defect types; maps of 1 x 4 pixels."""
    masks = np.zeros((6, 1, 4), bool)
    masks[3, 0, 0] = masks[4, 0, 1] = masks[5, 0, 2:] = True
    maps = np.zeros((6, 1, 4), np.float32)
    maps[3, 0, 0] = maps[4, 0, 1] = 2  # the defect of image 5 is not seen
    maps[0, 0, :3] = 1
    return ScoredSet(
        image_ids=[f"test/{i}" for i in range(6)],
        anomalous=np.array([False] * 3 + [True] * 3),
        defect_types=["good", "good", "good", "hole", "scratch", "hole"],
        refused=["", "", "", "", "", "blank"],
        anomaly_scores=np.array([0.1, 0.2, 0.95, 0.96, 2.0, 0.2], np.float32),
        anomaly_maps=maps,
        masks=masks,
    )


def test_every_number_of_a_toy_set_is_the_one_found_by_hand() -> None:
    found = measure.evaluate(toy(), CALIBRATION, BLOCK)
    assert found.threshold == 18 / 19
    assert found.metrics == {
        # pairs won: 3 + 3 + (1 and a tie)
        "image_auroc": round(7.5 / 9, 6),
        # recall 1/3, 2/3 at precision 1, the last at 3 of 5
        "image_ap": round((1 + 1 + 3 / 5) / 3, 6),
        "image_f1_max": 0.8,  # two found of three, no false alarm
        # 20 normal pixels: two defect pixels above all, two tied with 17 and below 3
        "pixel_auroc": round((20 + 20 + 2 * 8.5) / 80, 6),
        "pixel_ap": round((1 + 1 + 2 * 4 / 24) / 4, 6),
        # 2/3 of the regions until the rate 3/20, then straight to (1, 1): 2/3 + 7/51 at 1/2
        "aupro": round((1 / 2 * 2 / 3 + 7 / 20 * 7 / 51 / 2) / 0.5, 6),
        "aupro_at_5": round(2 / 3, 6),
        "recall_at_1": None,  # of three normal images none can show 1 %
        "recall_at_5": None,
        "false_alarm_rate": round(1 / 3, 6),
        "false_alarm_low": 0.008404,  # Clopper and Pearson, 1 of 3: published tables say 0.84 %
        "false_alarm_high": 0.905701,
        "false_alarm_images": 3,
        "recall": round(2 / 3, 6),
        "recall_by_defect_type": {"hole": 0.5, "scratch": 1.0},
        "recall_by_defect_size": {"tiny": None, "small": None, "medium": None, "large": 0.666667},
        "aupimo": None,  # the maps in the size of the images are not here
        "smallest_alpha": 0.05,
        "images_missing": 0,
        "calibration_images": 19,
        "test_normal": 3,
        "test_anomalous": 3,
    }


def test_recall_by_size_asks_which_share_of_the_image_is_defect() -> None:
    masks = np.zeros((6, 20, 100), bool)
    for image, pixels in ((3, 1), (4, 19), (5, 200)):  # of 2,000: 0.05 %, 0.95 %, 10 %
        masks[image].ravel()[:pixels] = True
    scored = replace(toy(), masks=masks, anomaly_maps=np.zeros(masks.shape, np.float32))
    shares = measure.evaluate(scored, CALIBRATION, BLOCK).metrics["recall_by_defect_size"]
    assert shares == {"tiny": 1.0, "small": 1.0, "medium": None, "large": 0.0}


def test_aupimo_of_a_set_is_the_mean_over_its_images_with_an_interval() -> None:
    scored = replace(toy(), aupimo=np.array([0.2, 0.4, 0.9]))
    measured = measure.evaluate(scored, CALIBRATION, BLOCK)
    assert measured.metrics["aupimo"] == 0.5
    low, high = measured.intervals["aupimo"]
    assert 0.2 <= low < 0.5 < high <= 0.9
    assert measured.images["aupimo"].tolist()[3:] == [0.2, 0.4, 0.9]


def test_every_figure_of_a_toy_set_lies_in_its_interval() -> None:
    found = measure.evaluate(toy(), CALIBRATION, BLOCK)
    figures = {metric.key for metric in (*METRICS, *MORE)} - {"false_alarm_rate"}
    assert set(found.intervals) == figures
    assert found.intervals["recall_at_1"] is found.intervals["recall_at_5"] is None
    for name, limits in found.intervals.items():
        if limits is not None:
            assert 0 <= limits[0] <= found.metrics[name] <= limits[1] <= 1
    assert found.intervals["recall"][0] <= 0.094299  # the exact interval of 2 in 3
    assert found.intervals["recall"][1] >= 0.991596
    nothing = measure.evaluate(ScoredSet.empty(32), CALIBRATION, BLOCK)
    assert nothing.intervals == dict.fromkeys(figures)


def test_the_image_table_has_the_verdict_of_every_image() -> None:
    frame = measure.evaluate(toy(), CALIBRATION, BLOCK).images
    assert frame.to_csv(index=False, lineterminator="\n").splitlines() == [
        "image_id,label,defect_type,refused,anomaly_score,p_value,is_anomalous,aupimo",
        "test/0,normal,good,,0.1,0.9,False,",
        "test/1,normal,good,,0.2,0.8,False,",
        "test/2,normal,good,,0.95,0.05,True,",
        "test/3,anomalous,hole,,0.96,0.05,True,",
        "test/4,anomalous,scratch,,2.0,0.05,True,",
        "test/5,anomalous,hole,blank,0.2,0.8,False,",
    ]


def test_the_curves_are_tidy_and_end_where_they_must() -> None:
    curves = measure.evaluate(toy(), CALIBRATION, BLOCK).curves
    assert {name: list(curve.columns) for name, curve in curves.items()} == {
        "roc": ["fpr", "tpr"],
        "pr": ["recall", "precision"],
        "pro": ["fpr", "pro"],
    }
    assert curves["roc"].iloc[0].tolist() == [0, 0]
    assert curves["roc"].iloc[-1].tolist() == [1, 1]
    assert curves["pr"].iloc[-1].tolist() == [1, 0.6]
    assert curves["pro"].iloc[-1].tolist() == [0.5, round(2 / 3 + 7 / 51, 6)]


def test_a_written_curve_has_six_decimals() -> None:
    scored = replace(toy(), anomalous=np.array([False] * 3 + [True] * 3)[[3, 4, 0, 5, 1, 2]])
    roc = measure.evaluate(scored, CALIBRATION, BLOCK).curves["roc"]
    assert 0.333333 in set(roc["fpr"])
    assert 0.333333 in set(roc["tpr"])


def test_a_score_at_the_threshold_raises_no_alarm() -> None:
    scored = replace(toy(), anomaly_scores=np.array([0, 0, 18 / 19, 18 / 19, 1, 1]))
    found = measure.evaluate(scored, CALIBRATION, BLOCK)
    assert found.images["is_anomalous"].tolist() == [False] * 4 + [True] * 2


def test_a_long_curve_is_written_with_two_hundred_points_at_most() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((6, 32, 32)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[3:, :16] = True
    found = measure.evaluate(replace(toy(), anomaly_maps=maps, masks=masks), CALIBRATION, BLOCK)
    assert 150 < len(found.curves["pro"]) <= 200


def test_an_alpha_that_cannot_be_held_gives_no_verdict_and_says_what_is_missing() -> None:
    found = measure.evaluate(toy(), CALIBRATION[:8], BLOCK)
    assert found.threshold is None
    assert found.metrics["false_alarm_rate"] is None
    assert found.metrics["recall"] is None
    assert found.metrics["recall_by_defect_type"] == {"hole": None, "scratch": None}
    assert found.metrics["smallest_alpha"] == round(1 / 9, 6)
    assert found.metrics["images_missing"] == 11
    assert found.metrics["image_auroc"] == round(7.5 / 9, 6)
    assert found.images["is_anomalous"].isna().all()
    assert found.images["p_value"].notna().all()


def test_a_set_without_anomalous_images_gives_nulls_and_a_false_alarm_rate() -> None:
    normal = ScoredSet(
        image_ids=["a", "b"],
        anomalous=np.zeros(2, bool),
        defect_types=["good", "good"],
        refused=["", ""],
        anomaly_scores=np.array([0.0, 5.0], np.float32),
        anomaly_maps=np.zeros((2, 4, 4), np.float32),
        masks=np.zeros((2, 4, 4), bool),
    )
    found = measure.evaluate(normal, CALIBRATION, BLOCK)
    undefined = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro"]
    assert [found.metrics[name] for name in [*undefined, "recall"]] == [None] * 7
    assert found.metrics["recall_by_defect_type"] == {}
    assert found.metrics["false_alarm_rate"] == 0.5
    assert [len(curve) for curve in found.curves.values()] == [0, 0, 0]


def test_without_masks_nothing_is_said_of_pixels() -> None:
    found = measure.evaluate(replace(toy(), masks=None), CALIBRATION, BLOCK).metrics
    assert found["pixel_auroc"] is found["pixel_ap"] is found["aupro"] is None
    assert found["image_auroc"] is not None


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_a_figure_of_the_table_goes_the_better_way_from_the_worst_set_to_the_best(
    metric: Metric,
) -> None:
    best, truth = toy(), toy().anomalous
    best = replace(best, anomaly_scores=truth.astype(float), anomaly_maps=best.masks.astype("f4"))
    worst = replace(best, anomaly_scores=1 - best.anomaly_scores, anomaly_maps=-best.anomaly_maps)
    low, high = (
        measure.evaluate(scored, CALIBRATION, BLOCK).metrics[metric.key] for scored in (worst, best)
    )
    assert (low < high) if metric.better == "higher" else (low > high)


def test_a_map_that_is_not_finite_is_refused() -> None:
    scored = toy()
    scored.anomaly_maps[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        measure.evaluate(scored, CALIBRATION, BLOCK)


@pytest.mark.parametrize(
    "change", [{"alpha": 0.0}, {"alpha": 1.0}, {"aupro_fpr_limit": 0.0}, {"mask_px": 8}, {"px": 1}]
)
def test_a_block_outside_its_bounds_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Evaluate.model_validate(BLOCK.model_dump() | change)


def test_false_alarms_count_one_image_of_each_group() -> None:
    scores = np.array([2.0, 2, 2, 0, 0, 0, 9], np.float32)
    drawn = np.array([True, False, False, True, True, True, True])
    scored = ScoredSet(
        image_ids=list("abcdefg"),
        anomalous=np.array([False] * 6 + [True]),
        defect_types=["good"] * 6 + ["hole"],
        refused=[""] * 7,
        anomaly_scores=scores,
        anomaly_maps=np.zeros((7, 1, 4), np.float32),
        masks=None,
        drawn=drawn,
    )
    found = measure.evaluate(scored, CALIBRATION, BLOCK).metrics
    assert (found["false_alarm_rate"], found["false_alarm_images"]) == (0.25, 4)
    # of 1 in 4, by the equations that define the interval: a tail of 2.5 % on either side
    low, high = found["false_alarm_low"], found["false_alarm_high"]
    assert 1 - (1 - low) ** 4 == pytest.approx(0.025, abs=1e-5)
    assert (1 - high) ** 4 + 4 * high * (1 - high) ** 3 == pytest.approx(0.025, abs=1e-5)


def cell(method: str, task: str, history: str, **changes: float | None) -> None:
    """The files of one cell that the report reads."""
    numbers = dict.fromkeys((metric.key for metric in (*METRICS, *MORE)), 0.5) | changes
    content = {**numbers, "recall_by_defect_type": {"hole": 1.0}, "test_normal": 3}
    folder = Path("data/evaluation", method, task)
    (folder / "curves").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "power.csv").write_text("contrast,caught_share\n60.0,0.5\n", encoding="utf-8")
    drawn = Path("data/synthetic", task, "statistics.json")
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_text(json.dumps({"images": 4}), encoding="utf-8")
    for name, columns in {"roc": "fpr,tpr", "pr": "recall,precision", "pro": "fpr,pro"}.items():
        text = f"{columns}\n0.0,0.25\n"
        (folder / "curves" / f"{name}.csv").write_text(text, encoding="utf-8")
    trained = Path("data/training", method, task)
    trained.mkdir(parents=True)
    (trained / "history.csv").write_text(history, encoding="utf-8")
    for at, stage in enumerate(("train", "evaluate")):
        cost = Path("data/costs", stage, method, f"{task}.json")
        cost.parent.mkdir(parents=True, exist_ok=True)
        cost.write_text(json.dumps({"seconds": at + 1.5}), encoding="utf-8")


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods by two tasks, and a method that was deleted from params.yaml."""
    monkeypatch.chdir(tmp_path)
    text = "run: {methods: [one, two], tasks: [b, a]}\n"
    Path("params.yaml").write_text(text, encoding="utf-8")
    cell("one", "b", "step,loss\n1,0.5\n", image_auroc=0.9, aupro=None)
    cell("one", "a", "step,loss\n1,0.25\n", image_auroc=0.6, aupro=0.75, pixel_ap=None)
    cell("two", "b", "step,loss,focal\n1,2.0,\n2,1.0,0.5\n", pixel_ap=None)
    cell("two", "a", "step,loss,focal\n", pixel_ap=None)
    cell("deleted", "a", "step,loss\n")


@pytest.mark.usefixtures("cells")
def test_the_report_nests_every_cell_and_means_what_is_defined() -> None:
    report_stage.main()
    text = Path("reports/metrics.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert set(found) == {"one", "two"}
    assert set(found["one"]) == {"a", "b", "mean"}
    assert found["one"]["b"]["image_auroc"] == 0.9
    assert found["one"]["b"]["aupro"] is None
    assert found["one"]["a"]["recall_by_defect_type"] == {"hole": 1.0}
    figures = {metric.key for metric in (*METRICS, *MORE)}
    assert set(found["one"]["mean"]) == figures
    assert set(found["one"]["a"]) == figures | {BY_TYPE, BY_SIZE}  # and no count
    assert found["one"]["mean"]["image_auroc"] == 0.75
    assert found["one"]["mean"]["aupro"] == 0.75
    assert found["two"]["mean"]["pixel_ap"] is None


@pytest.mark.usefixtures("cells")
def test_the_report_tells_of_the_synthetic_set_of_every_task() -> None:
    report_stage.main()
    found = json.loads(Path("reports/synthesis.json").read_bytes())
    assert found == {"a": {"images": 4}, "b": {"images": 4}}
    power = Path("reports/plots/power.csv").read_text(encoding="utf-8").splitlines()
    assert power[:2] == ["method,task,contrast,caught_share", "one,b,60.0,0.5"]


@pytest.mark.usefixtures("cells")
def test_the_report_keeps_costs_apart() -> None:
    report_stage.main()
    found = json.loads(Path("reports/cost.json").read_bytes())
    costs = {"train": {"seconds": 1.5}, "evaluate": {"seconds": 2.5}}
    assert found == {method: {"a": costs, "b": costs} for method in ("one", "two")}


@pytest.mark.usefixtures("cells")
def test_the_plots_are_tidy_tables_of_all_cells() -> None:
    report_stage.main()
    assert Path("reports/plots/roc.csv").read_text(encoding="utf-8").splitlines() == [
        "method,task,fpr,tpr",
        "one,b,0.0,0.25",
        "one,a,0.0,0.25",
        "two,b,0.0,0.25",
        "two,a,0.0,0.25",
    ]
    for name, columns in {"pr": "recall,precision", "pro": "fpr,pro"}.items():
        header = Path(f"reports/plots/{name}.csv").read_text(encoding="utf-8").split("\n")[0]
        assert header == f"method,task,{columns}"
    assert Path("reports/plots/training.csv").read_bytes().decode() == (
        "method,task,step,loss,focal\none,b,1,0.5,\none,a,1,0.25,\ntwo,b,1,2.0,\ntwo,b,2,1.0,0.5\n"
    )


@pytest.mark.usefixtures("cells")
def test_a_missing_cell_is_named_and_no_report_is_written() -> None:
    Path("data/evaluation/two/a/curves/pro.csv").unlink()
    with pytest.raises(DataError, match=r"data/evaluation/two/a/curves/pro.csv") as refused:
        report_stage.main()
    assert "dvc repro evaluate" in str(refused.value)
    assert not Path("reports").exists()
