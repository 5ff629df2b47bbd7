"""How the images of a task fall into four splits, and how many are missing for what is promised.

What stands in one split only is a unit: the images of a group, copies to the byte, near copies, or
one image alone. Units are shared out in an order drawn by seed and content. Calibration comes
first, then a test part where the data set has no normal images to test with, then training.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import Literal

from admodels.foundation.errors import DataError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import SPLITS, DatasetImage, ManifestRow, Part, Split, rank
from admodels.inference.conformal import images_needed

Unit = list[ManifestRow]
Rows = dict[str, list[ManifestRow]]
Image = DatasetImage | ManifestRow
LEAST_UNITS_TO_LEARN = 2  # one trains, one validates
TESTED_SHARE = 1 / 3  # at most, of the units that do not calibrate


@dataclass(frozen=True)
class Shortage:
    """How many more normal images, or groups of them, a promise and a test part would take."""

    unit: Literal["images", "groups"]
    to_calibrate: int = 0
    to_test: int = 0


@dataclass(frozen=True)
class Counts:
    """How many units calibrate, are held out to test with, and validate; the others train."""

    calibration: int
    test: int
    validation: int


@dataclass(frozen=True)
class Shares:
    """What decides the counts: `needed` units to calibrate, `least` to learn from.

    `calibrates` and `tests`: units are taken for these, as the data set has no such part.
    """

    split: Split
    needed: int
    least: int
    calibrates: bool
    tests: bool
    is_grouped: bool

    def counts(self, total: int) -> Counts:
        """How `total` units are shared out."""
        usual = _share(total, self.split.calibration_share)
        fits = usual < self.needed <= total - self.least
        calibration = (self.needed if fits else usual) if self.calibrates else 0
        left = total - calibration
        room = min(int(left * TESTED_SHARE), left - self.least)
        test = min(max(usual, self.needed), room) if self.tests and room >= self.needed else 0
        validation = _share(total, self.split.validation_share)
        if test or (fits and self.calibrates):  # in the proportion of the params to what trains
            learnt_share = 1 - self.split.calibration_share * self.calibrates
            validation = _share(left - test, self.split.validation_share / learnt_share)
            validation = min(validation, left - test - 1)
        return Counts(calibration, test, min(validation, left - test))

    def shortage(self, total: int, given: Sequence[Image]) -> Shortage:
        """How many more units calibration and a test part take; `given` calibrate already."""
        own = len({row.group or row.image_path for row in given})
        to_calibrate, to_test = max(0, self.needed - own), 0
        if self.calibrates:
            calibrating = ((m, self.counts(total + m).calibration) for m in count())
            to_calibrate = next(more for more, units in calibrating if units >= self.needed)
        if self.tests:
            to_test = next(more for more in count() if self.counts(total + more).test)
        return Shortage("groups" if self.is_grouped else "images", to_calibrate, to_test)


def share_out(
    image_rows: Sequence[tuple[DatasetImage, ManifestRow]],
    split: Split,
    alpha: float,
    seed: int,
    task: str,
    near_copies: Iterable[Sequence[str]] = (),
) -> tuple[Rows, Shortage]:
    """The rows of each of `SPLITS`, and how many more normal images would be needed.

    Units of learnable normal images are ordered by sha256("<seed>:<image_sha256 or group>"), those
    of images that `admodels collect` copied after all others. The
    first of them calibrate, unless the data set has a calibration part: `calibration_share` of
    them, or as many as `alpha` needs if `min_normal_images` are left to learn from. Where the data
    set has no normal images to test with, the next ones test: as many as calibrate, at most
    TESTED_SHARE of the others, and none where that is less than `alpha` needs, since a smaller
    part could not show a rate near `alpha`. The last ones validate, the rest trains. Counts are
    rounded half up and are at least 1. Each of `near_copies` are paths that stand in one split.

    Raises:
        DataError: two images share an id; an anomalous image stands where a method would learn
            from it; fewer normal images than `min_normal_images`; a group or the same content in
            two splits, which would make the figures of one of them false.
    """
    _refuse_shared_ids(task, [row for _, row in image_rows])
    _refuse_anomalous_outside_test(task, image_rows)
    parts: dict[Part, list[ManifestRow]] = {"learn": [], "calibration": [], "test": []}
    for image, row in image_rows:
        parts[image.part].append(row)
    _refuse_divided_groups(task, parts)
    _refuse_too_few(task, len(parts["learn"]), split.min_normal_images)
    units = _units(parts["learn"], near_copies, seed)
    shares = _shares(parts, len(units), split, alpha)
    shared_out = _share_units(units, shares.counts(len(units)))
    for own in ("calibration", "test"):
        shared_out[own] += parts[own]
    _refuse_shared_content(task, shared_out)
    _refuse_empty(task, shared_out)
    return shared_out, shares.shortage(len(units), parts["calibration"])


def shortage_of(images: Iterable[DatasetImage], split: Split, alpha: float) -> Shortage:
    """How many more normal images would be needed, if no two of `images` are copies.

    There must be some to learn from.
    """
    parts: dict[Part, list[DatasetImage]] = {"learn": [], "calibration": [], "test": []}
    for image in images:
        parts[image.part].append(image)
    units = len({image.group or image.image_path for image in parts["learn"]})
    return _shares(parts, units, split, alpha).shortage(units, parts["calibration"])


def _shares(
    parts: Mapping[Part, Sequence[Image]], units: int, split: Split, alpha: float
) -> Shares:
    """What decides how the units to learn from are shared out; `least` are of the usual size."""
    least = math.ceil(split.min_normal_images * units / len(parts["learn"]))
    return Shares(
        split,
        images_needed(alpha),
        max(LEAST_UNITS_TO_LEARN, least),
        calibrates=not parts["calibration"],
        tests=not any(row.label == "normal" for row in parts["test"]),
        is_grouped=any(row.group for row in (*parts["learn"], *parts["calibration"])),
    )


def splits_sentence(shared_out: Rows, images: Sequence[DatasetImage]) -> str:
    """How many images are in each split, and how many of them are held out to test with."""
    counts = ", ".join(f"{len(shared_out[name])} {name}" for name in SPLITS)
    held_out = held_out_images(shared_out, images)
    return counts + (f"; {held_out} normal images are held out to test with" if held_out else "")


def held_out_images(shared_out: Rows, images: Sequence[DatasetImage]) -> int:
    """How many test images are no test images of the data set's own."""
    own = {image.image_path for image in images if image.part == "test"}
    return sum(row.image_path not in own for row in shared_out.get("test", ()))


