"""Send people an alert about a night that needs them, by webhook or mail.

Addresses and secrets come from the environment (ADMODELS_ALERT_..., see deploy/RUNBOOK.md) and
appear in no message. A channel that fails is a sentence for stderr, not an error.
"""

import json
import os
import signal
import smtplib
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from threading import Thread
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from admodels.foundation.errors import SIGNALLED, meaning
from admodels.nights.history import NightSummary, killed_night, last
from admodels.nights.report import LineReport, PartsReport

WEBHOOK, SMTP, FROM, TO = (f"ADMODELS_ALERT_{key}" for key in ("WEBHOOK", "SMTP", "FROM", "TO"))
STEP_SECONDS = 10.0  # of a channel: to connect, to be answered
DEADLINE_SECONDS = 30.0  # of a channel, whatever it does
PORTS = {"smtp": 587, "smtps": 465, "smtp-plain": 25}
LOG_LINES, LINES_NAMED, LETTERS_PER_LINE = 15, 20, 300
Channel = Callable[[str, str, Mapping[str, str]], None]


@dataclass(frozen=True)
class Outcome:
    """The end of a night: its exit code if known, its summary, or else the end of its log."""

    code: int | None
    night: NightSummary | None
    log: str = ""


def alert(
    ledger: Path, log: Path | None, status: str, always: bool, page_url: str | None = None
) -> list[str]:
    """Send how the last night ended if it did not end well; what went wrong in sending.

    `status` is how the scheduler saw it end, or empty; a summary that contradicts it is that of a
    night before. `page_url` is where the folder of pages is served.
    """
    try:
        ended = _outcome(ledger, log, status)
    except OSError as error:  # people must learn of that, too
        ended = Outcome(_code(status), None, str(error))
    if ended.night and ended.night.whole and ended.code == 0 and not always:
        return []
    subject, body = message(ended, os.uname().nodename, _page(ended, ledger, page_url))
    return send(subject, body, os.environ)


def _outcome(ledger: Path, log: Path | None, status: str) -> Outcome:
    code, end, night = _code(status), "", None
    if log:
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in deque((line for line in lines if line.strip()), LOG_LINES):
                night = NightSummary.of(line)
                end = "" if night else end + line  # what stands above a summary is an older night's
    elif not killed_night(ledger, whole := last(ledger)):
        night = whole
    if night and code in (None, night.exit_code):
        return Outcome(night.exit_code, night)
    return Outcome(code, None, end)


def _page(ended: Outcome, ledger: Path, page_url: str | None) -> str:
    """Where the page of the night is, or the one over nights; empty if there is none."""
    index = (ledger / "pages/index.html").absolute()
    page = ended.night.page if ended.night else str(index) if index.exists() else ""
    return f"{page_url.rstrip('/')}/{Path(page).name}" if page_url and page else page


def _code(status: str) -> int | None:
    """As a shell has it, from a number or from systemd's name of a signal (KILL)."""
    if status.isdecimal():
        return int(status)
    number = getattr(signal, f"SIG{status}", None)
    return None if number is None else SIGNALLED + int(number)


def message(ended: Outcome, host: str, page: str) -> tuple[str, str]:
    """Subject and body, plain text; `page` is where a page of the night is, or empty."""
    night, code = ended.night, "unknown" if ended.code is None else str(ended.code)
    subject = f"admodels on {host}: night {night.run if night else '?'}, exit code {code}"
    body = "\n".join(_sentences(ended, code, page)).splitlines()
    return _plain(subject), _plain("\n".join(line[:LETTERS_PER_LINE] for line in body))


def summary_text(night: NightSummary) -> str:
    """A night for the person who looks at the screen: how it ended, and each line."""
    head = _sentences(Outcome(night.exit_code, night), str(night.exit_code), night.page)
    named = [name for name, line in night.lines.items() if not line.exit_code][:LINES_NAMED]
    well = (f"- {name}: {_counts(night.lines[name])}" for name in named)
    return _plain("\n".join([*head, *well]))


def _sentences(ended: Outcome, code: str, page: str) -> Iterator[str]:
    night = ended.night
    if night:
        yield f"night {night.run}, {night.started_text}, on {night.host}"
    what, step = meaning(ended.code)
    yield f"exit code {code}: {what}"
    yield f"next: {step}"
    if page:
        yield f"page: {page}"
    if night:
        yield from (f"page: {fault}" for fault in night.page_faults)
        yield from (f"silence: {text}" for text in night.silence)
        yield from (f"ledger: {note}" for note in night.ledger[:LINES_NAMED])
        yield from _lines(night.lines)
        yield from map(_parts, night.parts, night.parts.values())
    else:
        yield "it wrote no summary" + (f"; the end of its log:\n{ended.log}" if ended.log else "")


