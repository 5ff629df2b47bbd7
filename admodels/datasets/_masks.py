"""Masks paired with images by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from admodels.datasets._files import Files

Key = tuple[str, str]  # the folders below the masks' own, and the name without suffix


@dataclass(frozen=True)
class Masks:
    """The masks of a category; `promised` is their folder where it exists, else empty."""

    by_name: dict[Key, str]
    promised: str
    endings: tuple[str, ...]

    def of(self, parts: Sequence[str]) -> str:
        """The mask of the anomalous image `parts`: its defect's folder, others, its name.

        Where the folder of masks exists, every anomaly should have one: a missing mask is named as
        it should be called, and validation finds that it is not there.
        """
        *folders, name = parts
        stem = PurePosixPath(name).stem
        above = "/".join(folders)
        keys = ((above.casefold(), stem + ending) for ending in self.endings)
        usual = f"{self.promised}{above}/{stem}{self.endings[0]}.png" if self.promised else ""
        return next((self.by_name[key] for key in keys if key in self.by_name), usual)


def masks_of(files: Files, folder: str, endings: tuple[str, ...]) -> Masks:
    """The masks that stand in `folder`, whose case does not matter; any image suffix is right."""
    by_name: dict[Key, str] = {}
    for path, (top, *below) in files.images():
        if top.casefold() == folder and below:
            *folders, name = below
            key = ("/".join(folders).casefold(), PurePosixPath(name).stem)
            by_name.setdefault(key, path)
    tops = (path.removeprefix(files.base).split("/") for path in files.paths)
    promised = next((t[0] for t in tops if t[0].casefold() == folder and len(t) > 1), "")
    return Masks(by_name, f"{files.base}{promised}/" if promised else "", endings)
