"""The plan: what short fits say of whole ones, and which preset fits into a time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from admodels import methods
from admodels.cli import plan
from admodels.cli.plan import Cost
from admodels.cli.trial import Cell, Trial
from admodels.evaluation.power import Power
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.params import load
from tests import tiny

ROOT = Path(__file__).parents[1]
TRIAL = Trial(
    images=48,
    setup=3.0,
    step=0.0,
    validation=0.0,
    image=0.1,
    peak_mib=500.0,
    model_mib=8.0,
    digest="",
)


@pytest.mark.parametrize("method", methods.available())
def test_params_with_few_steps_train_so_many_and_differ_in_nothing_else(method: str) -> None:
    cls = methods.detector_class(method)
    params = cls.Params.model_validate_json(json.dumps(tiny.PARAMS[method]), strict=True)
    few, whole = params.with_steps(1), params.training_steps("object", 100)
    assert few.training_steps("object", 100) == min(1, whole)
    changed = {key for key, value in few.model_dump().items() if value != params.model_dump()[key]}
    assert changed <= {"length", "length_unit", "steps"}


def test_an_epoch_has_a_step_for_each_whole_batch() -> None:
    values = load(ROOT / "presets/official.yaml")["methods"]["draem"]
    block = Cell("draem", "any", values).block()
    assert block.training_steps("object", 209) == 700 * 26


@pytest.mark.parametrize("method", methods.available())
def test_weights_that_would_be_downloaded_are_random_in_a_trial(method: str) -> None:
    values = load(ROOT / "presets/official.yaml")["methods"][method]
    block = Cell(method, "any", values).block().model_dump()
    assert not any("http" in str(value) for value in block.values())
    known = load(ROOT / "presets/cpu.yaml")["methods"][method]
    assert Cell(method, "any", known).block().model_dump().get("backbone_weights") in (
        None,
        "packaged",
    )


def test_a_fit_of_more_images_lies_on_the_line_through_two_short_ones() -> None:
    more = replace(TRIAL, images=96, setup=5.0, peak_mib=600.0, image=0.2)
    whole = plan.extrapolate(TRIAL, more, 192)
    assert (whole.setup, whole.peak_mib, whole.model_mib, whole.image) == (9.0, 800.0, 8.0, 0.2)
    assert plan.extrapolate(TRIAL, more, 96).setup == 5.0


def test_every_painted_defect_is_an_image_that_is_scored() -> None:
    power = Power(images=16, diameter_shares=(0.1, 0.2, 0.3), contrasts=(20.0, 40.0))
    assert plan.painted_images(power, 40) == 96
    assert plan.painted_images(power, 5) == 30


def test_the_longest_preset_that_fits_is_named() -> None:
    quick = Cost("quick", "draem", "brick", 30.0, 0.1, 300, 500.0, 9.0)
    costs = [quick, replace(quick, preset="cpu", fit=270.0), replace(quick, preset="x", fit=9999.0)]
    lines = list(plan.verdict(costs, 5.0))
    assert lines[0] == "quick: 1.0 CPU minutes for all cells: fits"
    assert lines[1] == "cpu: 5.0 CPU minutes for all cells: fits"
    assert lines[2].endswith("does not fit")
    assert lines[3] == "for 5 CPU minutes: `admodels preset cpu`"
    assert list(plan.verdict(costs, 0.5))[-1].endswith("fewer tasks or methods")
    assert plan.table(costs).splitlines()[1].split()[3:6] == ["30.0", "0.100", "1.0"]


def test_a_plan_before_the_images_are_prepared_names_the_stages_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="dvc repro validate synthesize textures weights"):
        Cell("draem", "brick", {}).rows()
    with pytest.raises(ConfigurationError, match="no preset named `fast`"):
        list(plan.plan(["fast"]))
