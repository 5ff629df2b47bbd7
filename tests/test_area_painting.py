"""No method paints an anomaly outside the inspected area."""

import numpy as np
import torch

from admodels.methods.cpr.pairs import synthetic_sample
from admodels.synthesis.anomalies import batch_on_parts, synthetic_batch
from admodels.synthesis.augmenters import rotate
from tests import tiny

INSIDE = np.zeros((4, tiny.PX, tiny.PX), np.bool_)
INSIDE[:, 20:44, 10:40] = True


def test_draem_paints_inside_the_area_also_where_images_are_turned() -> None:
    normal, textures = torch.from_numpy(tiny.stripes(4, 1)), torch.from_numpy(tiny.textures())
    params = tiny.detector("draem").params
    for turned in (0.0, 1.0):
        generator = params.generator.model_copy(
            update={"clean_share": 0.0, "image_rotation_share": turned}
        )
        batch = synthetic_batch(
            normal,
            textures,
            generator,
            batch=12,
            seed=3,
            step=0,
            inspected=torch.from_numpy(INSIDE),
        )
        masks = batch.mask[:, 0].numpy() > 0
        assert masks.any(axis=(1, 2)).sum() >= 10  # drawn again where it missed the area
        centre = np.ogrid[: tiny.PX, : tiny.PX]
        middle = (tiny.PX - 1) / 2
        reach = max(
            np.hypot(y - middle, x - middle) for y in (20, 43) for x in (10, 39)
        )  # a turn keeps distances from the middle
        far = np.hypot(centre[0] - middle, centre[1] - middle) > reach + 1
        assert not masks[:, far if turned else ~INSIDE[0]].any()


def test_the_area_is_turned_as_its_image_is() -> None:
    area = rotate(INSIDE[0].astype(np.float32), 90) > 0.5
    np.testing.assert_array_equal(area, np.rot90(INSIDE[0], -1))


def test_cpr_and_diffusionad_paint_inside_the_area() -> None:
    normal, textures = torch.from_numpy(tiny.stripes(4, 1)), torch.from_numpy(tiny.textures())
    params = tiny.detector("cpr").params
    generator = params.generator.model_copy(update={"clean_share": 0.0})
    params = params.model_copy(update={"generator": generator})
    samples = [
        synthetic_sample(
            normal,
            textures,
            None,
            params,
            self_share=0.0,
            seed=2,
            number=number,
            inspected=torch.from_numpy(INSIDE),
        )
        for number in range(8)
    ]
    assert any(sample.mask.any() for sample in samples)
    assert not any((sample.mask & ~INSIDE[0]).any() for sample in samples)
    mattes = torch.from_numpy(INSIDE[:, None] * np.uint8(255))
    generator = tiny.detector("diffusionad").params.generator
    batch = batch_on_parts(
        normal, textures, mattes, generator, kind="texture", batch=8, seed=1, step=0
    )
    assert batch.mask.any()
    assert not batch.mask[:, 0].numpy()[:, ~INSIDE[0]].any()
