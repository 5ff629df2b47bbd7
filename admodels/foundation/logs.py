"""How a process writes its messages on stderr: as plain lines, or as JSON for a log collector."""

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

Style = Literal["plain", "json"]
LOG = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of each message, with its time in UTC and its level."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as `{"time": ..., "level": ..., "message": ...}`, a traceback included."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = super().format(record)
        return json.dumps({"time": time, "level": record.levelname, "message": message})


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to `sys.stderr` as it stands when a message comes, one thread at a time."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


HANDLER = _Stderr()


def log_as(style: Style) -> None:
    """From here on write all messages of this process in one style, those of libraries included.

    What C libraries write to the file descriptor itself stays as it is.
    """
    HANDLER.setFormatter(JsonFormatter() if style == "json" else None)
    logging.getLogger().addHandler(HANDLER)
    logging.getLogger("admodels").setLevel(logging.INFO)
    if style == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_crash


def is_json() -> bool:
    """Whether stderr is for a log collector, so that nothing else may be drawn there."""
    return isinstance(HANDLER.formatter, JsonFormatter)


def _log_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    LOG.critical("this is a bug", exc_info=(kind, error, traceback))
