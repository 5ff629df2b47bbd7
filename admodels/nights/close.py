"""Nights are closed: what each line had is counted, silence is judged, and both are written once.

nights/NIGHT.json   the record of a closed night; NIGHT is the date on which it ended

All looks of a night are over then, but for the one that closes it. Where its process dies before
the record is written, the next look belongs to the same night and closes it.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from admodels.foundation.errors import DONE, StorageError
from admodels.nights import audit, silence
from admodels.nights.calendar import AHEAD, Calendar, NightOfLook
from admodels.nights.history import NightSummary
from admodels.nights.judgements import rows_of_runs
from admodels.nights.limits import expected_images
from admodels.nights.plant import Plant
from admodels.nights.promise import AuditImage
from admodels.nights.report import LineReport, isolate
from admodels.nights.silence import LineNight
from admodels.scoring.ledger import Ledger

LOG = logging.getLogger(__name__)
FOLDER = "nights"
REMEMBERED = 400  # nights that the rule of silence looks back on
LATE = timedelta(hours=4)  # after the end of a night: its last look saw much of the next one
Runs = dict[date, list[str]]


class LineRecord(BaseModel):
    """What a line had in a closed night; `silence` is the alarm, or empty."""

    images: int  # of what should be an image
    files: int
    late: int = 0  # images of the last look, if it came more than LATE after the night
    silence: str = ""
    paused: bool = False
    audit: list[AuditImage] = []


class NightRecord(BaseModel):
    """The content of nights/NIGHT.json; lines without a look are not in it."""

    model_config = ConfigDict(populate_by_name=True)

    version: int = Field(default=1, alias="schema")
    night: date
    day: date | None = None  # of the night, as `day_ends` was then; an older version kept none
    closed: AwareDatetime
    runs: list[str]
    silence: str = ""  # of all lines: one alarm
    lines: dict[str, LineRecord]


def closed_nights(ledger: Path) -> list[date]:
    """The nights that have a record, the oldest first."""
    dates = (_date(path.stem) for path in (ledger / FOLDER).glob("????-??-??.json"))
    return sorted(night for night in dates if night)


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read_records(ledger: Path) -> list[NightRecord]:
    """The records of the last nights, the oldest first, without damaged ones."""
    records = []
    for night in closed_nights(ledger)[-REMEMBERED:]:
        path = ledger / FOLDER / f"{night}.json"
        try:
            records.append(NightRecord.model_validate_json(path.read_bytes()))
        except ValidationError:
            LOG.warning("a night is left out, its record is damaged: %s", path)
    return records


def open_runs(ledger: Ledger, tonight: date, records: Sequence[NightRecord]) -> Runs:
    """The runs of the nights that are not closed, of which this one is of `tonight`.

    A run that died without a summary belongs to the night of the next one, which reports it.
    """
    known = max((int(run) for record in records for run in record.runs), default=0)
    closed = set(closed_nights(ledger.folder))
    runs: Runs = {tonight: [ledger.run]}
    night: date | None = tonight
    for number in range(int(ledger.run) - 1, known, -1):
        run = f"{number:06d}"
        if summary := _summary(ledger.folder, run):
            night = _date(summary.night)
        if night is None:  # an older version knew no nights
            break
        if night not in closed:
            runs.setdefault(night, []).insert(0, run)
    return dict(sorted(runs.items()))


def first_run(ledger: Ledger, tonight: date) -> int:
    """The number of the first run of a night that is not closed yet; this one is of it."""
    return int(open_runs(ledger, tonight, read_records(ledger.folder))[tonight][0])


def _summary(ledger: Path, run: str) -> NightSummary | None:
    path = ledger / "runs" / f"{run}.json"
    return NightSummary.of(path.read_bytes()) if path.is_file() else None


def close_nights(
    ledger: Ledger,
    plant: Plant,
    look: NightOfLook,
    reports: Mapping[str, LineReport],
    now: datetime,
) -> list[NightRecord]:
    """The records of the nights that a look closes, the oldest first; `write_records` keeps them.

    The alarms of silence are added to `reports`.
    """
    records = read_records(ledger.folder)
    runs = open_runs(ledger, look.night, records)
    new = []
    for night in (night for night in runs if night <= look.night and look.closes):
        lines = dict(_line_records(ledger, plant, night, runs[night], reports, now, records))
        day = plant.calendar.day_of(night)
        record = NightRecord(night=night, day=day, closed=now, runs=runs[night], lines=lines)
        record.silence = _silence_of_all(record)
        _report(record, reports)
        records.append(record)
        new.append(record)
    return new


def write_records(ledger: Ledger, records: Sequence[NightRecord]) -> None:
    """Keep the records of nights: these are closed now.

    Raises:
        StorageError: there is a record of the night, and what was said is not written anew.
    """
    for record in records:
        path = ledger.folder / FOLDER / f"{record.night}.json"
        if path.exists():
            raise StorageError(
                "the night is closed already",
                where=path,
                expected="one record of each night",
                next_step="run the next look; it belongs to the night after this one",
            )
        ledger.store_json(path, record.model_dump(mode="json", by_alias=True))


def _line_records(
    ledger: Ledger,
    plant: Plant,
    night: date,
    runs: Sequence[str],
    reports: Mapping[str, LineReport],
    now: datetime,
    records: Sequence[NightRecord],
) -> Iterator[tuple[str, LineRecord]]:
    is_last = ledger.run in runs
    is_late = is_last and now - plant.calendar.end_of(night) > LATE
    looks = [summary for run in runs if (summary := _summary(ledger.folder, run))]
    for name in plant.lines:
        codes = [look.lines[name].exit_code for look in looks if name in look.lines]
        report = reports.get(name, LineReport()) if is_last else LineReport()
        codes += [report.exit_code] if is_last and name in reports else []
        with isolate(name, report):
            statuses = _statuses(ledger, name, runs)
            if statuses or any(code in DONE for code in codes):
                record = LineRecord(images=expected_images(statuses)[0], files=statuses.total())
                record.late = report.new_images if is_late else 0
                had_images = _had_rows(ledger, name, records[0].runs if records else runs)
                _judge_silence(record, plant, name, night, records, had_images)
                record.audit = audit.draw(ledger, name, night.isoformat(), plant.audit)
                yield name, record


def _had_rows(ledger: Ledger, name: str, first: Sequence[str]) -> bool:
    """Whether a line has rows of runs before `first`, those of the first night."""
    earliest = min(map(int, first), default=0)
    return any(int(path.parent.name) < earliest for path in ledger.parts(name))


def _judge_silence(
    record: LineRecord,
    plant: Plant,
    name: str,
    night: date,
    records: Sequence[NightRecord],
    had_images: bool,
) -> None:
    line, calendar, day = plant.lines[name], plant.calendar, plant.calendar.day_of(night)
    records = [record for record in records if record.night < night]
    record.paused = line.paused_until is not None and day < line.paused_until
    before = records[-1].lines.get(name) if _is_before(records, night, calendar) else None
    late = before.late if before else 0
    tonight = LineNight(day, record.images, late, paused=record.paused)
    past = line_nights(records, name, calendar)
    record.silence = silence.alarm(past, tonight, line.expect, had_images)


def _is_before(records: Sequence[NightRecord], night: date, calendar: Calendar) -> bool:
    return bool(records) and records[-1].night == calendar.before(night)


def _statuses(ledger: Ledger, line: str, runs: Sequence[str]) -> Counter[str]:
    return Counter(rows_of_runs(ledger, line, runs)["status"].to_pylist())


def line_nights(records: Sequence[NightRecord], name: str, calendar: Calendar) -> list[LineNight]:
    """The closed nights in which a line had a look, as the rule of silence knows them."""
    nights, late = [], 0
    for record, following in pairwise([*records, None]):
        if record and (line := record.lines.get(name)):
            day = record.day or calendar.day_of(record.night)
            nights.append(LineNight(day, line.images, late, line.silence, line.paused))
            is_next = following and calendar.before(following.night) == record.night
            late = line.late if is_next else 0
    return nights


def _silence_of_all(record: NightRecord) -> str:
    """One alarm where several lines are silent and no other had images; else empty."""
    silent = [name for name, line in record.lines.items() if line.silence]
    others = [line for line in record.lines.values() if not line.silence and not line.paused]
    if len(silent) < 2 or any(line.images for line in others):
        return ""
    return f"all lines were silent in the night {record.night}: hardly any images on {len(silent)}"


def _report(record: NightRecord, reports: Mapping[str, LineReport]) -> None:
    """Add the alarms of single lines to their reports."""
    for name, line in record.lines.items():
        if line.silence and not record.silence and name in reports:
            reports[name].alarm(
                f"silent in the night {record.night}: {line.silence}; where that is meant: "
                f"`admodels line pause {name} --until DATE`"
            )


def unwatched_lines(ledger: Path, plant: Plant) -> dict[str, str]:
    """The lines whose silence the rule cannot see, each with the reason."""
    records = _without_ahead(read_records(ledger))
    reasons = {
        name: silence.rhythm_fault(line_nights(records, name, plant.calendar), line.expect)
        for name, line in plant.lines.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _without_ahead(records: Sequence[NightRecord]) -> list[NightRecord]:
    """The records without those that a clock closed which ran ahead of the last look."""
    by_run = sorted(
        records, key=lambda record: (max(map(int, record.runs), default=0), record.night)
    )
    return [record for record in records if record.night <= by_run[-1].night + AHEAD]
