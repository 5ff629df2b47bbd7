"""VisA (Zou et al., ECCV 2022), as released or as its authors' `1cls` tool converts it.

released:   split_csv/1cls.csv                      object, split, label, image, mask
            <category>/Data/Images/{Normal,Anomaly}/*.JPG
            <category>/Data/Masks/Anomaly/*.png     class ids, which look black
converted:  MVTec AD's layout, with masks called like their images
"""

from pathlib import Path

from admodels.datasets import Official, _tables, base_of, mvtec_ad
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage

SPLIT = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
WORDS = {"normal": ("normal", ""), "anomaly": ("anomalous", "bad")}  # label, defect_type
OFFICIAL = Official(
    page="https://github.com/amazon-science/spot-diff",
    licence="CC BY 4.0",  # README of the release
    # 1,929,840,640 bytes; the hash is that of anomalib and of others who downloaded it
    urls=("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",),
    sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
)


def find_images(root: Path, category: str) -> list[DatasetImage]:
    """The images below `root`/`category`; converted, `root` may be the category itself.

    Raises:
        DataError: a release without the table that says which images are for testing.
    """
    if not (base_of(root, category) / "Data").is_dir():
        return mvtec_ad.find_images(root, category, ("",))
    if not (root / SPLIT).is_file():
        raise DataError(
            "VisA's table of splits is missing",
            where=root / SPLIT,
            expected="the release as it is, with split_csv beside the categories",
            next_step="give the folder or archive that holds both as the task's source",
        )
    table = _tables.rows(root / SPLIT, COLUMNS)
    return [_from_split(cells, root / SPLIT) for cells in table if cells["object"] == category]


def _from_split(cells: _tables.Cells, table: Path) -> DatasetImage:
    """The row in our words; a word that is none of theirs stays, and is refused."""
    label, kind = WORDS.get(cells["label"], (cells["label"], ""))
    use = mvtec_ad.PARTS.get(cells["split"], cells["split"])
    paths = {"image_path": cells["image"], "mask_path": cells["mask"]}
    return _tables.image_of(paths | {"label": label, "defect_type": kind, "part": use}, table)
