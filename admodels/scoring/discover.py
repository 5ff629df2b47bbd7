"""What scoring says of a file: a status, its name as text, whether it looks finished."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache

from admodels.images.decode import LARGEST_PIXELS

FILE_BYTES_MAX = 6 * LARGEST_PIXELS  # the largest image with 16 bits in each of three channels


class Status(StrEnum):
    """The result for a file: one of these words and no other, so that programs can rely on them."""

    SCORED = "scored"
    EMPTY = "empty"  # zero bytes
    TRUNCATED = "truncated"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"  # more bytes or pixels than are safe to decode
    TOO_COSTLY = "too_costly"  # to decode, beside the images learnt from: time or memory
    DAMAGED = "damaged"  # decodes, but a part of what the camera sent is missing
    WRONG_BIT_DEPTH = "wrong_bit_depth"  # this and the next four: none of the kind learnt from
    WRONG_SIZE = "wrong_size"
    WRONG_CHANNELS = "wrong_channels"  # grey where all were colour, or the other way round
    BLANK = "blank"  # nothing is on it: a closed shutter, a lamp out
    OVEREXPOSED = "overexposed"
    UNSCORABLE = "unscorable"  # decoded, but the detector's answer is not a finite number
    NOT_AN_IMAGE = "not_an_image"  # by name or kind; not read
    OUTSIDE_FOLDER = "outside_folder"  # a link that leads out; not read
    VANISHED = "vanished"  # gone between listing and reading, or a link to nothing
    UNREADABLE = "unreadable"  # the storage or its permissions refuse


LOCK_SUFFIXES = (".part", ".partial", ".filepart", ".crdownload", ".tmp", ".lock")


AMBIGUOUS = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")  # no byte below 80 is ever escaped
ESCAPED = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
NOT_IMAGES = (Status.NOT_AN_IMAGE, Status.OUTSIDE_FOLDER)


class Unsettled(Exception):  # noqa: N818  it waits for the next run
    """A file that changed while it was read."""


class Refused(Exception):  # noqa: N818  one row of a table, not the failure of a run
    """A file that is not scored, its status and the reason in words."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def path_text(name: str) -> str:
    r"""`name` as text that any file can hold: bytes that are no UTF-8 change, to their hex.

    A backslash before what then would read as such a byte changes as well, to `\x5c`, so that two
    files never get one name; `file_name` is the way back.
    """
    if name.isascii() and "\\" not in name:
        return name
    escaped = AMBIGUOUS.sub(r"\\x5c", name)
    text = os.fsencode(escaped).decode("utf-8", "backslashreplace")
    return name if text == name else text  # one object for two lists of a million names


def file_name(path: str) -> str:
    """The name of the file that `path_text` gave as `path`."""
    return ESCAPED.sub(lambda match: os.fsdecode(bytes.fromhex(match[1])), path)


@lru_cache
def _expression(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    return re.compile(translate(pattern), re.IGNORECASE if ignore_case else 0)


def is_match(path: str, pattern: str | None, *, ignore_case: bool = True) -> bool:
    """Whether a path matches a line's pattern, in which `*` goes across folders; None: any path."""
    return pattern is None or _expression(pattern, ignore_case).match(path) is not None


@dataclass(frozen=True)
class State:
    """When a file changed: as a stamp (size, time of content and inode), and in ns since 1970.

    The content has not changed where the stamp is the same. `any_ns` is the time of any change, a
    rename or a copy of the old time included.
    """

    stamp: str
    content_ns: int
    any_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "State":
        """From what the storage says."""
        stamp = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
        return cls(stamp, status.st_mtime_ns, status.st_ctime_ns)


NO_STATE = State("", 0, 0)  # where there is no file


def mtime_ns(stamp: str) -> int:
    """When a file was last written, from its stamp, within 64 bits; 0 where that is not known."""
    return min(int(stamp.split(":")[1]), 2**63 - 1) if stamp else 0


def is_settled(name: str, state: State, now: float, seconds: float) -> bool:
    """Whether a file looks finished: by its name, and no change of any kind within `seconds`.

    A time that lies further ahead than that is a wrong clock, and says nothing.
    """
    return not name.lower().endswith(LOCK_SUFFIXES) and is_older(state, now, seconds)


def is_older(state: State, now: float, seconds: float) -> bool:
    """Whether nothing of a file changed within so many seconds, as far as its clock is right."""
    ages = (abs(now - changed / 1e9) for changed in (state.content_ns, state.any_ns))
    return min(ages) >= seconds
