"""The layout of MVTec AD (Bergmann et al., CVPR 2019), which many other datasets share.

train/good/*                            normal, to learn from
calibration/good/*                      normal, to calibrate with (our extension, optional)
test/good/*                             normal
test/<defect>/<name>.*                  anomalous
ground_truth/<defect>/<name>_mask.*     its mask; the whole folder may be absent
"""

from pathlib import Path

from admodels.datasets import anomalous, base_of, folders_in, images_in, normal
from admodels.errors import DataError
from admodels.manifest import Found, listed


def found(root: Path, category: str) -> list[Found]:
    """The images below `root`/`category`, or below `root` where it is the category itself.

    Raises:
        DataError: images of defects among those to learn from; an anomaly without its mask.
    """
    base = base_of(root, category)
    for part in ("train", "calibration"):
        _refuse_defects(base / part)
    images = [
        *normal(root, base / "train/good", "learn"),
        *normal(root, base / "calibration/good", "calibration"),
        *normal(root, base / "test/good", "test"),
    ]
    for folder in folders_in(base / "test"):
        if folder.name != "good":
            images += anomalous(root, folder, base / "ground_truth", ("_mask",))
    return images


def _refuse_defects(part: Path) -> None:
    strange = [p for p in folders_in(part) if p.name != "good" and images_in(p)]
    if strange:
        raise DataError(
            f"anomalous images in {part.name}",
            where=listed(str(p) for p in strange),
            expected=f"{part.name}/good alone: a method would learn the defects as normal",
            next_step="move them to test/, then `admodels task refresh NAME`",
        )
