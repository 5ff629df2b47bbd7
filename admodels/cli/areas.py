"""`admodels area`: which pixels of a task's or a line's images are inspected."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from admodels.cli.options import PLANT, plant_folder
from admodels.foundation.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from admodels.foundation.arrays import UInt8
    from admodels.images.area import Area

app = typer.Typer(help="Which pixels of images are inspected.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="a task; with --line a line of the plant")]
Line = Annotated[bool, typer.Option("--line", help="NAME is a line of the plant")]
PlantOption = Annotated[Path | None, PLANT]

SHOWN = 10
COLUMNS = 5
SIDE_PX = 384  # of the longer side of an image in the preview
DIMMED = 0.25  # of the brightness of what is left out
EDGES = ((0, 200, 80), (230, 140, 0), (40, 120, 255), (200, 60, 200))  # without a name, then zones


@app.command("set")
def set_(
    name: Name,
    file: Annotated[Path, typer.Argument(help="a grey PNG of the size of the images")],
    zone: Annotated[list[str] | None, typer.Option(help="LEVEL=NAME; may be repeated")] = None,
    line: Line = False,
    plant: PlantOption = None,
) -> None:
    """Inspect only the pixels that are not black in FILE; its bytes are pinned.

    A line's own area needs `admodels calibrate` before the line gets verdicts again.
    """
    from admodels.cli import editing
    from admodels.foundation.files import sha256_of
    from admodels.images.area import parse_area

    zones = _zones(zone or [])
    if not file.is_file():
        raise _refusal("the file is missing", str(file), "a grey PNG of the size of the images")
    area = parse_area(file.read_bytes(), file, zones)
    home = plant_folder(plant) if line else Path.cwd()
    block: dict[str, Any] = {"file": _relative(file, home), "sha256": sha256_of(file)}
    with _edit(name, plant if line else None, is_line=line) as blocks:
        block |= {"zones": {str(level): word for level, word in zones.items()}} if zones else {}
        blocks.pop("area", None)
        editing.insert(blocks, "area", block)
    typer.echo(f"{name}: {_sentence(area)}")
    preview = f"admodels area preview {name}{' --line' if line else ''}"
    after = f"`admodels calibrate {name} FOLDER`" if line else "`dvc repro`"
    typer.echo(f"next: `{preview}`, then {after}")


@app.command("remove")
def remove(name: Name, line: Line = False, plant: PlantOption = None) -> None:
    """Inspect every pixel again; of a line, what its bundle says."""
    with _edit(name, plant if line else None, is_line=line) as block:
        if block.pop("area", None) is None:
            raise _refusal(f"`{name}` has no area", name, "a task or a line with one")
    typer.echo(f"{name}: its area is removed")


@app.command("preview")
def preview(
    name: Name,
    out: Annotated[Path, typer.Option(help="the PNG to write")] = Path("area_preview.png"),
    line: Line = False,
    plant: PlantOption = None,
) -> None:
    """Draw the area over ten images: what is dark is left out, a zone has its own colour."""
    from admodels.images import decode

    area, images = _line(name, plant) if line else _task(name)
    pictures, other = [], list[str]()
    for path, rgb in images:
        fits = rgb.shape[:2] == area.levels.shape
        pictures.append((path, draw(rgb, area) if fits else None))
        other += [] if fits else [f"{path} ({rgb.shape[1]} x {rgb.shape[0]})"]
    if not pictures:
        raise _refusal("there is no image to draw it over", name, "images of the task or the line")
    decode.write_png(out, sheet(pictures, area))
    typer.echo(f"{out}: {_sentence(area)}")
    if other:
        height, width = area.levels.shape
        raise DataError(
            f"{len(other)} of {len(pictures)} images have another size: {', '.join(other[:3])}",
            where=name,
            expected=f"{width} x {height} px, the size of the area",
            next_step="`admodels area set` with an area of the size of the images",
        )


def draw(rgb: "UInt8", area: "Area") -> "UInt8":
    """An image (H, W, 3) uint8 with its area, shrunk; what is left out is dark."""
    import cv2
    import numpy as np

    from admodels.images import sheets

    scale = min(1.0, SIDE_PX / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    levels = cv2.resize(area.levels, size, interpolation=cv2.INTER_NEAREST)
    shown = np.where(levels[:, :, None] > 0, small, (small * DIMMED).astype(np.uint8))
    shown = sheets.outline(np.ascontiguousarray(shown), levels > 0, EDGES[0])
    for number, level in enumerate(sorted(area.zones)):
        colour = EDGES[1 + number % (len(EDGES) - 1)]
        shown = sheets.outline(shown, levels == level, colour)
    return shown


def sheet(pictures: "Sequence[tuple[str, UInt8 | None]]", area: "Area") -> "UInt8":
    """The drawn images with their names, COLUMNS in a row; an image of another size is grey."""
    import numpy as np

    from admodels.images import sheets

    cells = []
    for name, picture in pictures:
        canvas = np.full((SIDE_PX, SIDE_PX, 3), sheets.BACKGROUND, np.uint8)
        words = name
        if picture is None:
            canvas[:], words = 128, f"{name}: another size"
        else:
            canvas[: picture.shape[0], : picture.shape[1]] = picture
        cells.append(np.concatenate([canvas, sheets.text(words, SIDE_PX)]))
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    strips = [sheets.beside(row) for row in rows]
    return sheets.stack([sheets.text(_sentence(area), strips[0].shape[1]), *strips])


def _sentence(area: "Area") -> str:
    height, width = area.levels.shape
    share = f"{100 * float(area.inside.mean()):.1f} % of {width} x {height} px are inspected"
    zones = (
        f"{name} (level {level}): {100 * float((area.levels == level).mean()):.1f} %"
        for level, name in sorted(area.zones.items())
    )
    return "; ".join([share, *zones])


def _task(name: str) -> "tuple[Area, Iterator[tuple[str, UInt8]]]":
    from admodels.foundation import manifest, params
    from admodels.images import load, rules
    from admodels.images.area import read_area
    from admodels.sources.source import Task

    block = params.read(f"tasks.{name}", Task)
    if block.area is None:
        raise _refusal(f"`{name}` has no area", f"params.yaml: tasks.{name}", "`area:`")
    area = read_area(Path(block.area.file), block.area.sha256, block.area.zones)
    split = Path("data/manifests", name, "train.csv")
    if not split.is_file():
        raise _refusal("the images are not listed yet", str(split), "`dvc repro validate`, once")
    reading = rules.read(split.with_name("image_rules.json")).reading
    rows = manifest.read(split)[:SHOWN]
    images = (
        (row.image_path, load.load_image(row, Path("data/raw", name), reading).rgb) for row in rows
    )
    return area, images


def _line(name: str, plant: Path | None) -> "tuple[Area, Iterator[tuple[str, UInt8]]]":
    from admodels.nights.deploy import Deployed, area_of
    from admodels.nights.plant import read_plant

    place = read_plant(plant_folder(plant))
    place.line(name)
    model, _ = Deployed(place).of(name)
    bundle = model.load()
    area = area_of(place, name) or bundle.area
    if area is None:
        raise _refusal(f"`{name}` has no area", f"{place.folder}/plant.yaml", "`area:`")

    def images() -> "Iterator[tuple[str, UInt8]]":
        from admodels.images.decode import UnreadableImage
        from admodels.inference.model import decode_image
        from admodels.scoring.inbox import Folder

        shown, inbox = 0, place.inbox(name)
        for path in Folder(inbox, place.lines[name].exclude).files().names:
            try:
                data = (inbox / path).read_bytes()
                rgb = decode_image(data, path, bundle.contract, any_size=True).rgb
            except (UnreadableImage, OSError):
                continue
            yield path, rgb
            shown += 1
            if shown == SHOWN:
                return

    return area, images()


@contextmanager
def _edit(name: str, plant: Path | None, *, is_line: bool) -> Iterator[Any]:
    """The block of a task or of a line, to change in place."""
    from admodels.cli import editing
    from admodels.cli.plants import edit_plant

    root = "lines" if is_line else "tasks"
    with edit_plant(plant_folder(plant)) if is_line else editing.edit_params() as document:
        if name not in document[root]:
            known = ", ".join(document[root]) or "none"
            raise _refusal(f"no {root[:-1]} named `{name}`", root, f"one of {known}")
        yield document[root][name]


def _zones(words: list[str]) -> dict[int, str]:
    zones = dict[int, str]()
    for word in words:
        level, _, name = word.partition("=")
        if not (level.isdecimal() and 1 <= int(level) <= 255 and name) or int(level) in zones:
            raise _refusal(f"`--zone {word}`", "--zone", "LEVEL=NAME, each level of 1..255 once")
        zones[int(level)] = name
    return zones


def _relative(file: Path, home: Path) -> str:
    absolute = file.resolve()
    home = home.resolve()
    return str(absolute.relative_to(home) if absolute.is_relative_to(home) else absolute)


def _refusal(fault: str, where: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        fault, where=where, expected=expected, next_step="see `admodels area --help`"
    )
