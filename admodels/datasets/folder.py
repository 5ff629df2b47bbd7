"""A plain folder of images, the layout that needs no tool to make.

normal/* or good/*, or *       normal, to learn from (right in the folder: all normal)
test_normal/*                  normal, to test with (optional)
<defect>/<name>.*              anomalous, to test with (optional)
masks/<defect>/<name>.*        its mask, also as <name>_mask.*; the whole folder may be absent
foreground/*                   mattes of normal images, of any layout (synthesis/foreground.py)

Or any layout at all, described by manifest.csv with the columns image_path and label (normal or
anomalous) and, where wanted, part (learn, calibration or test), defect_type and mask_path; paths
are relative to the table. Images that it does not name are left out.
"""

from pathlib import Path

from admodels.datasets import _tables, anomalous, base_of, folders_in, normal
from admodels.foundation.manifest import FOREGROUND, DatasetImage

LEARN = ("normal", "good")
TABLE = "manifest.csv"
REQUIRED = ("image_path", "label")
OPTIONAL = ("part", "defect_type", "mask_path")
PATHS = ("image_path", "mask_path")


def find_images(root: Path, category: str) -> list[DatasetImage]:
    """The images below `root`/`category`, or below `root` where it is the category itself.

    Raises:
        DataError: manifest.csv has other columns, or a row without a known label or part.
    """
    base = base_of(root, category)
    if (base / TABLE).is_file():
        return _from_table(root, base)
    images = normal(root, base, "learn")
    for folder in folders_in(base):
        if folder.name in LEARN:
            images += normal(root, folder, "learn")
        elif folder.name == "test_normal":
            images += normal(root, folder, "test")
        elif folder.name not in ("masks", FOREGROUND):
            images += anomalous(root, folder, base / "masks", ("", "_mask"))
    return images


def _from_table(root: Path, base: Path) -> list[DatasetImage]:
    above = base.relative_to(root)

    def image_of(cells: _tables.Cells) -> DatasetImage:
        is_normal = cells["label"] == "normal"
        filled = {column: value for column, value in cells.items() if value}
        paths = {c: (above / filled[c]).as_posix() for c in PATHS if c in filled}
        usual = {"part": "learn" if is_normal else "test"}
        kind = {} if is_normal else {"defect_type": "defect"}
        return _tables.image_of(cells | usual | kind | filled | paths, base / TABLE)

    return [image_of(cells) for cells in _tables.rows(base / TABLE, REQUIRED, OPTIONAL)]
