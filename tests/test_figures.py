"""What is painted where on an overlay sheet."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from admodels.evaluation import figures, measure
from admodels.evaluation.figures import Case
from admodels.evaluation.measure import Evaluate, ScoredSet
from admodels.evaluation.power import Power
from admodels.images import decode
from admodels.images.sheets import BACKGROUND, CAPTION_PX, GAP_PX, TILE_PX
from admodels.inference.model import map_to_image

LEGEND_PX = 3 * CAPTION_PX
COLUMN_PX = TILE_PX + GAP_PX
ROW_PX = TILE_PX + CAPTION_PX


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (TILE_PX, TILE_PX, 3), dtype=np.uint8)


def case(seed: int = 0) -> Case:
    anomaly_map, mask = np.zeros((64, 64), np.float32), np.zeros((64, 64), bool)
    anomaly_map[8:24, 8:24] = 1
    mask[32:48, 32:48] = True
    return Case("found: test/hole/000", noise(seed), anomaly_map, mask, noise(seed + 100))


def tile_at(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top = LEGEND_PX + row * ROW_PX + CAPTION_PX
    left = GAP_PX + column * COLUMN_PX
    return sheet[top : top + TILE_PX, left : left + TILE_PX]


def sheet_of(cases: list[Case], threshold: float | None = 0.5) -> np.ndarray:
    return figures.overlay_sheet(cases, low=0, high=1, threshold=threshold)


def test_a_sheet_has_a_row_for_every_case_and_a_column_for_every_view() -> None:
    cases = [case(0), case(1)]
    sheet = sheet_of(cases)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (LEGEND_PX + 2 * ROW_PX, GAP_PX + 4 * COLUMN_PX, 3)
    for at, shown in enumerate(cases):
        np.testing.assert_array_equal(tile_at(sheet, at, 0), shown.image)
        painted = figures.colour_map(map_to_image(shown.anomaly_map, TILE_PX, TILE_PX), 0, 1)
        np.testing.assert_array_equal(tile_at(sheet, at, 1), painted)
        np.testing.assert_array_equal(tile_at(sheet, at, 2), figures.draw_outlines(shown, 0.5))
        np.testing.assert_array_equal(tile_at(sheet, at, 3), shown.reconstruction)


def test_without_reconstructions_there_is_no_column_for_them() -> None:
    sheet = sheet_of([replace(case(), reconstruction=None)])
    assert sheet.shape[1] == GAP_PX + 3 * COLUMN_PX


def test_a_colour_stands_for_the_same_value_in_every_map() -> None:
    values = np.full((8, 8), 0.25, np.float32)
    alone = figures.colour_map(values, 0, 1)
    assert (alone == alone[0, 0]).all()
    beside = values.copy()
    beside[:, 4:] = 1
    np.testing.assert_array_equal(figures.colour_map(beside, 0, 1)[:, :4], alone[:, :4])
    dark, bright = figures.colour_map(values, 0.25, 1), figures.colour_map(values, 0, 0.25)
    assert dark.max() < 5
    red, green, blue = bright[0, 0].astype(int)
    assert red > 240
    assert green > 240
    assert blue < 200


def test_a_constant_map_is_black() -> None:
    assert figures.colour_map(np.full((8, 8), 3, np.float32), 3, 3).max() < 5


def test_outlines_stand_on_the_edges_of_the_mask_and_of_the_alarm() -> None:
    canvas = figures.draw_outlines(case(), 0.5)
    scale = TILE_PX // 64
    green, red = (np.all(canvas == c, axis=2) for c in (figures.TRUTH, figures.ALARM))
    for painted, first, last in ((green, 32, 48), (red, 8, 24)):
        rows, columns = np.nonzero(painted)
        assert (rows.min(), columns.min()) == (first * scale, first * scale)
        assert (rows.max(), columns.max()) == (last * scale - 1, last * scale - 1)
        assert painted.sum() == 4 * (16 * scale - 1)
    untouched = ~green & ~red
    np.testing.assert_array_equal(canvas[untouched], case().image[untouched])


def test_the_image_itself_is_not_painted_on() -> None:
    shown = case()
    figures.draw_outlines(shown, 0.5)
    np.testing.assert_array_equal(shown.image, noise(0))


def test_without_threshold_and_mask_nothing_is_outlined() -> None:
    shown = replace(case(), mask=None)
    np.testing.assert_array_equal(figures.draw_outlines(shown, None), shown.image)


def test_a_caption_is_written_and_a_long_one_keeps_its_end() -> None:
    def caption(words: str) -> np.ndarray:
        sheet = sheet_of([replace(case(), caption=words)])
        return sheet[LEGEND_PX : LEGEND_PX + CAPTION_PX]

    assert (caption("a") < 128).any()
    assert (caption("") == BACKGROUND).all()
    assert not np.array_equal(caption("x" * 500 + "1"), caption("x" * 500 + "2"))
    np.testing.assert_array_equal(caption("1" + "x" * 500), caption("2" + "x" * 500))
    assert (caption("W" * 500)[:, -GAP_PX:] == BACKGROUND).all()


def test_tiles_show_bytes_and_shares_alike() -> None:
    planes = np.random.default_rng(0).integers(0, 256, (2, 3, TILE_PX, TILE_PX), dtype=np.uint8)
    for plane in planes:
        for values in (plane, (plane / 255).astype(np.float32)):
            np.testing.assert_array_equal(figures.tile(values), plane.transpose(1, 2, 0))
    assert (figures.tile(np.full((3, 8, 8), 1.5, np.float32)) == 255).all()


def test_a_large_image_is_averaged_not_sampled() -> None:
    checkers = np.indices((2 * TILE_PX, 2 * TILE_PX)).sum(0) % 2 * 200
    planes = np.repeat(checkers[None], 3, axis=0).astype(np.uint8)
    assert (figures.tile(planes) == 100).all()


def test_misses_and_false_alarms_come_first_then_the_clearest_hits() -> None:
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.7, 0.3, 0.95, 0.99])
    anomalous = np.array([True, False, False, True, True, True, True, False])
    assert figures.worst_and_best(scores, anomalous, 6) == [0, 5, 7, 1, 6, 3]
    assert figures.worst_and_best(scores, anomalous, 100) == [0, 5, 4, 3, 6, 7, 1, 2]
    assert figures.worst_and_best(scores, anomalous, 1) == [0]


def test_a_set_of_one_kind_is_shown_too() -> None:
    scores = np.array([0.1, 0.3, 0.2])
    assert figures.worst_and_best(scores, np.zeros(3, bool), 6) == [1, 2, 0]
    assert figures.worst_and_best(scores, np.ones(3, bool), 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, (1, 9)), (2, (1, 4)), (8, (1, 9)), (1, (1, 9)), (0, (1, 9))]
)
def test_the_colours_reach_to_the_highest_map_or_to_thrice_the_threshold(
    threshold: float | None, expected: tuple[float, float]
) -> None:
    maps = np.array([[[1, 2]], [[9, 3]]], np.float32)
    assert figures.colour_range(maps, threshold) == expected


def overlays(
    calibration_images: int,
    masks: np.ndarray | None = None,
    rebuilt: list[np.ndarray] | None = None,
) -> np.ndarray:
    """The sheet of a missed image, a false alarm and a hit."""
    scored = ScoredSet(
        image_ids=["hole/0", "good/0", "hole/1"],
        anomalous=np.array([True, False, True]),
        defect_types=["hole", "good", "hole"],
        refused=["", "", ""],
        anomaly_scores=np.array([0.1, 2, 3], np.float32),
        anomaly_maps=np.stack([case().anomaly_map * k for k in (0.1, 2, 3)]),
        masks=masks,
    )
    power = Power(images=1, diameter_shares=(0.1,), contrasts=(9.0,))
    block = Evaluate(
        mask_px=64,
        ground_truth_rule="nearest",
        aupro_fpr_limit=0.3,
        alpha=0.5,
        overlay_images=3,
        power=power,
    )
    calibration = np.linspace(0, 1, calibration_images)
    measured = measure.evaluate(scored, calibration, block)
    return figures.overlays(scored, measured, [noise(i) for i in range(3)], rebuilt or [], 3)


def test_a_measured_set_is_shown_worst_first() -> None:
    sheet = overlays(9)
    for row, image in enumerate((0, 1, 2)):
        np.testing.assert_array_equal(tile_at(sheet, row, 0), noise(image))
    red = [np.all(tile_at(sheet, row, 2) == figures.ALARM, axis=2).any() for row in range(3)]
    assert red == [False, True, True]


def test_a_measured_set_is_shown_with_its_masks_and_reconstructions() -> None:
    sheet = overlays(9, masks=np.stack([case().mask] * 3), rebuilt=[noise(7)] * 3)
    np.testing.assert_array_equal(tile_at(sheet, 1, 3), noise(7))
    assert np.all(tile_at(sheet, 1, 2) == figures.TRUTH, axis=2).any()


def test_the_legend_states_the_colour_range_and_the_threshold() -> None:
    def legend(line: int, low: float = 0, high: float = 1, t: float | None = 0.5) -> bytes:
        sheet = figures.overlay_sheet([case()], low=low, high=high, threshold=t)
        return sheet[line * CAPTION_PX : (line + 1) * CAPTION_PX].tobytes()

    assert len({legend(0), legend(0, low=0.25), legend(0, high=2)}) == 3
    assert len({legend(1), legend(1, t=0.25), legend(1, t=None)}) == 3


def test_captions_say_verdict_image_score_and_p_value() -> None:
    def caption(sheet: np.ndarray, row: int) -> np.ndarray:
        return sheet[LEGEND_PX + row * ROW_PX :][:CAPTION_PX]

    words = [
        "missed: hole/0  score 0.1  p 0.9",
        "false alarm: good/0  score 2  p 0.1",
        "found: hole/1  score 3  p 0.1",
    ]
    expected = sheet_of([replace(case(), caption=w, reconstruction=None) for w in words])
    for row in range(3):
        np.testing.assert_array_equal(caption(overlays(9), row), caption(expected, row))


def test_without_a_threshold_the_caption_keeps_to_the_label() -> None:
    words = "anomalous: hole/0  score 0.1  p 1"
    expected = sheet_of([replace(case(), caption=words, reconstruction=None)])
    where = slice(LEGEND_PX, LEGEND_PX + CAPTION_PX)
    np.testing.assert_array_equal(overlays(0)[where], expected[where])


def test_the_same_sheet_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        decode.write_png(tmp_path / name, overlays(9))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
