"""A plain folder of images, the layout that needs no tool to make; docs/layouts.md has a picture.

normal/** or good/**, or *     normal, to learn from (right in the folder: all normal)
test_normal/**                 normal, to test with (optional)
<defect>/**/<name>.*           anomalous, to test with (optional)
masks/<defect>/**/<name>.*     its mask, also as <name>_mask.*; the whole folder may be absent
foreground/*                   mattes of normal images, of any layout (synthesis/foreground.py)

Or any layout at all, described by manifest.csv with the columns image_path and label (normal or
anomalous) and, where wanted, part (learn, calibration or test), defect_type, mask_path and group
(the piece or the run that images belong to); paths are relative to the table. Images that it does
not name are left out.
"""

from collections.abc import Sequence
from unicodedata import normalize

from admodels.datasets import Files, _tables, is_normal, masks_of, refuse_unclear
from admodels.foundation.files import names_text
from admodels.foundation.manifest import FOREGROUND, DatasetImage

TABLE = "manifest.csv"
REQUIRED = ("image_path", "label")
OPTIONAL = ("part", "defect_type", "mask_path", "group")
PATHS = ("image_path", "mask_path")
MASKS = "masks"
TEST_NORMAL = "test_normal"
COMPANIONS = (TABLE,)
EXPECTED = "normal/*.png, DEFECT/*.png, masks/DEFECT/*.png; or manifest.csv with image_path, label"


def images_of(files: Files, normal_folders: Sequence[str]) -> list[DatasetImage]:
    """The images of the folder, or of its manifest.csv where it has one.

    Raises:
        ConfigurationError: a folder could be normal or a defect.
        DataError: manifest.csv has other columns, or a row without a known label or part.
    """
    if files.base + TABLE in files.paths:
        return _from_table(files)
    masks = masks_of(files, MASKS, ("", "_mask"))
    images = []
    for path, (top, *below) in files.images():
        if not below or is_normal(top, normal_folders):
            images.append(DatasetImage(path, "normal", "", "", "learn"))
        elif top.casefold() == TEST_NORMAL:
            images.append(DatasetImage(path, "normal", "", "", "test"))
        elif top.casefold() not in (MASKS, FOREGROUND):
            images.append(DatasetImage(path, "anomalous", top, masks.of((top, *below)), "test"))
    refuse_unclear(images, files, normal_folders)
    return images


def _from_table(files: Files) -> list[DatasetImage]:
    """The images of manifest.csv; its paths may have the backslashes of Windows.

    Raises:
        DataError: names the lines of images that are not there, or are no relative paths.
    """
    table = files.root / files.base / TABLE
    known = {normalize("NFC", path): path for path in files.paths}
    images, missing = [], []
    for line, cells in _tables.read_table(table, REQUIRED, OPTIONAL):
        where = f"{table}, line {line}"
        paths = {c: _path(cells[c], files.base, known, where) for c in PATHS if cells[c]}
        is_normal_image = cells["label"].casefold() == "normal"
        usual = {"part": "learn" if is_normal_image else "test"}
        usual |= {} if is_normal_image else {"defect_type": "defect"}
        filled = {column: value for column, value in cells.items() if value}
        images.append(_tables.image_of(cells | usual | filled | paths, where))
        if normalize("NFC", images[-1].image_path) not in known:
            missing.append(f"line {line}: {images[-1].image_path}")
    if missing:
        expected = f"files below {files.root / files.base}, in the case that they have there"
        wrong = f"{len(missing)} files that it names are not there"
        raise _tables.unclear(wrong, f"{table}, {names_text(missing)}", expected)
    return images


def _path(text: str, base: str, known: dict[str, str], where: str) -> str:
    """The path as the file system spells it: macOS takes a letter and its accent apart."""
    if exact := known.get(normalize("NFC", base + text)):
        return exact
    path = text.replace("\\", "/")
    if path.startswith("/") or ":" in path[:2] or ".." in path.split("/"):
        expected = "a path relative to the table, of a file beside or below it"
        raise _tables.unclear(f"`{text}` stands outside", where, expected)
    path = base + path.removeprefix("./")
    return known.get(normalize("NFC", path), path)
