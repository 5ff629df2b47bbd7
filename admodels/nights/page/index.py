"""The index: one row for each night by its date, with what its last look reports."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from admodels.nights.history import NightSummary
from admodels.nights.page.outcome import Outcome, outcome_of
from admodels.pages.catalogue import Catalogue


@dataclass(frozen=True)
class Look:
    """A look of a night; `page` is empty where no page was written."""

    page: str
    time: str
    outcome: Outcome


@dataclass(frozen=True)
class IndexRow(Look):
    """A night; its counts are those of its last look, which reports all rows of the night."""

    date: str
    started: str
    images: int
    flagged: int
    unreadable: int
    lines: int
    said: list[tuple[str, str]]
    earlier: list[Look]


def night_date(night: NightSummary) -> date:
    """The date of a night; an older version kept none, then the day on which it began."""
    if night.night:
        return date.fromisoformat(night.night)
    return night.started.astimezone(ZoneInfo(night.timezone)).date()


def index_rows(
    nights: Sequence[NightSummary], written: Collection[str], catalogue: Catalogue
) -> list[IndexRow]:
    """The nights of `nights`, which are runs, the newest first; pages of the runs in `written`."""
    by_date: dict[date, list[NightSummary]] = {}
    for night in nights:
        by_date.setdefault(night_date(night), []).append(night)
    return [_row(day, by_date[day], written, catalogue) for day in sorted(by_date, reverse=True)]


def _row(
    day: date, looks: Sequence[NightSummary], written: Collection[str], catalogue: Catalogue
) -> IndexRow:
    last, *earlier = (_look(look, written, catalogue) for look in looks)
    night = looks[0]
    reports = night.lines.values()
    said = [("", words) for words in night.silence]
    said += [(name, words) for name, line in night.lines.items() for words in line.messages]
    return IndexRow(
        last.page,
        last.time,
        last.outcome,
        date=catalogue.date(day, "date_row"),
        started=night.started.isoformat(),
        images=sum(report.images for report in reports),
        flagged=sum(report.flagged or 0 for report in reports),
        unreadable=sum(report.unreadable for report in reports),
        lines=len(reports),
        said=said,
        earlier=earlier,
    )


def _look(night: NightSummary, written: Collection[str], catalogue: Catalogue) -> Look:
    page = f"{night.run}.html" if night.run in written else ""
    time = catalogue.moment(night.started, night.timezone)
    return Look(page, time, outcome_of(night.exit_code))
