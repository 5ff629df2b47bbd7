"""Tasks with nothing but normal images, through the stages: every figure that can be known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from admodels.foundation import manifest
from admodels.foundation.params import load
from admodels.report import page
from stages import evaluate, report, synthesize, textures, train, validate, weights

pytestmark = pytest.mark.slow  # two tasks are trained

ROOT = Path(__file__).parents[1]
TINY = {"image_px": 32, "reconstructive_width": 2, "discriminative_width": 2, "batch_images": 2}
RATE = ("false_alarm_rate", "false_alarm_low", "false_alarm_high")
COMPARING = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro")


def write_params() -> None:
    """A budget of 0.25, which 3 calibration scores can promise."""
    params = load(ROOT / "params.yaml")
    params["methods"] = {"draem": params["methods"]["draem"] | TINY | {"length": 2}}
    params["synthesize"] |= {"image_px": 32, "per_image": 1}
    params["evaluate"] |= {"mask_px": 32, "alpha": 0.25}
    params["validate"] |= {"near_duplicate_bits": 0}
    params["run"] = {"methods": ["draem"], "tasks": ["pieces", "few"]}
    params["folders"] = {}
    task = params["tasks"]["sample_brick"] | {"dataset": "folder"}
    params["tasks"] = {"pieces": task | {"group": r"piece(\d+)"}, "few": task}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pieces with 2 images each, and a task of 13 images, after all stages."""
    here, rng = tmp_path_factory.mktemp("built"), np.random.default_rng(0)
    names = [f"pieces/piece{i:02}_{k}" for i in range(12) for k in "ab"]
    for name in [*names, *(f"few/{i:02}" for i in range(13))]:
        path = here / f"data/raw/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(60, 200, (40, 40, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        write_params()
        textures.main()
        weights.main("draem")
        for task in ("pieces", "few"):
            validate.main(task)
            synthesize.main(task)
            train.main("draem", task)
            evaluate.main("draem", task)
        report.main()
        page.write_report(here)
    return here


def metrics_of(here: Path, task: str) -> dict[str, float | None]:
    file = here / "data/evaluation/draem" / task / "metrics.json"
    cell: dict[str, float | None] = json.loads(file.read_text("utf-8"))
    return cell


def test_whole_pieces_are_held_out_and_a_piece_counts_once(built: Path) -> None:
    splits = {s: manifest.read(built / f"data/manifests/pieces/{s}.csv") for s in manifest.SPLITS}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 10,
        "validation": 2,
        "calibration": 6,
        "test": 6,
    }
    pieces = [{row.group for row in rows} for rows in splits.values()]
    assert sum(map(len, pieces)) == len(set.union(*pieces)) == 12
    card = json.loads((built / "data/models/draem/pieces/bundle.json").read_text("utf-8"))
    assert len(card["calibration_scores"]) == 3
    cell = metrics_of(built, "pieces")
    assert (cell["calibration_images"], cell["false_alarm_images"], cell["test_normal"]) == (
        *(3, 3),
        6,
    )
    assert cell["images_missing"] == 0
    assert all(cell[name] is not None for name in RATE)
    assert [cell[name] for name in (*COMPARING, "recall")] == [None] * 7


def test_too_few_images_to_hold_some_out_still_calibrate_and_have_a_power_curve(
    built: Path,
) -> None:
    cell = metrics_of(built, "few")
    assert (cell["calibration_images"], cell["images_missing"], cell["test_normal"]) == (3, 0, 0)
    assert [cell[name] for name in (*COMPARING, *RATE, "recall")] == [None] * 10
    power = (built / "reports/plots/power.csv").read_text("utf-8").splitlines()
    rows = [line.split(",") for line in power if line.startswith("draem,few,")]
    assert len(rows) == 13  # nothing painted, and 4 diameters by 3 contrasts
    assert all(row[-1] for row in rows)
    checked = json.loads((built / "data/validation/few/report.json").read_text("utf-8"))
    assert checked["shortage"] == {"unit": "images", "to_calibrate": 0, "to_test": 4}


def test_the_page_shows_both_tasks_with_what_is_missing_in_words(built: Path) -> None:
    html = (built / "reports/html/index.html").read_text("utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    assert re.search(r"draem pieces( n/a){6} [01]\.\d{3} n/a", text)
    assert re.search(r"draem few( n/a){8}", text)
    share = r"draem : [01]\.\d{3} \(\d of 3; \d+ per 1,000; exact 95% interval [\d.]+ to [\d.]+\)"
    assert re.search(share, text)
    assert text.count("At least 1 more anomalous image is needed") == 2
    assert "4 more normal images are needed; a part of them is then held out" in text
    assert "3 calibration images, one of each group: the smallest false-alarm level" in text
    assert "above the threshold, where one image of each group counts." in text
    assert text.count("6 normal images were held out of those to learn from") == 1
    assert "normal test images with the highest scores" in text
    assert "validation images with the highest scores: there is no test image" in text
    assert len(list((built / "reports/html/images").glob("draem-*.png"))) == 2
