"""VisA (Zou et al., ECCV 2022), as released or as its authors' `1cls` tool converts it.

released:   split_csv/1cls.csv                      object, split, label, image, mask
            <category>/Data/Images/{Normal,Anomaly}/*.JPG
            <category>/Data/Masks/Anomaly/*.png     class ids, which look black
converted:  MVTec AD's layout, with masks called like their images
"""

from collections.abc import Sequence

from admodels.datasets import SPLIT_TABLES, Files, Official, _tables, mvtec_ad
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage

SPLIT = f"{SPLIT_TABLES}/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
WORDS = {"normal": ("normal", ""), "anomaly": ("anomalous", "bad")}  # label, defect_type
COMPANIONS = (f"{SPLIT_TABLES}/*.csv", "*/image_anno.csv", "image_anno.csv")
EXPECTED = f"{SPLIT} beside CATEGORY/Data/Images, or the layout `mvtec_ad`"
OFFICIAL = Official(
    page="https://github.com/amazon-science/spot-diff",
    licence="CC BY 4.0",  # README of the release
    # 1,929,840,640 bytes; the hash is that of anomalib and of others who downloaded it
    urls=("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",),
    sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
)


def images_of(files: Files, normal_folders: Sequence[str]) -> list[DatasetImage]:
    """The images of the category.

    Raises:
        DataError: a release without the table that says which images are for testing.
    """
    if not any(path.startswith(f"{files.base}Data/") for path in files.paths):
        return mvtec_ad.images_of(files, normal_folders, ("",))
    above = files.base.removesuffix(f"{files.category}/")
    if files.base == above or above + SPLIT not in files.paths:
        raise DataError(
            "VisA's table of splits is missing",
            where=files.root / above / SPLIT,
            expected="the release as it is, with split_csv beside the categories",
            next_step="give the folder or archive that holds both as the task's source",
        )
    table = files.root / above / SPLIT
    rows = _tables.read_table(table, COLUMNS)
    return [_from_split(row, above, table) for row in rows if row.cells["object"] == files.category]


def _from_split(row: _tables.TableRow, above: str, table: object) -> DatasetImage:
    """The row in our words; a word that is none of theirs stays, and is refused."""
    cells = row.cells
    label, kind = WORDS.get(cells["label"], (cells["label"], ""))
    use = mvtec_ad.PARTS.get(cells["split"], cells["split"])
    paths = {"image_path": above + cells["image"], "mask_path": above + cells["mask"]}
    if not cells["mask"]:
        paths["mask_path"] = ""
    values = paths | {"label": label, "defect_type": kind, "part": use}
    return _tables.image_of(values, f"{table}, line {row.line}")
