"""What a night says on stderr, as plain lines or as JSON for a log collector.

What C libraries write to the file descriptor itself stays as it is.
"""

import io
import json
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

Style = Literal["plain", "json"]


def log_as(style: Style) -> None:
    """From here to the end of the process, stderr speaks in this style."""
    if style == "json":
        sys.stderr = JsonLines(sys.stderr)


class JsonLines(io.StringIO):
    """A stream that makes one line of JSON of each message; a line end ends a message."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str) -> int:
        """Keep the text, or tell it with what was kept where it ends a line."""
        super().write(text)
        if text.endswith("\n"):
            message = self.getvalue().rstrip("\n")
            self.seek(0)
            self.truncate()
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._out.write(json.dumps({"time": now, "message": message}) + "\n")
            self._out.flush()
        return len(text)
