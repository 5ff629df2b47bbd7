"""Entry points of the pipeline: I/O only, one per box of `dvc dag`; the work is in `admodels`."""

import inspect
import sys
from collections.abc import Callable

from admodels.errors import AdmodelsError, ConfigurationError, StorageError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the words of the command line; an error of ours ends with its exit code."""
    try:
        try:
            _refuse_other_words(main, sys.argv)
            main(*sys.argv[1:])
        except OSError as error:
            raise StorageError.of(error) from error
    except AdmodelsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _refuse_other_words(main: Callable[..., None], words: list[str]) -> None:
    names = list(inspect.signature(main).parameters)
    if len(words) - 1 != len(names):
        raise ConfigurationError(
            f"the stage got {len(words) - 1} words",
            where=" ".join(words),
            expected=" ".join(name.upper() for name in names) or "none",
            next_step="let DVC call it: `dvc repro`",
        )
