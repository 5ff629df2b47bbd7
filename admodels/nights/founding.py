"""How a plant comes to be: a new folder, or lines and ledger of a version without plants."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import Field
from ruamel.yaml import YAML

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import durable_folder
from admodels.foundation.params import Strict, read
from admodels.nights import deploy
from admodels.nights.plant import LEDGER, PLANT_FILE, read_plant
from admodels.scoring.integrity import check
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import Tile
from admodels.scoring.locks import COMMIT, RUN, run_lock

TEMPLATE = """\
# The plant. `admodels line` edits it, comments kept; `admodels plant check` checks it.
schema: 1
timezone: {timezone}  # of local times; a day of the plant is a day of it
day_ends: '06:00'  # a night is named by the date on which it ends
audit: 5  # images of a line and a night that a person marks, drawn regardless of their score
page_url: null  # where ledger/pages is served, for links in alerts; ${{NAME}} is of the environment
{lines}"""
FEEDBACK = "feedback"  # stood beside a ledger
LEFT = (RUN, COMMIT, "bundles")  # of an old ledger: locks, copies of what the registry held


class OldLine(Strict):
    """A line as the versions before plants had it in a block `lines:`."""

    folder: str = Field(min_length=1)
    task: str
    method: str | None = None
    model: str | None = None  # an address of MLflow's registry, instead of a method
    alpha: float
    pattern: str | None = None
    exclude: tuple[str, ...] = ()
    page: int | None = None
    tile: Tile | None = None
    fdr: float | None = None

    def block(self) -> dict[str, Any]:
        """What plant.yaml says of it; the folder was relative to the working directory."""
        left_out = {"task", "method", "model"}
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        return content | {"folder": str(Path(self.folder).absolute())}


def make_plant(folder: Path, timezone: str, *, here: bool = False) -> None:
    """Make a plant without lines.

    Raises:
        ConfigurationError: there is something already, or it stands in a git work tree and `here`
            does not say that this is meant: a checkout could change what a night scores with.
    """
    refuse_place(folder, here=here)
    with _new_folder(folder) as building:
        _write(building, timezone, {})
        (building / LEDGER).mkdir(mode=0o750)


def take_over(
    folder: Path,
    timezone: str,
    lines: Path,
    ledger: Path | None,
    models: Path,
    *,
    here: bool = False,
) -> list[str]:
    """Make a plant of an old block `lines:`, the bundles that it names and a copy of its ledger.

    What was used stays as it is. Returns what the check of the copied ledger says.

    Raises:
        BundleError: a bundle is missing or must not be used; nothing is made.
        ConfigurationError: as `make_plant`, or the lines cannot be used.
    """
    refuse_place(folder, here=here)
    old = read("lines", dict[str, OldLine], lines)
    with _new_folder(folder) as building:
        _write(building, timezone, {name: line.block() for name, line in old.items()})
        notes = _copy_ledger(ledger, building) if ledger else []
        plant = read_plant(building)
        for name, line in old.items():
            bundle = line.model or str(models / f"{line.method}/{line.task}")
            deploy.deploy(plant, name, bundle, force=True, why=f"taken over from {lines}")
    return notes


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """The folder to fill; empty again, or gone, where the block fails."""
    if not folder.is_dir():
        with durable_folder(folder) as building:
            yield building
        return
    try:  # the user may write into it, and perhaps not beside it
        yield folder
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _copy_ledger(ledger: Path, plant: Path) -> list[str]:
    if not ledger.is_dir():
        raise ConfigurationError(
            "there is no ledger to take over",
            where=ledger,
            expected="the folder of a ledger",
            next_step="correct `--ledger`, or leave it out for a new ledger",
        )
    with ExitStack() as held:
        if (ledger / RUN).exists():
            held.enter_context(run_lock(ledger))
        shutil.copytree(ledger, plant / LEDGER)
        if (marks := ledger.resolve().with_name(FEEDBACK)).is_dir():
            shutil.copytree(marks, plant / FEEDBACK)
    for name in LEFT:
        path = plant / LEDGER / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (plant / LEDGER).chmod(0o750)
    with open_ledger(plant / LEDGER) as copy:
        result = check(copy)
    return [*(f"{name}: {fault}" for name, fault in result.faults.items()), *result.notes]


def _write(folder: Path, timezone: str, lines: dict[str, Any]) -> None:
    folder.chmod(0o750)
    stream = StringIO()
    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    yaml.dump({"lines": lines}, stream)
    text = TEMPLATE.format(timezone=timezone, lines=stream.getvalue())
    (folder / PLANT_FILE).write_text(text, encoding="utf-8")
    read_plant(folder)


def refuse_place(folder: Path, *, here: bool) -> None:
    """Refuse a folder that cannot become a plant."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            "there is something already",
            where=folder,
            expected="a new or empty folder",
            next_step="name another, or `admodels plant check` if this is a plant",
        )
    if (tree := work_tree(folder)) and not here:
        raise ConfigurationError(
            f"the plant would stand in the git work tree {tree}",
            where=folder,
            expected="a folder of its own: a checkout could change what a night scores with",
            next_step="name another, e.g. /srv/admodels; `--here` if this is a trial",
        )


def work_tree(folder: Path) -> Path | None:
    """The git work tree that a folder stands in, if any."""
    place = folder.resolve()
    return next((each for each in (place, *place.parents) if (each / ".git").exists()), None)
