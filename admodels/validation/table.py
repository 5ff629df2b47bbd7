"""The table of a task's images: what is known of each, and of each against the others."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from admodels.foundation.manifest import DatasetImage, ManifestRow
from admodels.validation import similarity
from admodels.validation.inspect import Facts

if TYPE_CHECKING:
    import pandas as pd

COMPUTED = (
    *("split", "problem", "rule_fault", "is_learnable"),
    *("size", "shorter_side_px", "perceptual_hash"),
)
NUMBERS = ("brightness", "contrast", "sharpness", "mask_area_share", "shorter_side_px")


def image_table(
    images: Sequence[DatasetImage],
    facts: Sequence[tuple[ManifestRow, Facts]],
    unreadable: dict[str, str],
    splits: dict[str, list[ManifestRow]],
    faults: dict[str, str],
) -> "pd.DataFrame":
    """One row per image, sorted by path: manifest columns, facts, and what is wrong with it.

    `facts` are those of the readable images. `unreadable` holds the reason of each of the others
    by image path, and `faults` the rule that a test image breaks. An image in none of `splits`
    has its dataset's part as its split.
    """
    import pandas as pd

    split_of = {row.image_path: name for name, rows in splits.items() for row in rows}
    known = {row.image_path: _columns(row, fact) for row, fact in facts}
    names = (f.name for model in (DatasetImage, ManifestRow, Facts) for f in fields(model))
    records = [
        asdict(image)
        | known.get(image.image_path, {})
        | {
            "image_id": image.image_path.rsplit(".", 1)[0],
            "split": split_of.get(image.image_path, image.part),
            "problem": unreadable.get(image.image_path, ""),
            "rule_fault": faults.get(image.image_path, ""),
            "is_learnable": int(image.part == "learn" and image.image_path in known),
            "perceptual_hash": "",
        }
        for image in sorted(images, key=lambda image: image.image_path)
    ]
    table = pd.DataFrame(records, columns=list(dict.fromkeys((*names, *COMPUTED))))
    table[list(NUMBERS)] = table[list(NUMBERS)].astype(float)
    _add_hashes_and_oddity(table)
    _add_copies_and_missing_mattes(table)
    return table


def _columns(row: ManifestRow, fact: Facts) -> dict[str, Any]:
    return {
        **asdict(row),
        **asdict(fact),
        "bit_depth": f"{row.bit_depth} bit",
        "size": f"{row.width} x {row.height} px",
        "shorter_side_px": min(row.width, row.height),
    }


def _add_hashes_and_oddity(table: "pd.DataFrame") -> None:
    """Replace the thumbnails by hashes, and by the oddity of the images to learn from."""
    known = table["thumbnail"].notna()
    data = b"".join(table.pop("thumbnail")[known])
    thumbnails = np.frombuffer(data, dtype=np.uint16).reshape(-1, similarity.CELLS)
    table["oddity"] = math.nan
    if len(thumbnails):
        hashes = similarity.perceptual_hashes(thumbnails)
        table.loc[known, "perceptual_hash"] = [row.tobytes().hex() for row in hashes]
    learnt = (table["is_learnable"] == 1) & (table["label"] == "normal")
    if learnt.any():
        odd = similarity.oddity(thumbnails[learnt[known].to_numpy()])
        table.loc[learnt, "oddity"] = odd.round(2)


def _add_copies_and_missing_mattes(table: "pd.DataFrame") -> None:
    """Add what an image alone does not show: its copies, and the matte that only it lacks."""
    splits_of = table.groupby("image_sha256")["split"].agg(
        lambda splits: " + ".join(sorted({*splits}))
    )
    table["splits_of_same_image"] = table["image_sha256"].map(splits_of)
    mattes = table["foreground_path"][table["split"].isin(("learn", "train", "validation"))]
    if mattes.any():
        table.loc[mattes.index[mattes == ""], "matte_problem"] = "missing"
    table["is_copy"] = table["image_sha256"].notna() & table.duplicated(
        ["image_sha256", "split"], keep=False
    )
