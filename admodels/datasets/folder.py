"""A plain folder of images, the layout that needs no tool to make.

normal/* or good/*, or *       normal, to learn from (right in the folder: all normal)
test_normal/*                  normal, to test with (optional)
<defect>/<name>.*              anomalous, to test with (optional)
masks/<defect>/<name>.*        its mask, also as <name>_mask.*; the whole folder may be absent
foreground/*                   mattes of normal images, of any layout (admodels/foreground.py)
"""

from pathlib import Path

from admodels.datasets import anomalous, base_of, folders_in, normal
from admodels.manifest import FOREGROUND, Found

LEARN = ("normal", "good")


def found(root: Path, category: str) -> list[Found]:
    """The images below `root`/`category`, or below `root` where it is the category itself."""
    base = base_of(root, category)
    images = normal(root, base, "learn")
    for folder in folders_in(base):
        if folder.name in LEARN:
            images += normal(root, folder, "learn")
        elif folder.name == "test_normal":
            images += normal(root, folder, "test")
        elif folder.name not in ("masks", FOREGROUND):
            images += anomalous(root, folder, base / "masks", ("", "_mask"))
    return images
