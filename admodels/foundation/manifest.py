"""The manifest: one row per image with content hashes; each of the four splits is one."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from admodels.foundation.errors import DataError
from admodels.foundation.files import whole_file
from admodels.foundation.params import Strict

Label = Literal["normal", "anomalous"]
Part = Literal["learn", "calibration", "test"]

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".j2k")
)
FOREGROUND = "foreground"  # folder of the user's mattes: FOREGROUND/<path of the image>.png
SPLITS = ("train", "validation", "calibration", "test")
LEAST_TRAIN_SHARE = 0.1


class Split(Strict):
    """How the learnable normal images of a task are shared out."""

    validation_share: float = Field(gt=0, lt=0.5)
    calibration_share: float = Field(gt=0, lt=0.8)
    min_normal_images: int = Field(ge=11)

    @model_validator(mode="after")
    def _leaves_something_to_learn_from(self) -> Self:
        if self.validation_share + self.calibration_share > 1 - LEAST_TRAIN_SHARE:
            raise ValueError(
                f"validation_share + calibration_share leave less than {LEAST_TRAIN_SHARE} to train"
            )
        return self


@dataclass(frozen=True)
class DatasetImage:
    """One image as a dataset lays it out; paths are POSIX and relative to the raw root.

    `moved`: the release learns from this anomalous image, we test with it. `group`: what images of
    one piece, or of one run of the camera, have in common; empty where that is unknown.
    """

    image_path: str
    label: Label
    defect_type: str
    mask_path: str
    part: Part
    moved: bool = False
    group: str = ""


@dataclass(frozen=True)
class ManifestRow:
    """One manifest row; the fields are the CSV's columns, in order. No mask: empty strings.

    The file has the last column only where an image is known to belong to a group.
    """

    image_id: str
    image_path: str
    image_sha256: str
    width: int
    height: int
    mode: str
    bit_depth: int
    label: Label
    defect_type: str
    mask_path: str
    mask_sha256: str
    foreground_path: str
    foreground_sha256: str
    group: str = ""


COLUMNS = tuple(field.name for field in fields(ManifestRow))
UNGROUPED = COLUMNS[:-1]  # of a manifest without groups, as all were before there were any


def write(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows sorted by `image_path`; readers never see half a file."""
    ordered = sorted(rows, key=lambda row: row.image_path)
    columns = COLUMNS if any(row.group for row in ordered) else UNGROUPED
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(astuple(row)[: len(columns)] for row in ordered)


def read(path: Path) -> list[ManifestRow]:
    """The rows of a manifest, in file order.

    Raises:
        DataError: the file is missing, or it is not a manifest as `write` writes it.
    """
    if not path.is_file():
        raise _not_a_manifest("manifest is missing", path)
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        header = tuple(next(table, []))
        if header not in (COLUMNS, UNGROUPED):
            raise _not_a_manifest(f"manifest has the columns {[*header]}", path)
        return [_row(header, cells, f"{path}:{table.line_num}") for cells in table]


def rank(text: str, seed: int) -> str:
    """A place for an image's sha256, or for the name of a group, in an order drawn by seed."""
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def one_of_each_group(rows: Sequence[ManifestRow], seed: int) -> list[ManifestRow]:
    """One image of each group, drawn by seed and content, and every image without a group.

    Two images of one piece are no two independent looks at the line: what promises, or measures, a
    rate for new pieces counts a piece once. In the order of `rows`.
    """
    drawn: dict[tuple[str, str], ManifestRow] = {}
    for row in sorted(rows, key=lambda row: rank(row.image_sha256, seed)):
        drawn.setdefault((row.group, "" if row.group else row.image_path), row)
    kept = {row.image_path for row in drawn.values()}
    return [row for row in rows if row.image_path in kept]


def _row(columns: tuple[str, ...], cells: list[str], where: str) -> ManifestRow:
    if len(cells) != len(columns):
        raise _not_a_manifest(f"manifest row has {len(cells)} cells", where)
    values = dict(zip(columns, cells, strict=True))
    numbers = {name: values[name] for name in ("width", "height", "bit_depth")}
    unfit = [name for name, text in numbers.items() if not (text.isascii() and text.isdigit())]
    if values["label"] not in get_args(Label):
        unfit.append("label")
    if unfit:
        raise _not_a_manifest(f"manifest row has no valid {', '.join(unfit)}", where)
    return ManifestRow(**{**values, **{name: int(text) for name, text in numbers.items()}})  # type: ignore[arg-type]


def _not_a_manifest(fault: str, where: object) -> DataError:
    return DataError(
        fault,
        where=where,
        expected=f"a CSV with the columns {', '.join(UNGROUPED)}, written by the validate stage",
        next_step="dvc repro validate",
    )
