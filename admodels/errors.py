"""The exceptions a user can meet; the exit code of a command is the class of its error.

AdmodelsError
 +- ConfigurationError  2   wrong usage, params.yaml refused
 +- DataError           3   images, masks, manifests refused
 +- BundleError         4   bundle missing, incompatible or tampered with
 +- SourceError        69   a source cannot be reached
 +- StorageError       74   storage cannot be read or written
"""

import sys
from collections.abc import Callable
from typing import Self


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


def run(work: Callable[[], object]) -> None:
    """Do the work of a command; an error of ours is told without a traceback, by its exit code."""
    try:
        try:
            work()
        except OSError as error:
            raise StorageError.of(error) from error
    except AdmodelsError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
