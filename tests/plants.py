"""A plant for tests: plant.yaml and deployments as a mapping of lines says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from admodels.nights import deploy
from admodels.nights.close import NightRecord, write_records
from admodels.nights.plant import PLANT_FILE, Plant, read_plant
from admodels.nights.run import Options, nightly
from admodels.scoring.ledger import open_ledger


@dataclass
class Clock:
    """A clock that stands still until it is set; the plants of tests are in UTC."""

    text: str

    def __post_init__(self) -> None:
        self.now = at(self.text)

    def __call__(self) -> datetime:
        return self.now


def at(text: str) -> datetime:
    """An instant from its date and time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


Lines = Mapping[str, Mapping[str, Any]]


def line(folder: str | Path, **changes: object) -> dict[str, Any]:
    """A line that is scored with `bundle` of the folder `models`."""
    return {"folder": str(folder), "bundle": "draem/stripes", "alpha": 0.2} | changes


def write_plant(folder: Path, lines: Lines, models: Path | None = None, **more: object) -> Plant:
    """The plant in `folder` with these lines; those whose bundle is there have it deployed."""
    blocks = {name: {k: v for k, v in of.items() if k != "bundle"} for name, of in lines.items()}
    content = {"schema": 1, "timezone": "UTC", "lines": blocks, **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLANT_FILE).write_text(json.dumps(content), encoding="utf-8")
    plant, held = read_plant(folder), deploy.deployments(folder)
    for name, block in lines.items():
        bundle = (models or folder / "models") / block["bundle"]
        origins = [deployed.origin for deployed in held.get(name, [])[-1:]]
        if bundle.is_dir() and origins != [str(bundle.absolute())]:
            deploy.deploy(plant, name, str(bundle), force=True, why="a test")
    return plant


def close_night_before(plant: Plant, now: datetime) -> None:
    """Close the night before that of `now`, so that a look of now closes none."""
    night = plant.calendar.before(plant.calendar.night_of(now))
    with open_ledger(plant.ledger) as ledger:
        write_records(ledger, [NightRecord(night=night, closed=now, runs=[], lines={})])


def night(lines: Lines, folder: Path = Path(), options: Options | None = None) -> dict[str, Any]:
    """A night of the plant in `folder`."""
    write_plant(folder, lines)
    return nightly(folder, options or Options(0.0))
