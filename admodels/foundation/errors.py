"""The exceptions a user can meet, and the one table of exit codes.

AdmodelsError
 +- ConfigurationError, DataError, BundleError, SourceError, StorageError, BusyError
 +- Interrupted  a signal asked for the end

The exit code of a command is that of its error. README, runbook and `admodels codes` print
`EXIT_CODES`; nothing else says what a code means.
"""

import errno
import logging
import signal
import sys
from collections.abc import Callable
from traceback import walk_tb
from types import TracebackType
from typing import Self

from admodels.foundation.logs import log_as

LOG = logging.getLogger(__name__)
BUG, ALARM = 1, 5
DONE = (0, ALARM)  # of a run that has reported all its rows
SIGNALLED = 128  # an exit code is this and the signal
EXIT_CODES = {  # meaning, next step
    0: ("done", "nothing to do"),
    BUG: ("a bug", "keep the log and send it to the developers; the other lines are done"),
    2: (
        "wrong usage or configuration",
        "correct what is named (`admodels check`; mount the share), then run it again",
    ),
    3: ("data refused", "look at the images or the table that are named"),
    4: (
        "a bundle is missing, incompatible or tampered with",
        "of a line: `admodels deploy LINE BUNDLE`; of an experiment: `dvc checkout "
        "data/models/METHOD/TASK` or `dvc pull` it; if it happens again, check the disk",
    ),
    ALARM: ("done, with an alarm", "look at the lines, cameras and inboxes that are named"),
    69: ("a source cannot be reached", "mount or restore it, then run it again"),
    74: (
        "storage cannot be read or written",
        "make room, correct permissions or restore what is damaged, then run it again",
    ),
    75: ("another run is at work", "wait for its end, or end the process that is named"),
}
STOPPED = "run it again: it goes on where it stopped"
KILLED = f"{STOPPED}; if `journalctl -k` says that memory ran out, give it more"
LOST = ("the night was killed, or never began", "look at its log, then run it again")


def meaning(code: int | None) -> tuple[str, str]:
    """What an exit code means, and the next step; None is that of a night that reported none."""
    if code is None:
        return LOST
    if code > SIGNALLED:
        number = code - SIGNALLED
        return f"stopped by signal {number}", KILLED if number == signal.SIGKILL else STOPPED
    return EXIT_CODES.get(code, EXIT_CODES[BUG])


def exit_codes_table() -> str:
    """The table of exit codes as Markdown, for README and runbook."""
    signals = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
    rows = [(code, *meaning(code)) for code in (*EXIT_CODES, *(SIGNALLED + s for s in signals))]
    head = ["| code | what it means | what to do |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {code} | {what} | {step} |" for code, what, step in rows)])


class AdmodelsError(Exception):
    """An error that says what was found, where, what was expected and what to do next."""

    exit_code = BUG

    def __init__(self, fault: str, *, where: object, expected: str, next_step: str) -> None:
        super().__init__(
            f"{fault}\n  where:    {where}\n  expected: {expected}\n  next:     {next_step}"
        )
        self.fault = fault


class ConfigurationError(AdmodelsError):
    """Wrong usage, or a parameter file that cannot be used."""

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


PERMITTED = (
    "a file or folder that this user may read and write",
    "change its owner or its permissions (`ls -ld` shows them), then run again",
)
ROOM = ("a device with room for this user", "make room (`df -h`, `df -i`, `quota`), then run again")
HANDLES = ("fewer open files", "raise the limit (`ulimit -n 4096`), then run again")
IN_THE_WAY = (
    "a folder where a folder must stand, and a file where a file must stand",
    "move away what stands there, then run again",
)
ADVICE = {  # expected, next step
    errno.ENOENT: ("a file or folder that exists", "create or restore it, then run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), PERMITTED),
    errno.EROFS: ("a file system that can be written", "mount it writable, then run again"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ROOM),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), HANDLES),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY), IN_THE_WAY),
    errno.EIO: ("a device that answers", "check the disk or the share (`dmesg`), then run again"),
    errno.ENOMEM: ("enough memory", "end other programs or add memory, then run again"),
    errno.ENAMETOOLONG: ("a shorter name", "shorten the name, then run again"),
}
OTHER = ("a file or device that works", "correct what is named, then run again")
PROGRAM = ("a program on the PATH that can be run", "install it or correct PATH, then run again")


class StorageError(AdmodelsError):
    """Storage that cannot be read or written."""

    exit_code = 74

    @classmethod
    def of(cls, error: OSError) -> Self:
        """What the operating system complained of, wherever it was met."""
        is_program = _is_of_a_program(error.__traceback__)
        expected, step = PROGRAM if is_program else ADVICE.get(error.errno or 0, OTHER)
        return cls(
            f"{type(error).__name__}: {error.strerror or error}",
            where=error.filename or "a file or device",
            expected=expected,
            next_step=f"{step}: nothing is half-written",
        )


def _is_of_a_program(trace: TracebackType | None) -> bool:
    """Whether `subprocess` could not start what it was asked to."""
    modules = [frame.f_globals.get("__name__") for frame, _ in walk_tb(trace)]
    return modules[-1:] == ["subprocess"]


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
            next_step=STOPPED,
        )
        self.exit_code = SIGNALLED + signal


def run(work: Callable[[], object]) -> None:
    """Do the work of a command; one of our errors ends it by its code, without a traceback."""
    log_as("plain")
    try:
        try:
            work()
        except OSError as error:
            raise StorageError.of(error) from error
    except AdmodelsError as error:
        LOG.error("%s: %s", type(error).__name__, error)
        sys.exit(error.exit_code)
