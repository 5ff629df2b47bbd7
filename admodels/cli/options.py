"""Options that several groups of commands share."""

from pathlib import Path

import typer

from admodels.foundation.errors import ConfigurationError

VARIABLE = "ADMODELS_PLANT"
PLANT = typer.Option(envvar=VARIABLE, help="the folder of the plant; there is no default")
LEDGER = typer.Option(help="a ledger to read without a plant, e.g. of an older version")
MODELS = typer.Option(help="the folder that holds bundles, as METHOD/TASK")


def plant_folder(plant: Path | None) -> Path:
    """The folder that is named.

    Raises:
        ConfigurationError: none is; the working directory is not taken for one.
    """
    if plant is None:
        raise ConfigurationError(
            "no plant is named",
            where=f"--plant and {VARIABLE}",
            expected="the folder that `admodels plant init` made",
            next_step=f"add `--plant FOLDER`, or `export {VARIABLE}=FOLDER`",
        )
    return plant


def ledger_folder(plant: Path | None, ledger: Path | None) -> Path:
    """The ledger that is named, or that of the plant.

    Raises:
        ConfigurationError: neither is named.
    """
    return ledger or plant_folder(plant) / "ledger"