def _lines(lines: Mapping[str, LineReport]) -> Iterator[str]:
    total = LineReport(
        images=sum(line.images for line in lines.values()),
        unreadable=sum(line.unreadable for line in lines.values()),
        flagged=sum(line.flagged or 0 for line in lines.values()),
    )
    yield f"lines: {len(lines)}; {_counts(total)}"
    bad = [(name, line) for name, line in lines.items() if line.exit_code or line.messages]
    for name, line in bad[:LINES_NAMED]:
        why = "; ".join(text.partition("\n")[0] for text in line.messages)
        yield f"- {name}: exit code {line.exit_code}, {_counts(line)}; {why}"
    if bad[LINES_NAMED:]:
        yield f"and {len(bad) - LINES_NAMED} more"


def _parts(name: str, parts: PartsReport) -> str:
    counts = f"{parts.parts} judged, {parts.flagged} flagged, {parts.undecided} undecided"
    text = f"parts {name}: {counts}, {parts.incomplete} without the score of a view"
    return "; ".join([text, *(fault.partition("\n")[0] for fault in parts.messages)])


def _counts(line: LineReport) -> str:
    judged = "no verdicts" if line.flagged is None else f"{line.flagged} flagged"
    return f"{line.images} images, {line.unreadable} unreadable, {judged}"


def _plain(text: str) -> str:
    """Names are data: nothing in them may steer a terminal or a chat."""
    kept = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    return kept.replace("<", "(").replace("`", "'")


def send(subject: str, body: str, environment: Mapping[str, str]) -> list[str]:
    """Send it on every channel of the environment; what went wrong, free of secrets."""
    channels = {key: channel for key, channel in CHANNELS.items() if environment.get(key)}
    if not channels:
        return [f"no alert was sent: set {' or '.join(CHANNELS)}"]
    faults = dict.fromkeys(channels, f"no answer after {DEADLINE_SECONDS:g} s")

    def work(key: str) -> None:
        try:
            channels[key](subject, body, environment)
            del faults[key]
        except (OSError, LookupError) as error:
            faults[key] = str(error)
        except Exception as error:  # its text may hold the address
            faults[key] = type(error).__name__

    threads = [Thread(target=work, args=(key,), daemon=True) for key in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return [f"{key}: {fault}" for key, fault in tuple(faults.items())]


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirected POST would arrive as an empty GET."""


def _webhook(subject: str, body: str, environment: Mapping[str, str]) -> None:
    """One field, the one that Slack, Mattermost and Google Chat have in common."""
    if not environment[WEBHOOK].startswith(("https://", "http://")):
        raise LookupError("no http or https address")
    payload = json.dumps({"text": f"{subject}\n```\n{body}\n```"}).encode()
    request = Request(environment[WEBHOOK], payload, {"Content-Type": "application/json"})
    build_opener(_NoRedirect).open(request, timeout=STEP_SECONDS).close()


def _mail(subject: str, body: str, environment: Mapping[str, str]) -> None:
    """Scheme smtps is TLS from the start, smtp is STARTTLS, smtp-plain is neither."""
    url, context = urlsplit(environment[SMTP]), ssl.create_default_context()
    if url.scheme not in PORTS or not url.hostname:
        raise LookupError("no smtp://, smtps:// or smtp-plain:// address")
    if url.scheme == "smtp-plain" and url.username:
        raise LookupError("a password goes by smtp:// or smtps:// only")
    mail = EmailMessage()
    mail["Subject"], mail["Date"] = subject, datetime.now(UTC)
    for key in (FROM, TO):
        if not environment.get(key):
            raise LookupError(f"{key} is not set")
        mail[key.rpartition("_")[2]] = environment[key]
    mail.set_content(body)
    with _server(url, context) as server:
        if url.scheme == "smtp":
            server.starttls(context=context)
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        if refused := server.send_message(mail):
            raise smtplib.SMTPRecipientsRefused(refused)


def _server(url: SplitResult, context: ssl.SSLContext) -> smtplib.SMTP:
    host, port = str(url.hostname), url.port or PORTS[url.scheme]
    if url.scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=STEP_SECONDS, context=context)
    return smtplib.SMTP(host, port, timeout=STEP_SECONDS)


CHANNELS: dict[str, Channel] = {WEBHOOK: _webhook, SMTP: _mail}
