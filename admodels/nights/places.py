"""Regions of judged images: as tables for other systems, and of images that are flagged later."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from admodels.foundation.files import whole_file, write_json
from admodels.nights.calibrations import ensure_calibration
from admodels.nights.deploy import Deployed
from admodels.nights.judgements import KEY, rows_of_runs, with_last_judgement
from admodels.nights.pictures import pointing_of
from admodels.nights.plant import Plant
from admodels.nights.rejudge import nights_of_line
from admodels.scoring import tables
from admodels.scoring.discover import file_name
from admodels.scoring.engine import LineImages, Model, keep_pictures
from admodels.scoring.ledger import Ledger
from admodels.scoring.pointing import Pointing
from admodels.scoring.region_files import regions_of, write_regions
from admodels.scoring.rows import rows

PICTURES = 500  # at most, of images that are flagged later
ANOMALY = {"id": 1, "name": "anomaly"}  # the only category of a COCO file
REGIONS = pa.schema(
    [
        pa.field("night", pa.string(), nullable=False),
        *tables.REGIONS,
        pa.field("image_width", pa.int32()),
        pa.field("image_height", pa.int32()),
        pa.field("is_anomalous", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Counts:
    """How many images got regions, and how many did not: their files or their model are gone."""

    made: int = 0
    missing: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.made + other.made, self.missing + other.missing)

    def __str__(self) -> str:
        text = f"regions of {self.made} images were made"
        if not self.missing:
            return text
        return f"{text}; {self.missing} have none: their file has changed, or their model"


def judged_regions(ledger: Ledger, line: str, is_wanted: Callable[[str], bool]) -> pa.Table:
    """The regions of a line in some nights, with the size of the image and its last verdict."""
    places = [REGIONS.empty_table()]
    for night, runs in sorted(nights_of_line(ledger, line).items()):
        if is_wanted(night):
            judged = with_last_judgement(ledger, line, runs, rows_of_runs(ledger, line, runs))
            images = judged.select([*KEY, "width", "height", "is_anomalous"])
            images = images.rename_columns([*KEY, *REGIONS.names[-3:]])
            own = regions_of(ledger, line, sorted(runs)).join(images, KEY, join_type="inner")
            own = own.append_column("night", pa.repeat(pa.scalar(night), len(own)))
            places.append(own.select(REGIONS.names).cast(REGIONS))
    order = ["night", *KEY, "number"]
    return pa.concat_tables(places).sort_by([(name, "ascending") for name in order])


def write_csv(regions: pa.Table, target: Path) -> None:
    """Write regions as CSV, one a row."""
    with whole_file(target) as partial:
        pa_csv.write_csv(regions, partial)


def write_coco(regions: pa.Table, target: Path) -> None:
    """Write regions as a COCO file."""
    with whole_file(target) as partial:
        write_json(partial, coco(regions))


def coco(regions: pa.Table) -> dict[str, Any]:
    """The content of a COCO file.

    `file_name` is the path below the folder of the line, `bbox` left, top, width and height in
    pixels, `score` the largest map value.
    """
    ids: dict[tuple[str, str], int] = {}
    images, annotations = [], []
    for number, row in enumerate(regions.to_pylist(), 1):
        key = (row["path"], row["image_sha256"])
        if key not in ids:
            ids[key] = len(ids) + 1
            size = {"width": row["image_width"], "height": row["image_height"]}
            images.append({"id": ids[key], "file_name": row["path"], **size})
        box = [row[side] for side in ("left", "top", "width", "height")]
        annotations.append(
            {
                "id": number,
                "image_id": ids[key],
                "category_id": ANOMALY["id"],
                "bbox": box,
                "area": row["area_px"],
                "iscrowd": 0,
                "score": row["largest"],
            }
        )
    return {"images": images, "annotations": annotations, "categories": [ANOMALY]}


def point_again(ledger: Ledger, plant: Plant, name: str, nights: Collection[date]) -> Counts:
    """Make the regions of images of a line that are flagged by their last judgement alone.

    They are scored again by the model of today, if it gave their score, where their files are as
    they were. `nights`: none for all.

    Raises:
        AdmodelsError: the line has no usable model or calibration.
    """
    line, (model, _) = plant.line(name), Deployed(plant).of(name)
    kept = ensure_calibration(ledger, name, model)
    pointing = pointing_of(ledger, name, line, model, kept, PICTURES)
    images = LineImages(name, plant.inbox(name), exclude=line.exclude, tile=line.tile)
    wanted, counts = {night.isoformat() for night in nights}, Counts()
    for night, runs in sorted(nights_of_line(ledger, name).items()):
        if not wanted or night in wanted:
            counts += _add_regions(ledger, images, model, pointing, night, runs)
    return counts


def _add_regions(
    ledger: Ledger, images: LineImages, model: Model, pointing: Pointing, night: str, runs: set[str]
) -> Counts:
    judged = rows_of_runs(ledger, images.line, runs)
    flagged = with_last_judgement(ledger, images.line, runs, judged)
    flagged = flagged.filter(pc.fill_null(flagged["is_anomalous"], False))
    have = regions_of(ledger, images.line, sorted(runs))
    todo = flagged.select(KEY).join(have.select(KEY), KEY, join_type="left anti").to_pylist()
    own = (model.model_fingerprint, model.contract_fingerprint)
    wanted = {
        row["path"]: row["image_sha256"]
        for row in todo
        if (row["model_fingerprint"], row["contract_fingerprint"]) == own
    }
    if not wanted:
        return Counts(0, len(todo))
    reads = list(_score_again(ledger, images, model, pointing, wanted))
    if reads:
        table = tables.regions(reads, pointing.mm_per_px)
        write_regions(ledger, images.line, night, table, runs)
    return Counts(len(reads), len(todo) - len(reads))


def _score_again(
    ledger: Ledger, images: LineImages, model: Model, pointing: Pointing, wanted: dict[str, str]
) -> Iterator[tuple[tables.ScoreRow, tuple[Any, ...]]]:
    names = [file_name(path) for path in wanted]
    asked = replace(pointing, threshold=-np.inf)  # whatever the score: these are flagged
    again = rows(
        *(images.inbox, names, model.load(), images.line, lambda _: None),
        tile=images.tile,
        pointing=asked,
    )
    for read in again:
        if read.row and read.regions and read.row.image_sha256 == wanted.get(read.row.path):
            keep_pictures(ledger, read.row, read, asked)
            yield read.row, read.regions
