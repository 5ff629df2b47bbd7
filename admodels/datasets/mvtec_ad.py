"""The layout of MVTec AD (Bergmann et al., CVPR 2019), which many other datasets share.

train/good/*                            normal, to learn from
calibration/good/*                      normal, to calibrate with (our extension, optional)
test/good/*                             normal
test/<defect>/<name>.*                  anomalous
ground_truth/<defect>/<name>_mask.*     its mask; the whole folder may be absent
"""

from pathlib import Path

from admodels.datasets import anomalous, base_of, folders_in, normal
from admodels.manifest import Found, Part

PARTS: dict[str, Part] = {"train": "learn", "calibration": "calibration", "test": "test"}


def found(root: Path, category: str, endings: tuple[str, ...] = ("_mask",)) -> list[Found]:
    """The images below `root`/`category`, or below `root` where it is the category itself.

    A mask is called like its image plus one of `endings`. Anomalous images outside test are told
    as they are: validation refuses them by name.
    """
    base = base_of(root, category)
    images = []
    for name, part in PARTS.items():
        masks = base / ("ground_truth" if part == "test" else "no masks here")
        for folder in folders_in(base / name):
            if folder.name == "good":
                images += normal(root, folder, part)
            else:
                images += anomalous(root, folder, masks, endings, part)
    return images
