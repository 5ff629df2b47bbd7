"""The exceptions a user can meet; the exit code of a command is the class of its error.

AdmodelsError
 +- ConfigurationError  2   wrong usage, params.yaml refused
 +- DataError           3   images, masks, manifests refused
 +- BundleError         4   bundle missing, incompatible or tampered with
 +- SourceError        69   a source cannot be reached
 +- StorageError       74   storage cannot be read or written
 +- BusyError          75   another run holds the lock
 +- Interrupted   130, 143  a signal asked for the end; run it again to go on
"""

import logging
import sys
from collections.abc import Callable
from typing import Self

from admodels.foundation.logs import log_as

LOG = logging.getLogger(__name__)


class AdmodelsError(Exception):
    """An error that says what was found, where, what was expected and what to do next."""

    exit_code = 1

    def __init__(self, found: str, *, where: object, expected: str, next_step: str) -> None:
        super().__init__(
            f"{found}\n  where:    {where}\n  expected: {expected}\n  next:     {next_step}"
        )
        self.found = found


class ConfigurationError(AdmodelsError):
    """Wrong usage or a params.yaml that cannot be used."""

    exit_code = 2


class DataError(AdmodelsError):
    """Images, masks or manifests that must not be trained on or evaluated."""

    exit_code = 3


class BundleError(AdmodelsError):
    """A bundle that is missing, incompatible or tampered with."""

    exit_code = 4


class SourceError(AdmodelsError):
    """A source that cannot be reached."""

    exit_code = 69


class StorageError(AdmodelsError):
    """Storage that cannot be read or written."""

    exit_code = 74

    @classmethod
    def of(cls, error: OSError) -> Self:
        """What the operating system complained of, wherever it was met."""
        return cls(
            f"{type(error).__name__}: {error.strerror or error}",
            where=error.filename or "a file or device",
            expected="files that this user may read and write, on a device with room",
            next_step="mend permissions or make room, then run again: nothing is half-written",
        )


class BusyError(AdmodelsError):
    """Another run is at work on the same output."""

    exit_code = 75


class Interrupted(AdmodelsError):  # noqa: N818  the word for it
    """A run that was asked to stop, and has kept what it did."""

    def __init__(self, signal: int, where: object) -> None:
        super().__init__(
            f"stopped by signal {signal}",
            where=where,
            expected="a run to its end",
            next_step="run it again: it goes on where it stopped",
        )
        self.exit_code = 128 + signal


def run(work: Callable[[], object]) -> None:
    """Do the work of a command; an error of ours is told without a traceback, by its exit code."""
    log_as("plain")
    try:
        try:
            work()
        except OSError as error:
            raise StorageError.of(error) from error
    except AdmodelsError as error:
        LOG.error("%s: %s", type(error).__name__, error)
        sys.exit(error.exit_code)
