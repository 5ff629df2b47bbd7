"""VisA (Zou et al., ECCV 2022), as released or as its authors' `1cls` tool converts it.

released:   split_csv/1cls.csv                      object, split, label, image, mask
            <category>/Data/Images/{Normal,Anomaly}/*.JPG
            <category>/Data/Masks/Anomaly/*.png     class ids, which look black
converted:  MVTec AD's layout, with masks called like their images
"""

from pathlib import Path

from admodels.datasets import _tables, base_of, mvtec_ad
from admodels.errors import DataError
from admodels.manifest import Found

SPLIT = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
WORDS = {"normal": ("normal", ""), "anomaly": ("anomalous", "bad")}  # label, defect_type


def found(root: Path, category: str) -> list[Found]:
    """The images below `root`/`category`; converted, `root` may be the category itself.

    Raises:
        DataError: a release without the table that says which images are for testing.
    """
    if not (base_of(root, category) / "Data").is_dir():
        return mvtec_ad.found(root, category, ("",))
    if not (root / SPLIT).is_file():
        raise DataError(
            "VisA's table of splits is missing",
            where=root / SPLIT,
            expected="the release as it is, with split_csv beside the categories",
            next_step="give the folder or archive that holds both as the task's source",
        )
    table = _tables.rows(root / SPLIT, COLUMNS)
    return [_found(cells, root / SPLIT) for cells in table if cells["object"] == category]


def _found(cells: _tables.Cells, table: Path) -> Found:
    """The row in our words; what is no word of theirs stays, and is refused."""
    label, kind = WORDS.get(cells["label"], (cells["label"], ""))
    part = mvtec_ad.PARTS.get(cells["split"], cells["split"])
    named = {"image_path": cells["image"], "mask_path": cells["mask"]}
    return _tables.one(named | {"label": label, "defect_type": kind, "part": part}, table)
