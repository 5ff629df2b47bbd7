"""Which part an image shows and when it was captured, from its name, its EXIF or its file."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Literal

from admodels.scoring.tables import ScoreRow

Clock = Literal["name", "exif", "file"]
WORDS = ("part_id", "lot", "station")
TIMES = ("year", "month", "day", "hour", "minute", "second")
DATE = TIMES[:3]
CENTURY = 2000  # of a year of two digits
EXIF_TIME = re.compile(  # Exif 2.32, section 4.6.5: DateTimeOriginal, SubSec..., Offset...
    r"(?P<year>\d{4}):(?P<month>\d\d):(?P<day>\d\d) (?P<hour>\d\d):(?P<minute>\d\d)"
    r":(?P<second>\d\d)(?P<fraction>\.\d+)?(?P<offset>[+-]\d\d:\d\d)?"
)


@dataclass(frozen=True)
class PartNames:
    """How the part of an image, and the time of its capture, are read.

    `expression` must match the whole path below the folder of the line; its groups are `WORDS`, and
    `TIMES` where `clock` is `name`. `zone` is that of the camera's clock, where the clock itself
    names none.
    """

    expression: re.Pattern[str] | None
    clock: Clock | None = None
    zone: tzinfo = UTC

    def with_part(self, row: ScoreRow, exif: str, written_ns: int) -> ScoreRow:
        """`row` with what its path says, and with the time; None for what is not to be known.

        `exif`: as `admodels.scoring.exif.exif_time` gives it. `written_ns`: when the file was
        written, since 1970, or 0.
        """
        match = self.expression.fullmatch(row.path) if self.expression else None
        groups = match.groupdict("") if match else {}
        part_id, lot, station = (_text(groups.get(name, "")) for name in WORDS)
        time = self._time(groups, exif, written_ns)
        return replace(row, part_id=part_id, lot=lot, station=station, captured_at=time)

    def _time(self, groups: Mapping[str, str], exif: str, written_ns: int) -> datetime | None:
        if self.clock == "name":
            return instant(groups, self.zone)
        if self.clock == "exif":
            match = EXIF_TIME.fullmatch(exif)
            return instant(match.groupdict(""), self.zone) if match else None
        if self.clock == "file" and written_ns:
            return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=written_ns // 1000)
        return None


def _text(word: str) -> str | None:
    """One spelling of one word: macOS takes letters with accents apart."""
    return unicodedata.normalize("NFC", word) or None


def instant(groups: Mapping[str, str], zone: tzinfo) -> datetime | None:
    """The instant (UTC) of a local time in `zone`; None where it is no time.

    Of a local time that exists twice it is the first. One that does not exist is read with the
    offset before the clocks changed, as a camera shows it that has not changed yet (PEP 495).
    `groups`: digits by `TIMES`; what is missing after the day is 0.
    """
    try:
        year, month, day, hour, minute, second = (int(groups.get(name) or 0) for name in TIMES)
        if len(groups.get("year", "")) == 2:
            year += CENTURY
        if offset := groups.get("offset"):
            hours, minutes = (int(number) for number in offset[1:].split(":"))
            ahead = timedelta(hours=hours, minutes=minutes)
            zone = timezone(-ahead if offset[0] == "-" else ahead)
        wall = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        wall += timedelta(seconds=float(groups.get("fraction") or 0))
        return wall.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
