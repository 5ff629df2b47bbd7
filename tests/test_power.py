"""Defects painted to measure with: their size, contrast and place are what is asked for."""

import numpy as np
import pytest
from pydantic import ValidationError

from admodels.evaluation import power
from admodels.evaluation.power import Defect, Power

BLOCK = Power(images=2, diameter_shares=(0.5, 0.1), contrasts=(80.0, 20.0))


def drawn(defect: Defect, seed: int, level: int = 128, part: object = None) -> np.ndarray:
    """The change on an even image of 200 x 300 px."""
    rgb = np.full((200, 300, 3), level, np.uint8)
    part = np.full((10, 10), 255, np.uint8) if part is None else part
    return power.paint_defect(rgb, part, defect, np.random.default_rng(seed)).astype(int) - level


@pytest.mark.parametrize("diameter_px", [2.0, 6.0, 40.0])
@pytest.mark.parametrize("contrast", [10.0, 80.0])
def test_a_defect_has_the_area_of_its_disc_and_its_contrast(diameter_px, contrast) -> None:
    centre = np.zeros((9, 9), np.uint8)
    centre[4, 4] = 255  # away from the border, which would cut it
    shares = []
    for seed in range(20):
        change = drawn(Defect(0, diameter_px, contrast), seed, part=centre)
        assert set(np.sign(change[change != 0])) in ({1}, {-1})
        assert np.abs(change).max() <= contrast
        if diameter_px > 2:
            assert np.abs(change).max() == contrast
        shares.append(np.abs(change[:, :, 0]).sum() / contrast)
    area = np.pi * diameter_px**2 / 4
    assert np.mean(shares) == pytest.approx(area, rel=0.1)


def test_a_defect_lies_around_a_place_of_the_part() -> None:
    part = np.zeros((4, 6), np.uint8)
    part[3, 1] = 255
    for seed in range(20):
        rows, columns = np.nonzero(drawn(Defect(0, 4, 50), seed, part=part)[:, :, 0])
        assert 150 - 6 <= rows.min() <= rows.max() <= 200
        assert 50 - 6 <= columns.min() <= columns.max() <= 100 + 6


def test_no_defect_changes_nothing_and_the_image_given_is_left_alone() -> None:
    rgb = np.full((30, 30, 3), 128, np.uint8)
    part = np.full((3, 3), 255, np.uint8)
    same = power.paint_defect(rgb, part, Defect(0, 0, 0), np.random.default_rng(1))
    assert (same == 128).all()
    assert (power.paint_defect(rgb, part, Defect(0, 9, 9), np.random.default_rng(1)) != 128).any()
    assert (rgb == 128).all()


@pytest.mark.parametrize(("level", "sign"), [(20, 1), (240, -1)])
def test_where_one_way_has_no_room_the_other_is_taken(level: int, sign: int) -> None:
    for seed in range(10):
        change = drawn(Defect(0, 9, 60), seed, level)
        assert np.abs(change).max() == 60
        assert set(np.sign(change[change != 0])) == {sign}


def test_both_ways_and_many_angles_are_drawn_and_a_seed_repeats() -> None:
    some = [drawn(Defect(0, 12, 40), seed) for seed in range(12)]
    assert {int(np.sign(one.sum())) for one in some} == {-1, 1}
    again = drawn(Defect(0, 12, 40), 3)
    assert (again == some[3]).all()
    assert len({one.tobytes() for one in some}) == 12


def test_the_grid_begins_with_no_defect_and_is_in_pixels_of_the_shorter_side() -> None:
    found = list(power.grid(np.zeros((40, 90, 3), np.uint8), BLOCK))
    assert found == [
        Defect(0, 0, 0),
        Defect(0.1, 4, 20),
        Defect(0.5, 20, 20),
        Defect(0.1, 4, 80),
        Defect(0.5, 20, 80),
    ]


def test_the_table_counts_what_lies_above_the_threshold() -> None:
    defects = [Defect(0, 0, 0), Defect(0.1, 4, 20), Defect(0, 0, 0), Defect(0.1, 6, 20)]
    found = power.table(defects, np.array([0.1, 0.9, 0.5, 0.5]), 0.5)
    assert found.to_csv(index=False, lineterminator="\n").splitlines() == [
        "contrast,diameter_share,diameter_px,images,caught,caught_share",
        "0,0.0,0.0,2,0,0.0",
        "20,0.1,5.0,2,1,0.5",
    ]
    unknown = power.table(defects, np.array([0.1, 0.9, 0.5, 0.5]), None)
    assert unknown["caught_share"].isna().all()


@pytest.mark.parametrize(
    ("shares", "smallest"),
    [
        ([(2, 0.1), (4, 0.9), (8, 1.0)], 4),
        ([(2, 1.0), (4, 0.8), (8, 0.95)], 8),  # what luck caught among the smaller ones is none
        ([(2, 1.0), (4, 1.0), (8, 0.8)], None),
        ([(2, 0.9)], 2),
        ([(2, None), (4, None)], None),
    ],
)
def test_the_smallest_caught_is_where_all_larger_ones_are(shares, smallest) -> None:
    assert power.smallest_caught(shares) == smallest
    assert power.smallest_caught(shares[::-1]) == smallest


@pytest.mark.parametrize(
    "change",
    [{"images": 0}, {"contrasts": ()}, {"diameter_shares": (0.0,)}, {"contrasts": (-1.0,)}],
)
def test_a_grid_outside_its_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Power.model_validate(BLOCK.model_dump() | change)
