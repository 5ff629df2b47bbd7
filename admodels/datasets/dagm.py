"""DAGM 2007 (Wieler, Hahn; DAGM symposium 2007), as released: supervised, grey, 512 px.

<category>/{Train,Test}/NNNN.PNG            category: Class1 .. Class10
<category>/{Train,Test}/Label/NNNN_label.PNG    coarse ellipses, of defective images only
<category>/{Train,Test}/Label/Labels.txt    tabs: number, 1 if defective, file, 0, mask

Methods learn from normal images alone, so the defective images of Train are used for testing:
`DatasetImage.moved` marks them, and the report counts them.
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
    return [image for name, use in PARTS.items() for image in _images(root, base / name, use)]


def _images(root: Path, folder: Path, use: Part) -> list[DatasetImage]:
    """An image is defective if it has a mask, or if Labels.txt lists it; then it needs a mask."""
    labels = folder / "Label"
    masks = {p.stem.removesuffix("_label"): p.relative_to(root) for p in images_in(labels)}
    listed = _listed_as_defective(labels / "Labels.txt")
    images = []
    for path in images_in(folder):
        name = path.relative_to(root).as_posix()
        usual = (labels / f"{path.stem}_label.PNG").relative_to(root)
        if path.stem in masks or path.stem in listed:
            mask = masks.get(path.stem, usual).as_posix()
            images.append(
                DatasetImage(name, "anomalous", DEFECT, mask, "test", moved=use == "learn")
            )
        else:
            images.append(DatasetImage(name, "normal", "", "", use))
    return images


def _listed_as_defective(table: Path) -> set[str]:
    if not table.is_file():
        return set()
    lines = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
    return {Path(cells[2]).stem for cells in lines if len(cells) > 2 and cells[1] == "1"}
