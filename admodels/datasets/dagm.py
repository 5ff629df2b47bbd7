"""DAGM 2007 (Wieler, Hahn; DAGM symposium 2007), as released: supervised, grey, 512 px.

<category>/{Train,Test}/NNNN.PNG            category: Class1 .. Class10
<category>/{Train,Test}/Label/NNNN_label.PNG    coarse ellipses, of defective images only
<category>/{Train,Test}/Label/Labels.txt    tabs: number, 1 if defective, file, 0, mask

To learn from normal images alone, the defective images of Train are tested with: `Found.moved`
says of which this is so, and the report counts them.
"""

from pathlib import Path

from admodels.datasets import Official, base_of, images_in
from admodels.foundation.manifest import DatasetImage, Part

PARTS: dict[str, Part] = {"Train": "learn", "Test": "test"}
DEFECT = "defect"  # the release names no types
OFFICIAL = Official(
    page="https://hci.iwr.uni-heidelberg.de/content/"
    "weakly-supervised-learning-industrial-optical-inspection",
    licence="not stated",
)


def find_images(root: Path, category: str) -> list[DatasetImage]:
    """The images below `root`/`category`, or below `root` where it is the category itself."""
    base = base_of(root, category)
    return [one for name, part in PARTS.items() for one in _part(root, base / name, part)]


def _part(root: Path, folder: Path, part: Part) -> list[DatasetImage]:
    """An image is defective if it has a mask, or if Labels.txt says so: then a mask is promised."""
    labels = folder / "Label"
    masks = {p.stem.removesuffix("_label"): p.relative_to(root) for p in images_in(labels)}
    told = _told_defective(labels / "Labels.txt")
    images = []
    for path in images_in(folder):
        name = path.relative_to(root).as_posix()
        usual = (labels / f"{path.stem}_label.PNG").relative_to(root)
        if path.stem in masks or path.stem in told:
            mask = masks.get(path.stem, usual).as_posix()
            images.append(
                DatasetImage(name, "anomalous", DEFECT, mask, "test", moved=part == "learn")
            )
        else:
            images.append(DatasetImage(name, "normal", "", "", part))
    return images


def _told_defective(table: Path) -> set[str]:
    if not table.is_file():
        return set()
    lines = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
    return {Path(cells[2]).stem for cells in lines if len(cells) > 2 and cells[1] == "1"}
