"""Entry points of the pipeline: I/O only, one per box of `dvc dag`; the work is in `admodels`."""

import inspect
import sys
from collections.abc import Callable

from admodels.foundation import errors
from admodels.foundation.errors import ConfigurationError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the words of the command line; an error of ours ends with its exit code."""
    errors.run(lambda: _call(main, sys.argv))


def _call(main: Callable[..., None], words: list[str]) -> None:
    names = list(inspect.signature(main).parameters)
    if len(words) - 1 != len(names):
        raise ConfigurationError(
            f"the stage got {len(words) - 1} words",
            where=" ".join(words),
            expected=" ".join(name.upper() for name in names) or "none",
            next_step="let DVC call it: `dvc repro`",
        )
    main(*words[1:])
