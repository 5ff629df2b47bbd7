"""The layout of a folder that nobody named, by what each layout could learn from it."""

from collections.abc import Sequence
from pathlib import Path

from admodels.datasets._layout import Layout, read_layout
from admodels.datasets._trainable import categories
from admodels.foundation.errors import AdmodelsError

OWN = "folder"  # the layout of folders that no tool made
TABLE = "manifest.csv"
RELEASES = ("mvtec_ad", "visa", "dagm")  # `mpdd` is that of MVTec AD


def guess_layout(
    root: Path, category: str, exclude: Sequence[str] = (), normal_folders: Sequence[str] = ()
) -> Layout:
    """What the layout makes of `root` that has most to learn from, then most masks.

    It is `folder` where a manifest.csv says what the images are, and where no layout learns.

    Raises:
        AdmodelsError: no layout has anything to learn from, and one refuses the folder.
    """
    has_table = any((root / folder / TABLE).is_file() for folder in ("", category))
    layouts, refusals = [], []
    for dataset in (OWN,) if has_table else (OWN, *RELEASES):
        try:
            layouts.append(read_layout(dataset, category, root, exclude, normal_folders))
        except AdmodelsError as error:
            refusals.append(error)
        if layouts and 0 < layouts[0].learnable == len(layouts[0].images):
            break  # all are normal: no layout has more to learn from
    best = max(layouts, key=lambda layout: (layout.learnable, len(layout.masks)), default=None)
    if best and best.learnable == 0 and (other := _category_inside(layouts[0])):
        return guess_layout(root, other, exclude, normal_folders)
    if best is None or (best.learnable == 0 and refusals):
        raise refusals[0]
    return best if best.learnable else layouts[0]


def _category_inside(layout: Layout) -> str:
    """The category of a source that has this name in other case, or that is the only one."""
    names = [*categories(layout)]
    same = [name for name in names if name.casefold() == layout.category.casefold()]
    only = same or (names if len(names) == 1 else [])
    return only[0] if only and only[0] != layout.category else ""
