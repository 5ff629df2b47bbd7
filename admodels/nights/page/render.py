"""The morning page: one HTML file for a night, and an index over nights; neither needs a server.

pages/RUN.html   what needs a person, then the flagged images; their pictures stand in overlays/
pages/index.html
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from admodels.foundation.errors import DONE, meaning
from admodels.foundation.files import write_text
from admodels.nights.history import NightSummary
from admodels.nights.page.audit import line_audits
from admodels.nights.page.changes import Change, identity
from admodels.nights.page.content import LineNight, line_nights, read_runs, worst_first
from admodels.nights.page.drift import dots, property_text
from admodels.nights.page.index import index_rows, night_date
from admodels.nights.page.outcome import Outcome, outcome_of
from admodels.nights.page.parts import PartTable, read_parts
from admodels.nights.page.rows import columns, table_rows, verdict_text
from admodels.nights.report import LineReport
from admodels.pages.catalogue import Catalogue, english, name_markup
from admodels.pages.charts import Trend, trend
from admodels.pages.render import render_page
from admodels.scoring.ledger import Ledger

TEMPLATES = Path(__file__).parent / "templates"


def write(ledger: Ledger, run: str | None = None, catalogue: Catalogue | None = None) -> Path:
    """Write the page of a run (default: the last) and the index; the path of the page.

    Raises:
        ConfigurationError: there is no such run.
    """
    catalogue = catalogue or english()
    nights = read_runs(ledger.folder, run)
    pages = ledger.folder / "pages"
    page = pages / f"{nights[0].run}.html"
    everything = read_runs(ledger.folder)
    written = {night.run for night in everything if (pages / f"{night.run}.html").exists()}
    before = next(
        (n for n in nights[1:] if n.run in written and night_date(n) != night_date(nights[0])), None
    )
    _write(page, "night.html", catalogue, **_night(ledger, nights, before, catalogue))
    rows = index_rows(everything, written | {page.stem}, catalogue)
    _write(pages / "index.html", "nights.html", catalogue, nights=rows)
    return page


def _write(path: Path, name: str, catalogue: Catalogue, **content: Any) -> None:
    words = {
        "lang": catalogue.language,
        "t": catalogue.markup,
        "number": catalogue.number,
        "percent": catalogue.percent,
        "moment": catalogue.moment,
        "name": name_markup,
        "names": _names,
        "stored": Markup('<span lang="en">{}</span>').format,
        "code": Markup("<code>{}</code>").format,
        "bold": lambda count: Markup("<b>{}</b>").format(catalogue.number(count)),
        "property": partial(property_text, catalogue=catalogue),
        "status_text": lambda status: catalogue.text(f"status.{status}"),
        "change_text": partial(_change_text, catalogue=catalogue),
        "sentences": lambda figures: figures.sentences(catalogue),
        "verdict": partial(verdict_text, catalogue=catalogue),
    }
    text = render_page(name, TEMPLATES, styles=["night.css"], script="night.js", **words, **content)
    write_text(path, text)


def _night(
    ledger: Ledger,
    nights: Sequence[NightSummary],
    before: NightSummary | None,
    catalogue: Catalogue,
) -> dict[str, Any]:
    """What `night.html` shows."""
    night = nights[0]
    lines = line_nights(ledger, list(nights))
    shown = [_line(line, catalogue) for line in lines]
    audits = line_audits(ledger, [line.name for line in lines], night.night)
    worst, parts = worst_first(lines), read_parts(ledger, night.night, catalogue)
    data = columns(worst, lines, parts, catalogue)
    return {
        "night": night,
        "date": catalogue.date(night_date(night)),
        "time": Markup('<time datetime="{}">{}</time>').format(
            night.started.isoformat(), catalogue.moment(night.started, night.timezone)
        ),
        "state": ("closed" if night.closes else "open") if night.night else "of_run",
        "before": before
        and {"run": before.run, "date": catalogue.date(night_date(before), "date_short")},
        "outcome": outcome_of(night.exit_code),
        "step": meaning(night.exit_code)[1],
        "versions": ", ".join(f"{name} {version}" for name, version in night.versions.items()),
        "totals": _totals(lines, parts),
        "lines": shown,
        "audits": audits,
        "audited": [audit for audit in audits if audit.cards],
        "calm": _names([line for line in shown if line["is_calm"]]),
        "nothing_needed": not (
            night.silence
            or any(report.messages for report in night.parts.values())
            or night.unclaimed
            or any(line["needs"] for line in shown)
            or any(audit.figures and audit.figures[0].is_broken for audit in audits)
        ),
        "rows": table_rows(worst, lines, catalogue),
        "data": data,
        "parts": parts,
        "words": catalogue.section("script") | {"language": dict(catalogue.form)},
        "statuses": sorted({row["status"] for line in lines for row in line.unreadable}),
    }


def _totals(lines: Sequence[LineNight], parts: PartTable) -> dict[str, int]:
    of_parts = {"parts": parts.flagged} if parts.places else {}
    return {
        "flagged": sum(line.flagged or 0 for line in lines),
        **of_parts,
        "unreadable": sum(line.unreadable_count for line in lines),
        "images": sum(line.report.images for line in lines),
        "lines": len(lines),
    }


def _line(line: LineNight, catalogue: Catalogue) -> dict[str, Any]:
    drift = line.drift
    is_drifting = drift is not None and not drift["trusted"]
    is_compared = drift is not None and bool(drift["statistics"])
    shown = sum(row["is_anomalous"] is True for row in line.rows)
    messages = [words for words in line.report.messages if not words.startswith("drift: ")]
    has_no_verdicts = line.flagged is None and bool(line.rows)
    reports = [*(past.report for past in reversed(line.past)), line.report]
    is_different = bool(line.more_today or line.fewer_today)
    return {
        **vars(line),
        "before": line.before,
        "outcome": outcome_of(line.report.exit_code),
        "state": _state(line),
        "messages": messages,
        "has_no_verdicts": has_no_verdicts,
        "needs": is_drifting or messages or has_no_verdicts or is_different,
        "is_calm": is_compared and not is_drifting,
        "not_compared": "" if is_compared or is_drifting else _not_compared(line, catalogue),
        "plot": dots(line.name, drift["statistics"], catalogue) if drift and is_drifting else None,
        "left_out": max(0, (line.flagged or 0) - shown - line.too_small),
        "identity": identity(line.report),
        "trends": _trends(reports, catalogue),
    }


def _state(line: LineNight) -> Outcome:
    """What the verdicts of a line are worth, as the name of a message and a class of CSS."""
    drift = line.drift
    if line.report.exit_code not in DONE:
        return Outcome("failed", "error")
    if not line.report.images:
        return Outcome("nothing", "missing")
    if line.flagged is None:
        return Outcome("none", "warning")
    if drift and not drift["trusted"]:
        return Outcome("drift", "error")
    return (
        Outcome("trusted", "good")
        if drift and drift["statistics"]
        else Outcome("unknown", "missing")
    )


def _not_compared(line: LineNight, catalogue: Catalogue) -> Markup | str:
    """The name of a line whose images were not compared, with the reason where it is known."""
    if not line.report.images:
        return ""
    why = line.drift.get("not_judged", "") if line.drift else ""
    name = name_markup(line.name)
    stored = Markup('<span lang="en">{}</span>').format(why)
    return catalogue.markup("drift.because", line=name, why=stored) if why else name


def _names(things: Sequence[Any], key: str = "name") -> Markup:
    """The names of lines, or of what has one, as an enumeration."""
    names = (thing[key] if isinstance(thing, Mapping) else getattr(thing, key) for thing in things)
    return Markup(", ").join(map(name_markup, names))


def _change_text(change: Change, catalogue: Catalogue) -> Markup:
    unknown = catalogue.text("unknown")
    values = {key: unknown if value is None else value for key, value in change.values.items()}
    if change.what:
        values["what"] = catalogue.text(f"identity.{change.what}")
    return catalogue.markup(change.message, **values)


def _trends(nights: Sequence[LineReport], catalogue: Catalogue) -> list[Trend]:
    def share(count: int | None, images: int) -> float | None:
        return count / images if images and count is not None else None

    def trend_of(name: str, values: Iterator[float | None], form: str) -> Trend:
        return trend(catalogue.text(f"trends.{name}"), list(values), form, catalogue)

    return [
        trend_of("flagged", (share(night.flagged, night.images) for night in nights), ".2%"),
        trend_of("unreadable", (share(night.unreadable, night.images) for night in nights), ".2%"),
        trend_of("images", (night.images for night in nights), ",.0f"),
        trend_of("score", (night.median_score for night in nights), ",.4g"),
    ]
