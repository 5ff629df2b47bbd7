"""Entry points of the pipeline: I/O only, one per box of `dvc dag`; the work is in `admodels`."""

import sys
from collections.abc import Callable

from admodels.errors import AdmodelsError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the words of the command line; an error of ours ends with its exit code."""
    try:
        main(*sys.argv[1:])
    except AdmodelsError as error:
        sys.exit(_told(error))


def _told(error: AdmodelsError) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code
