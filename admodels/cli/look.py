"""What a source holds, said before it is pinned."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

from admodels.datasets import Layout, check_trainable
from admodels.foundation.files import printable
from admodels.foundation.manifest import DatasetImage, Split
from admodels.foundation.params import read
from admodels.sources.outline import source_outline
from admodels.validation.splits import shortage_of

USES = {"learn": "to learn from", "calibration": "to calibrate with", "test": "to test with"}
NAMES_SHOWN = 3  # of the files that are left out for one reason
LATER = "nothing can be known of it before `dvc repro` fetches it"


def look(
    name: str, location: str, sha256: str, layout_of: Callable[[Path], Layout]
) -> Layout | None:
    """Print what `layout_of` makes of a source, and refuse what cannot train.

    None where nothing can be known before the source is fetched; that is printed.

    Raises:
        AdmodelsError: no method could learn from it; names what it holds and what to do.
    """
    with source_outline(location, sha256) as root:
        if root is None:
            typer.echo(f"{name}: {location}: {LATER}")
            return None
        layout = layout_of(root)
        where = f"the layout `{layout.dataset}`, category {layout.category}, of {location}"
        typer.echo(f"{name}: {where}")
        for line in layout_lines(layout):
            typer.echo(f"  {line}")
        split = read("split", Split)
        check_trainable(layout, split)
        for line in shortage_lines(layout, split, read("evaluate.alpha", float)):
            typer.echo(f"  {line}")
        return layout


def layout_lines(layout: Layout) -> Iterator[str]:
    """What a layout holds: normal, anomalous by type, masks, and what is left out and why."""
    normal = [image for image in layout.images if image.label == "normal"]
    anomalous = [image for image in layout.images if image.label == "anomalous"]
    masks = {*layout.masks}
    masked = sum(image.mask_path in masks for image in anomalous)
    kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in layout.defect_types.items())
    yield f"normal     {_uses(normal)}"
    yield f"anomalous  {_uses(anomalous)}{': ' * bool(kinds)}{kinds}"
    if anomalous:
        yield f"masks      {masked} of {len(anomalous)} anomalous images have one"
    if groups := {image.group for image in normal if image.group}:
        yield f"groups     {len(groups)} of normal images"
    yield f"files      {layout.sentence()}"
    paths = defaultdict(list)
    for left in layout.left_out:
        paths[left.reason].append(left.path)
    for reason, names in sorted(paths.items()):
        yield f"           {reason.replace('_', ' ')}: {_some(names)}"


def shortage_lines(layout: Layout, split: Split, alpha: float) -> Iterator[str]:
    """How many more normal images verdicts and a test part need, if no two show one piece."""
    shortage = shortage_of(layout.images, split, alpha)
    needs = {
        f"verdicts with a false-alarm budget of {alpha:g} need": shortage.to_calibrate,
        "a measured false-alarm rate needs": shortage.to_test,
    }
    for what, count in needs.items():
        if count:
            unit = shortage.unit.removesuffix("s") if count == 1 else shortage.unit
            yield f"too few    {what} {count} more normal {unit}"


def _uses(images: Iterable[DatasetImage]) -> str:
    parts = [image.part for image in images]
    counts = [f"{parts.count(key)} {use}" for key, use in USES.items() if key in parts]
    return ", ".join(counts) or "0"


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    shown = ", ".join(printable(name) for name in sorted(names)[:NAMES_SHOWN])
    return shown + f" and {more} more" * (more > 0)
