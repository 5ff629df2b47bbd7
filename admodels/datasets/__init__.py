"""The layouts of datasets: one module each, which is looked up by its name.

A reader is `find_images(root, category) -> list[DatasetImage]`; it names files and pairs masks,
and opens no image.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath

from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import IMAGE_SUFFIXES, DatasetImage, Part


@dataclass(frozen=True)
class Official:
    """A dataset's own release: its page, its licence, and where known its archive.

    Without a `sha256` nobody has verified the archive: the first one downloaded is pinned.
    """

    page: str
    licence: str
    urls: tuple[str, ...] = ()
    sha256: str = ""


def official(dataset: str) -> Official:
    """The release that gave the layout `dataset` its name.

    Raises:
        ConfigurationError: there is none, or no URL of it is known.
    """
    module = import_module(f"admodels.datasets.{dataset}") if dataset in available() else None
    known: Official | None = getattr(module, "OFFICIAL", None)
    if known is None or not known.urls:
        raise ConfigurationError(
            f"no download of `{dataset}` is known",
            where="admodels/datasets/",
            expected="a dataset whose authors offer a plain URL",
            next_step=f"get it from {known.page if known else 'its authors'}, then --source PATH",
        )
    return known


def available() -> list[str]:
    """The names of the dataset layouts that exist, sorted."""
    return sorted(p.stem for p in Path(__file__).parent.glob("[!_]*.py"))


def find_images(dataset: str, category: str, root: Path) -> list[DatasetImage]:
    """The images of a category under its raw `root`, sorted by path.

    Raises:
        ConfigurationError: there is no such dataset layout.
        DataError: the folder is missing or empty, or is not laid out as the dataset says.
    """
    if dataset not in available():
        raise ConfigurationError(
            f"no dataset layout named `{dataset}`",
            where="admodels/datasets/",
            expected=f"one of {', '.join(available())}",
            next_step="fix `dataset` of the task in params.yaml",
        )
    if not root.is_dir():
        raise DataError(
            "the task's raw images are missing",
            where=root,
            expected="the folder that the fetch stage writes",
            next_step="dvc repro fetch",
        )
    reader = import_module(f"admodels.datasets.{dataset}")
    images: list[DatasetImage] = sorted(
        reader.find_images(root, category), key=lambda f: f.image_path
    )
    if not images:
        raise DataError(
            "no images found",
            where=root,
            expected=f"images in the layout `{dataset}`, see admodels/datasets/",
            next_step="fix `dataset` or `source` of the task in params.yaml",
        )
    _refuse_wrong_paths(images, root)
    return images


def _refuse_wrong_paths(images: list[DatasetImage], root: Path) -> None:
    """A table may name a file twice, outside the folder, or one that does not exist.

    Raises:
        DataError: names the images.
    """
    paths = [image.image_path for image in images]
    outside = [
        path
        for path in {*paths, *(image.mask_path for image in images)}
        if path.startswith("/") or ".." in PurePosixPath(path).parts
    ]
    twice = [path for path, before in zip(paths[1:], paths, strict=False) if path == before]
    missing = [path for path in paths if not (root / path).is_file()]
    faults = {"stand outside": outside, "are named twice": twice, "are not there": missing}
    for what, wrong in faults.items():
        if wrong:
            raise DataError(
                f"{len(wrong)} files that the dataset names {what}",
                where=names_text(wrong),
                expected=f"files below {root}, each named once",
                next_step="fix the dataset's table, then `admodels task refresh` of its task",
            )


def base_of(root: Path, category: str) -> Path:
    """The category's own folder where `root` is a whole dataset, else `root`."""
    return root / category if category and (root / category).is_dir() else root


def images_in(folder: Path) -> list[Path]:
    """The image files right in `folder`, sorted; hidden files (`._x`) are none."""
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def folders_in(folder: Path) -> list[Path]:
    """The sub-folders of `folder`, sorted; hidden ones are none."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def normal(root: Path, folder: Path, use: Part) -> list[DatasetImage]:
    """The images right in `folder` as normal images, for the part `use`."""
    names = [p.relative_to(root).as_posix() for p in images_in(folder)]
    return [DatasetImage(name, "normal", "", "", use) for name in names]


def anomalous(
    root: Path, folder: Path, masks: Path, endings: tuple[str, ...], use: Part = "test"
) -> list[DatasetImage]:
    """The images right in `folder` as anomalies, each with its mask in `masks`/<defect>.

    A mask is called like its image plus one of `endings`, with any image suffix. Where the folder
    `masks` exists, every anomaly should have one: a missing mask is named as it should be called,
    and validation finds that it is not there.
    """
    by_stem = {p.stem: p.relative_to(root).as_posix() for p in images_in(masks / folder.name)}
    promised = (masks / folder.name).relative_to(root).as_posix() if masks.is_dir() else ""
    images = []
    for path in images_in(folder):
        usual = f"{promised}/{path.stem}{endings[0]}.png" if promised else ""
        mask = next((by_stem[path.stem + e] for e in endings if path.stem + e in by_stem), usual)
        name = path.relative_to(root).as_posix()
        images.append(DatasetImage(name, "anomalous", folder.name, mask, use))
    return images
