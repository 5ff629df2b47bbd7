"""The manifest: one row per image with content hashes, and how images fall into four splits."""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from admodels.foundation.errors import DataError
from admodels.foundation.files import names_text, whole_file
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

    `moved`: the release learns from this anomalous image, we test with it.
    """

    image_path: str
    label: Label
    defect_type: str
    mask_path: str
    part: Part
    moved: bool = False


@dataclass(frozen=True)
class ManifestRow:
    """One manifest row; the fields are the CSV's columns, in order. No mask: empty strings."""

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


COLUMNS = tuple(field.name for field in fields(ManifestRow))


def write(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows sorted by `image_path`; readers never see half a file."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.image_path))


def read(path: Path) -> list[ManifestRow]:
    """The rows of a manifest, in file order.

    Raises:
        DataError: the file is missing, or it is not a manifest as `write` writes it.
    """
    if not path.is_file():
        raise _not_a_manifest("manifest is missing", path)
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        header = next(table, [])
        if header != list(COLUMNS):
            raise _not_a_manifest(f"manifest has the columns {header}", path)
        return [_row(cells, f"{path}:{table.line_num}") for cells in table]


def _row(cells: list[str], where: str) -> ManifestRow:
    if len(cells) != len(COLUMNS):
        raise _not_a_manifest(f"manifest row has {len(cells)} cells", where)
    values = dict(zip(COLUMNS, cells, strict=True))
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
        expected=f"a CSV with the columns {', '.join(COLUMNS)}, written by the validate stage",
        next_step="dvc repro validate",
    )


def splits(
    image_rows: list[tuple[DatasetImage, ManifestRow]], split: Split, seed: int, task: str
) -> dict[str, list[ManifestRow]]:
    """The rows of each of `SPLITS`.

    Learnable normal images are ordered by sha256("<seed>:<image_sha256>"): the first
    calibration_share of them calibrate (unless the dataset has a calibration part), the last
    validation_share validate, the rest train. Counts are rounded half up and are at least 1.

    Raises:
        DataError: two images share an id; an anomalous image stands where a method would learn
            from it; fewer normal images than `min_normal_images`; the same content in two
            splits, which would make the figures of one of them false.
    """
    _refuse_shared_ids(task, [row for _, row in image_rows])
    _refuse_anomalous_outside_test(task, image_rows)
    parts: dict[Part, list[ManifestRow]] = {"learn": [], "calibration": [], "test": []}
    for image, row in image_rows:
        parts[image.part].append(row)
    learn = sorted(parts["learn"], key=lambda row: (_rank(row, seed), row.image_path))
    if len(learn) < split.min_normal_images:
        raise _refusal(
            task,
            f"{len(learn)} normal images to learn from",
            "the task's train/good (or normal) images",
            f"at least {split.min_normal_images} (params key `split.min_normal_images`)",
            "add normal images to the source",
        )
    given = parts["calibration"]
    calibrating = 0 if given else _share(len(learn), split.calibration_share)
    training = len(learn) - _share(len(learn), split.validation_share)
    calibrating, training = _past_copies(learn, calibrating), _past_copies(learn, training)
    shared_out = {
        "train": learn[calibrating:training],
        "validation": learn[training:],
        "calibration": given or learn[:calibrating],
        "test": parts["test"],
    }
    _refuse_shared_content(task, shared_out)
    _refuse_empty(task, shared_out)
    return shared_out


def _rank(row: ManifestRow, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{row.image_sha256}".encode()).hexdigest()


def _share(count: int, share: float) -> int:
    return max(1, int(count * share + 0.5))


def _past_copies(rows: list[ManifestRow], border: int) -> int:
    """`border`, moved on until no two copies of an image stand on both sides of it."""
    while 0 < border < len(rows) and rows[border].image_sha256 == rows[border - 1].image_sha256:
        border += 1
    return border


def _refusal(task: str, fault: str, where: str, expected: str, remedy: str) -> DataError:
    step = f"{remedy}, then `admodels task refresh {task}`"
    return DataError(fault, where=where, expected=expected, next_step=step)


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
    task: str, image_rows: list[tuple[DatasetImage, ManifestRow]]
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


def _refuse_empty(task: str, shared_out: dict[str, list[ManifestRow]]) -> None:
    empty = [name for name in SPLITS[:-1] if not shared_out[name]]
    if empty:
        raise _refusal(
            task,
            f"no images are left for {', '.join(empty)}",
            names_text(row.image_path for name in SPLITS[:-1] for row in shared_out[name]),
            "enough different normal images: copies of one image stay in one split",
            "remove the copies, or add other normal images",
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
