"""The height and width that images are seen at: keep their ratio, cost as much as the square."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from admodels import methods
from admodels.bundles.card import Preparation
from admodels.evaluation.measure import Evaluate
from admodels.evaluation.power import Power
from admodels.images.shape import ratios, shape_of
from admodels.synthesis.anomalies import anomaly_mask
from admodels.synthesis.params import Anomaly
from tests import tiny


def sized(*sides: tuple[int, int]) -> list[SimpleNamespace]:
    return [SimpleNamespace(width=width, height=height) for width, height in sides]


@pytest.mark.parametrize(
    ("ratio", "shape"),
    [
        (1.0, (256, 256)),
        (1.02, (256, 256)),  # 253 x 259 would be no multiple
        (1.5, (224, 320)),
        (700 / 467, (224, 320)),
        (2.75, (160, 416)),
        (1 / 2.75, (416, 160)),
        (20.0, (64, 1152)),
        (1000.0, (32, 2048)),  # the pixels count, the ratio gives way
    ],
)
def test_a_shape_has_the_ratio_the_pixels_and_the_multiples(
    ratio: float, shape: tuple[int, int]
) -> None:
    assert shape_of(ratio, 256, 32, 32) == shape


@pytest.mark.parametrize("multiple", [16, 32, 80])
def test_no_other_shape_of_these_multiples_has_a_smaller_largest_error_of_a_side(
    multiple: int,
) -> None:
    for ratio in np.exp(np.linspace(-1.5, 1.5, 31)):
        ideal = (320 / ratio**0.5, 320 * ratio**0.5)

        def error(shape: tuple[int, ...], ideal: tuple[float, float] = ideal) -> float:
            return max(abs(math.log(a / b)) for a, b in zip(shape, ideal, strict=True))

        others = itertools.product(range(multiple, 800, multiple), repeat=2)
        shape = shape_of(float(ratio), 320, multiple, 1)
        assert error(shape) <= min(error(o) for o in others) + 1e-9


def test_a_portrait_is_seen_as_the_landscape_is_on_its_side() -> None:
    for ratio in (1.1, 1.7, 3.3, 25.0):
        assert shape_of(1 / ratio, 128, 16, 32) == shape_of(ratio, 128, 16, 32)[::-1]


def test_the_usual_ratio_is_that_of_an_image_and_a_few_others_do_not_change_it() -> None:
    assert ratios(sized((700, 467), (700, 467), (600, 600), (90, 900))) == (0.1, 1.0, 700 / 467)
    assert ratios(sized((700, 467), (700, 467), (90, 900)))[1] == 700 / 467
    assert ratios([]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("method", methods.available())
def test_every_method_resolves_its_shape_once_and_squares_stay_squares(method: str) -> None:
    keep = tiny.detector(method, aspect="keep", image_px=128).params
    wide = keep.resolve_shape(2.75)
    assert wide.shape == shape_of(2.75, 128, keep.side_multiple(), keep.shortest_px())
    assert wide.resolve_shape(1.0) == wide
    assert keep.resolve_shape(1.01) == keep
    square = tiny.detector(method, image_px=128).params
    assert square.resolve_shape(2.75) == square
    with pytest.raises(ValidationError, match="only where aspect is keep"):
        tiny.detector(method, aspect="square", shape_px=(64, 128))
    with pytest.raises(ValidationError, match="no multiples"):
        tiny.detector(method, aspect="keep", shape_px=(40, 128))


def test_a_square_preparation_is_written_as_it_always_was() -> None:
    values = {"image_px": 64, "resize": "area", "learnt": tiny.CONTRACT}
    content = Preparation(**values).model_dump(mode="json")
    assert set(content) == {"image_px", "resize", "learnt"}
    wide = Preparation(**values, shape_px=(32, 96)).model_dump(mode="json")
    assert wide == content | {"shape_px": [32, 96]}


def test_masks_keep_the_ratio_and_nearly_square_ones_are_square() -> None:
    power = Power(images=1, diameter_shares=(0.1,), contrasts=(20.0,))
    block = Evaluate(
        mask_px=256,
        ground_truth_rule="nearest",
        aupro_fpr_limit=0.3,
        alpha=0.05,
        overlay_images=1,
        power=power,
    )
    assert block.mask_shape(1.0) == block.mask_shape(1.01) == (256, 256)
    assert block.mask_shape(2.75) == (160, 432)


def test_turned_noise_reaches_the_ends_of_a_strip() -> None:
    anomaly = Anomaly(
        lattice_exponent_max=5,
        noise_rotation_degrees=90.0,
        mask_threshold=0.5,
        image_opacity_min=0.0,
        image_opacity_max=0.8,
        augmenters_per_texture=0,
    )
    draws = [anomaly_mask(32, 320, anomaly, np.random.default_rng(n)) for n in range(400)]
    covered = np.mean(draws, axis=(0, 1)).reshape(10, 32).mean(axis=1)
    assert covered.shape == (10,)
    assert covered.min() > 0.5 * covered.max()
