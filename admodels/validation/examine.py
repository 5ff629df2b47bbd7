"""Read the images of a task, at most twice, split them, and compare them with their rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage, Split
from admodels.images.pixels import Window
from admodels.images.reading import NoWindow, Reading
from admodels.images.rules import ImageRules
from admodels.validation import inspect
from admodels.validation.checks import Validate
from admodels.validation.groups import NearCopies, near_copies
from admodels.validation.inspect import Inspected
from admodels.validation.similarity import Pair, near_pairs
from admodels.validation.splits import Rows, Shortage, share_out
from admodels.validation.table import image_table

if TYPE_CHECKING:
    import pandas as pd


ANY_WINDOW = (0, 65535)  # of the first look at images of 32 bits, whose own is not learnt yet


@dataclass(frozen=True)
class Examination:
    """The table of the images, their near copies, how they are read, their splits and rules.

    `chains` are near copies, by path, that are too many to stand in one split. `no_splits` is the
    reason why `splits` is empty and `shortage` None; `rules` is None without an image to learn
    from.
    """

    table: "pd.DataFrame"
    pairs: list[Pair]
    chains: list[list[str]]
    reading: Reading
    splits: Rows
    shortage: Shortage | None
    no_splits: DataError | None
    rules: ImageRules | None


def examine(
    images: Sequence[DatasetImage],
    raw: Path,
    task: str,
    reading: Reading,
    bounds: Validate,
    split: Split,
    alpha: float,
    seed: int,
) -> Examination:
    """Read every image below `raw` by `reading`, and again where deep images need a window."""
    inspected, unreadable = inspect.inspect_images(images, raw, reading)
    if any(isinstance(error, NoWindow) for error in unreadable):
        anything = reading.model_copy(update={"window": ANY_WINDOW})
        inspected, unreadable = inspect.inspect_images(images, raw, anything)
    copies = near_copies(inspected, bounds.near_duplicate_bits)
    splits, shortage, no_splits = _splits(inspected, copies, split, alpha, seed, task)
    if window := _window(inspected, splits, raw, reading.page):
        reading = reading.model_copy(update={"window": window})
        inspected, unreadable = inspect.inspect_images(images, raw, reading)
    rules, faults = _rules(inspected, splits, reading, bounds)
    facts = [(row, fact) for _, row, fact in inspected]
    reasons: dict[str, str] = {str(error.where): error.reason for error in unreadable}
    table = image_table(images, facts, reasons, splits, faults)
    pairs = near_pairs(table, bounds.near_duplicate_bits)
    return Examination(table, pairs, copies.chains, reading, splits, shortage, no_splits, rules)


def _splits(
    inspected: Sequence[Inspected],
    copies: NearCopies,
    split: Split,
    alpha: float,
    seed: int,
    task: str,
) -> tuple[Rows, Shortage | None, DataError | None]:
    """The splits, or why there are none: the report is written in either case."""
    rows = [(image, row) for image, row, _ in inspected]
    try:
        return *share_out(rows, split, alpha, seed, task, copies.clusters), None
    except DataError as error:
        return {}, None, error


def _window(inspected: list[Inspected], splits: Rows, raw: Path, page: int | None) -> Window | None:
    """Of the images to learn from: what calibrates or tests must not shape how others are read."""
    held = {row.image_path for name in ("calibration", "test") for row in splits.get(name, ())}
    learnt = [row for image, row, _ in inspected if image.part == "learn"]
    return inspect.learnt_window([row for row in learnt if row.image_path not in held], raw, page)


def _rules(
    inspected: list[Inspected], splits: Rows, reading: Reading, bounds: Validate
) -> tuple[ImageRules | None, dict[str, str]]:
    """What the images to learn from and to calibrate with have in common; which test images not.

    The second value is the reason by the path of the test image.
    """
    looks = {image.image_path: inspect.look_of(row, facts) for image, row, facts in inspected}
    tested = {image.image_path for image, _, _ in inspected if image.part == "test"}
    tested |= {row.image_path for row in splits.get("test", ())}  # and those held out of learning
    learnt = [look for path, look in looks.items() if path not in tested]
    if not learnt:
        return None, {}
    tails: dict[str, int] = {}
    for image, _, facts in inspected:
        if image.image_path not in tested and facts.file_format:
            tails[facts.file_format] = max(tails.get(facts.file_format, 0), facts.zero_tail)
    rules = inspect.learnt_rules(
        learnt,
        reading,
        size_tolerance=bounds.size_tolerance,
        ratio_tolerance=bounds.ratio_tolerance,
        brightness=(bounds.min_brightness, bounds.max_brightness),
        min_contrast=bounds.min_contrast,
        zero_tails=dict(sorted(tails.items())),
    )
    faults = {path: rules.fault(looks[path]) for path in sorted(tested)}
    return rules, {path: fault[0] for path, fault in faults.items() if fault}