def _share_units(units: Sequence[Unit], counts: Counts) -> Rows:
    tested = counts.calibration + counts.test
    trained = len(units) - counts.validation
    bounds = {
        "train": (tested, trained),
        "validation": (trained, len(units)),
        "calibration": (0, counts.calibration),
        "test": (counts.calibration, tested),
    }
    return {
        name: [row for unit in units[start:stop] for row in unit]
        for name, (start, stop) in bounds.items()
    }


def _units(
    rows: Sequence[ManifestRow], near_copies: Iterable[Sequence[str]], seed: int
) -> list[Unit]:
    """The rows by unit, in the order in which units are shared out."""
    keys = {row.image_path: row.group or row.image_sha256 for row in rows}
    leader = {key: key for key in keys.values()}

    def first(key: str) -> str:
        while leader[key] != key:
            key = leader[key]
        return key

    for paths in near_copies:
        root, *others = sorted({first(keys[path]) for path in paths})
        leader |= dict.fromkeys(others, root)
    units: dict[str, Unit] = {}
    for row in sorted(rows, key=lambda row: row.image_path):
        units.setdefault(first(keys[row.image_path]), []).append(row)
    ordered = sorted(units, key=lambda key: rank(key, seed))
    return [units[key] for key in sorted(ordered, key=lambda key: _is_chosen(units[key]))]


def _is_chosen(unit: Unit) -> bool:
    """Whether `admodels collect` copied an image of the unit, which it names by its content.

    People chose these by what they looked at, often by a score: they must neither calibrate nor
    test while there are others.
    """
    return any(PurePosixPath(row.image_path).stem == row.image_sha256 for row in unit)


def _share(total: int, share: float) -> int:
    return max(1, int(total * share + 0.5))


def _refusal(task: str, fault: str, where: str, expected: str, remedy: str) -> DataError:
    step = f"{remedy}, then `admodels task refresh {task}`"
    return DataError(fault, where=where, expected=expected, next_step=step)


def _refuse_too_few(task: str, images: int, least: int) -> None:
    if images < least:
        raise _refusal(
            task,
            f"{images} normal images to learn from",
            "the task's train/good (or normal) images",
            f"at least {least} (params key `split.min_normal_images`)",
            "add normal images to the source",
        )


def _refuse_shared_ids(task: str, rows: list[ManifestRow]) -> None:
    first: dict[str, str] = {}
    clashes = [
        f"{other} and {row.image_path}"
        for row in rows
        if (other := first.setdefault(row.image_id, row.image_path)) != row.image_path
    ]
    if clashes:
        raise _refusal(
            task,
            "images differ only in their extension",
            names_text(clashes),
            "one image per name: the path without extension is the image's id",
            "rename or remove one of each",
        )


def _refuse_anomalous_outside_test(
    task: str, image_rows: Sequence[tuple[DatasetImage, ManifestRow]]
) -> None:
    wrong = [
        image.image_path
        for image, _ in image_rows
        if image.label == "anomalous" and image.part != "test"
    ]
    if wrong:
        raise _refusal(
            task,
            f"{len(wrong)} anomalous images outside the test part",
            names_text(wrong),
            "normal images only: a method would learn the defects as normal",
            "move them to the test part",
        )


def _refuse_divided_groups(task: str, parts: dict[Part, list[ManifestRow]]) -> None:
    first: dict[str, tuple[Part, str]] = {}
    clashes = {}
    for use, rows in parts.items():
        for row in rows:
            other, path = first.setdefault(row.group, (use, row.image_path))
            if row.group and other != use:
                clashes[row.group] = f"{row.group}: {path} ({other}) and {row.image_path} ({use})"
    if clashes:
        raise _refusal(
            task,
            f"{len(clashes)} groups stand on both sides of the data set's own split",
            names_text(clashes.values()),
            "a group in one part: what was learnt from a piece is no test of another image of it",
            "move all images of each group to one part",
        )


def _refuse_empty(task: str, shared_out: dict[str, list[ManifestRow]]) -> None:
    empty = [name for name in SPLITS[:-1] if not shared_out[name]]
    if empty:
        raise _refusal(
            task,
            f"no images are left for {', '.join(empty)}",
            names_text(row.image_path for name in SPLITS[:-1] for row in shared_out[name]),
            "enough different normal images: copies of one image, and groups, stay in one split",
            "remove the copies, or add normal images of other groups",
        )


def _refuse_shared_content(task: str, shared_out: dict[str, list[ManifestRow]]) -> None:
    first: dict[str, tuple[str, str]] = {}
    clashes = []
    for name, rows in shared_out.items():
        for row in rows:
            split, path = first.setdefault(row.image_sha256, (name, row.image_path))
            if split != name:
                clashes.append(f"{path} ({split}) and {row.image_path} ({name})")
    if clashes:
        raise _refusal(
            task,
            "the same image in two splits",
            names_text(clashes),
            "every image in one split only",
            "remove one file of each pair",
        )
