"""DAGM 2007 (Wieler, Hahn; DAGM symposium 2007), as released: supervised, grey, 512 px.

<category>/{Train,Test}/NNNN.PNG            category: Class1 .. Class10
<category>/{Train,Test}/Label/NNNN_label.PNG    coarse ellipses, of defective images only
<category>/{Train,Test}/Label/Labels.txt    tabs: number, 1 if defective, file, 0, mask

Methods learn from normal images alone, so the defective images of Train are used for testing:
`DatasetImage.moved` marks them, and the report counts them.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from admodels.datasets import Files, Official
from admodels.foundation.manifest import DatasetImage, Part

PARTS: dict[str, Part] = {"train": "learn", "test": "test"}
DEFECT = "defect"  # the release names no types
LABEL = "label"
COMPANIONS = ("*/label/labels.txt",)
EXPECTED = "Train/*.PNG, Test/*.PNG, each with Label/*_label.PNG and Label/Labels.txt"
OFFICIAL = Official(
    page="https://hci.iwr.uni-heidelberg.de/content/"
    "weakly-supervised-learning-industrial-optical-inspection",
    licence="not stated",
)


def images_of(files: Files, normal_folders: Sequence[str]) -> list[DatasetImage]:
    """The images of a class: defective with a mask, or where Labels.txt lists them.

    A listed image needs a mask. `normal_folders` does not matter: no folder says what is normal.
    """
    masks = _masks(files)
    listed = _listed_as_defective(files)
    images = []
    for path, parts in files.images():
        use = PARTS.get(parts[0].casefold())
        if use is None or len(parts) != 2:
            continue
        key = (use, PurePosixPath(path).stem)
        usual = str(PurePosixPath(path).with_name("Label") / f"{key[1]}_label.PNG")
        if key in masks or key in listed:
            mask, moved = masks.get(key, usual), use == "learn"
            images.append(DatasetImage(path, "anomalous", DEFECT, mask, "test", moved=moved))
        else:
            images.append(DatasetImage(path, "normal", "", "", use))
    return images


def _masks(files: Files) -> dict[tuple[Part, str], str]:
    return {
        (PARTS[parts[0].casefold()], PurePosixPath(path).stem.removesuffix("_label")): path
        for path, parts in files.images()
        if len(parts) == 3 and parts[1].casefold() == LABEL and parts[0].casefold() in PARTS
    }


def _listed_as_defective(files: Files) -> set[tuple[Part, str]]:
    listed = set()
    for path in files.paths:
        parts = PurePosixPath(path.removeprefix(files.base).casefold()).parts
        if len(parts) == 3 and parts[1:] == (LABEL, "labels.txt") and parts[0] in PARTS:
            text = (files.root / path).read_text(encoding="utf-8")
            lines = (line.split() for line in text.splitlines())
            names = (cells[2] for cells in lines if len(cells) > 2 and cells[1] == "1")
            listed |= {(PARTS[parts[0]], PurePosixPath(name).stem) for name in names}
    return listed
