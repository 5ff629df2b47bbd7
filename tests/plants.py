"""A plant for tests: plant.yaml and deployments as a mapping of lines says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from admodels.nights import deploy
from admodels.nights.plant import PLANT_FILE, Plant, read_plant
from admodels.nights.run import Options, nightly

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


def night(lines: Lines, folder: Path = Path(), options: Options | None = None) -> dict[str, Any]:
    """A night of the plant in `folder`."""
    write_plant(folder, lines)
    return nightly(folder, options or Options(0.0))
