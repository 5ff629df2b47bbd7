"""How a plant comes to be: a new folder, or the lines and the ledger of an older version."""

from pathlib import Path

from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import durable_folder
from admodels.nights.plant import LEDGER, PLANT_FILE, read_plant

TEMPLATE = """\
# The plant. `admodels line` edits it, comments kept; `admodels plant check` checks it.
schema: 1
timezone: {timezone}  # of local times; a day of the plant is a day of it
day_ends: '06:00'  # a night is named by the date on which it ends
audit: 5  # images of a line and a night that a person marks, drawn regardless of their score
page_url: null  # where ledger/pages is served, for links in alerts; ${{NAME}} is of the environment
lines: {{}}
"""


def make_plant(folder: Path, timezone: str, *, here: bool = False) -> None:
    """Make a plant without lines.

    Raises:
        ConfigurationError: there is something already, or it stands in a git work tree and `here`
            does not say that this is meant: a checkout could change what a night scores with.
    """
    refuse_place(folder, here=here)
    with durable_folder(folder) as building:
        building.chmod(0o750)
        (building / PLANT_FILE).write_text(TEMPLATE.format(timezone=timezone), encoding="utf-8")
        (building / LEDGER).mkdir(mode=0o750)
        read_plant(building)


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
