"""Whether a source can train, said before it is copied, and what was meant where it cannot."""

from collections import Counter
from pathlib import PurePosixPath

from admodels.datasets._files import is_image
from admodels.datasets._layout import Layout, layout_module, layouts, nearest, read_layout
from admodels.datasets._names import NORMAL
from admodels.foundation.errors import AdmodelsError, DataError
from admodels.foundation.files import names_text
from admodels.foundation.manifest import Split

SHOWN = 6  # folders of a source in a message


def check_trainable(layout: Layout, split: Split) -> None:
    """Refuse what a layout makes of a source, if no method could learn from it.

    Raises:
        DataError: too few normal images to learn from, or anomalous images among them; says what
            the source holds and what the layout expects.
    """
    learnt = [image for image in layout.images if image.part != "test"]
    wrong = [image.image_path for image in learnt if image.label == "anomalous"]
    if wrong:
        raise DataError(
            f"{len(wrong)} anomalous images outside the test part",
            where=names_text(wrong),
            expected="normal images only: a method would learn the defects as normal",
            next_step="move them to the test part, or name their folder with `--normal FOLDER`",
        )
    needed = split.min_normal_images
    if layout.learnable < needed:
        expected = layout_module(layout.dataset).EXPECTED
        raise DataError(
            f"{layout.learnable} normal images to learn from, at least {needed} are needed "
            f"(split.min_normal_images); {_holdings(layout)}",
            where=layout.root,
            expected=f"the layout `{layout.dataset}`: {expected}",
            next_step=_remedy(layout, needed),
        )


def categories(layout: Layout) -> dict[str, str]:
    """The folders of a source that hold normal images to learn from, by their name.

    Empty where the source holds none, or is itself such a folder.
    """
    bases = {base for path in _paths(layout) if (base := _base(PurePosixPath(path).parts))}
    return {PurePosixPath(base).name: base for base in sorted(bases, reverse=True)}


def _paths(layout: Layout) -> list[str]:
    """The images that the layout uses, and those that it does not."""
    unused = (left.path for left in layout.left_out if is_image(left.path))
    return sorted((*(image.image_path for image in layout.images), *unused))


def _base(parts: tuple[str, ...]) -> str:
    """The folder above train/good, normal or Data/Images, whose images a layout could read."""
    words = [name.casefold() for name in parts[:-1]]
    for index, word in enumerate(words):
        follower = words[index + 1] if index + 1 < len(words) else ""
        is_learnt = word == "train" and follower in NORMAL
        if is_learnt or word in NORMAL or (word, follower) == ("data", "images"):
            return "/".join(parts[:index])
        if word == "test":  # its normal images are not to learn from
            return ""
    return ""


def _holdings(layout: Layout) -> str:
    """The folders with the most images, and the suffixes of the files that are none."""
    folders = Counter(path.rpartition("/")[0] or "the folder itself" for path in _paths(layout))
    shown = [f"{_images_text(n)} in {folder}" for folder, n in folders.most_common(SHOWN)]
    more = [f"{len(folders) - SHOWN} more folders"] * (len(folders) > SHOWN)
    suffixes = Counter(e.detail for e in layout.left_out if e.reason == "unknown_suffix")
    others = [f"{count} files {suffix}" for suffix, count in suffixes.most_common(SHOWN)]
    return "the source holds " + (", ".join([*shown, *more, *others]) or "no image")


def _remedy(layout: Layout, needed: int) -> str:
    bases = categories(layout)
    if layout.learnable == 0 and layout.category in bases:
        return f"give the folder `{layout.root / bases[layout.category]}` as the source"
    if layout.learnable == 0 and bases:
        word = nearest(layout.category, bases)
        if len(bases) > 1 or word:
            return f"give the category, or the folder, of one it holds: {names_text(bases)}{word}"
        return f"give the folder `{layout.root / next(iter(bases.values()))}` as the source"
    for other in layouts():
        if (count := _learnable_as(other, layout)) >= needed:
            return f"as the layout `{other}`, it has {count} normal images: `--dataset {other}`"
    if layout.dataset != "folder" and sum("/" not in path for path in _paths(layout)) >= needed:
        return "if all images right in the folder are normal: `--dataset folder`"
    if layout.learnable:
        return f"add {_images_text(needed - layout.learnable, 'normal ')}"
    return (
        "move the images into such folders, or say what they are in a manifest.csv: docs/layouts.md"
    )


def _images_text(count: int, kind: str = "") -> str:
    return f"{count} {kind}image{'s' * (count != 1)}"


def _learnable_as(dataset: str, layout: Layout) -> int:
    """How many normal images another layout would learn from; 0 where it refuses the source."""
    try:
        other = read_layout(dataset, layout.category, layout.root)
    except AdmodelsError:
        return 0
    right_in_it = sum("/" not in image.image_path for image in other.images)
    return 0 if right_in_it else other.learnable
