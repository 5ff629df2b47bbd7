"""What the ledger says of its nights, read without its lock: one may be at work meanwhile."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, BaseModel, Field, ValidationError, field_validator

from admodels.foundation.errors import SIGNALLED, ConfigurationError
from admodels.nights.report import LineReport, PartsReport
from admodels.scoring.ledger import summaries
from admodels.scoring.locks import is_at_work

CLOCK_TOLERANCE = timedelta(minutes=5)
LOOKS_MISSED = 3  # in a row, and the process that looks again and again is taken for dead
UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
LONGEST = timedelta(days=36500)


class NightSummary(BaseModel):
    """The summary of a night: the last line on its stdout, and runs/RUN.json of the ledger."""

    run: str = Field(pattern=r"^\d+$")
    exit_code: int
    started: AwareDatetime
    seconds: float
    host: str
    lines: dict[str, LineReport]
    night: str = ""  # the date of the plant's day; an older version did not keep it
    command: str = ""
    directory: str = ""
    versions: dict[str, str] = {}
    unclaimed: int = 0  # files that match the pattern of no line
    whole: bool = True  # all its rows are in it, and on its page
    page: str = ""  # where it is
    page_faults: list[str] = []
    every_seconds: float | None = None  # between two looks, where there are many
    ledger: list[str] = []  # what the daily check of it found
    closes: bool = False  # it is the last look of its night
    timezone: str = "UTC"  # of the plant
    silence: list[str] = []  # alarms of all lines at once
    parts: dict[str, PartsReport] = {}  # by kind

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError) as error:
            raise ValueError("no time zone of this name") from error
        return name

    @classmethod
    def of(cls, text: str | bytes) -> "NightSummary | None":
        """From JSON; None where it is anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def started_text(self) -> str:
        """When it began, in the zone of the plant and with its name."""
        local = self.started.astimezone(ZoneInfo(self.timezone))
        return f"{local:%Y-%m-%d %H:%M} {self.timezone}"

    @property
    def end(self) -> datetime:
        """When it was written."""
        return self.started + timedelta(seconds=self.seconds)


def last(ledger: Path) -> NightSummary | None:
    """The summary of the last night that came to its end."""
    return next((NightSummary.of(path.read_bytes()) for path in summaries(ledger)), None)


def killed_night(ledger: Path, night: NightSummary | None) -> str | None:
    """The number of a later night that wrote rows, has no summary and is not at work."""
    after = int(night.run) if night else 0
    runs = [p.name for p in ledger.glob("scores/*/*") if p.name.isdigit() and int(p.name) > after]
    return None if not runs or is_at_work(ledger) else max(runs, key=int)


def age_of(text: str, option: str = "--max-age") -> timedelta:
    """The duration that words such as `8h`, `90m`, `2d` or `60s` name.

    Raises:
        ConfigurationError: other words.
    """
    words = re.fullmatch(r"(\d{1,6})([smhd])", text)
    age = int(words[1]) * UNITS[words[2]] if words else None
    if age is None or age > LONGEST:  # a date before the year 1 is none
        raise ConfigurationError(
            f"not a duration: `{text}`",
            where=option,
            expected="a number and s, m, h or d, such as `8h`, of at most 36500d",
            next_step=f"correct it, e.g. `{option} 8h`",
        )
    return age


def _looks_on(ledger: Path, night: NightSummary) -> tuple[bool, datetime]:
    """Whether a night of many looks goes on, and when the night, or its last look, ended."""
    lock = ledger / "lock"
    if night.every_seconds is None or night.whole or not lock.exists():
        return False, night.end
    looked = max(night.end, datetime.fromtimestamp(lock.stat().st_mtime, UTC))
    patience = timedelta(seconds=LOOKS_MISSED * night.every_seconds) + CLOCK_TOLERANCE
    is_on = night.exit_code < SIGNALLED and datetime.now(UTC) - looked <= patience
    return is_on, looked


def dead_man(ledger: Path, max_age: timedelta) -> tuple[bool, str]:
    """Whether the last night came to its end within `max_age`, and a sentence on it."""
    night = last(ledger)
    if lost := killed_night(ledger, night):
        return False, f"night {lost} was killed before its end"
    if night is None:
        return False, f"no night has come to its end in {ledger}"
    looks_on, end = _looks_on(ledger, night)
    age = datetime.now(UTC) - end
    if age < -CLOCK_TOLERANCE:
        return False, f"night {night.run} ended in the future: a clock is or was wrong"
    state = f"night {night.run} ended {age / UNITS['h']:.1f} h ago with exit code {night.exit_code}"
    ended = night.exit_code < SIGNALLED and (night.whole or night.page_faults)
    if not ended and not looks_on and not is_at_work(ledger):
        return False, f"{state}: it was stopped before its end"
    return age <= max_age, state if age <= max_age else f"{state}: too long ago"
