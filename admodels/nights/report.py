"""What a night says of one line, and how a failure is kept to it."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from admodels.foundation.errors import ALARM, BUG, AdmodelsError, StorageError
from admodels.nights.limits import expected_images

if TYPE_CHECKING:
    import pyarrow as pa

    from admodels.nights.judgements import JudgedRows
    from admodels.scoring.engine import Counts

LOG = logging.getLogger(__name__)


@dataclass
class LineReport:
    """A line's night, of the rows of `runs`: `images` are those of what should be an image.

    `intake` are the alarms of the files that the last look saw, `messages` those of what was
    judged.

    `unreadable` of them have no score; `flagged` is None where nothing can be promised. `drift` is
    the likely cause if the line did not look or score like its reference.
    """

    folder: str = ""
    alpha: float | None = None
    runs: list[str] = field(default_factory=list)
    found: int = 0
    old: int = 0
    excluded: int = 0
    unmatched: int = 0
    unsettled: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    images: int = 0
    new_images: int = 0  # of these, the ones that this look was the first to see
    unreadable: int = 0
    reused: int = 0
    without_part: int = 0  # images whose path names none, of a line with `part`
    flagged: int | None = None
    expected_false_alarms: float | None = None
    listed: int | None = None
    listed_false_alarms: float | None = None  # to be expected, at most
    pictures: int = 0
    smallest_defect_mm2: float | None = None  # the page counts smaller places, and shows none
    drift: str = ""
    drift_not_judged: str = ""
    median_score: float | None = None
    calibration: str | None = None
    calibration_sha256: str | None = None
    bundle: str | None = None
    model_fingerprint: str | None = None
    contract_fingerprint: str | None = None
    seconds: float = 0.0
    exit_code: int = 0
    messages: Annotated[list[str], Field(alias="told")] = field(default_factory=list)
    intake: list[str] = field(default_factory=list)

    def take(self, counts: "Counts") -> None:
        """Take over what the engine counted."""
        self.found, self.old, self.excluded = len(counts.paths), counts.old, counts.excluded
        self.unmatched, self.unsettled = counts.unmatched, counts.unsettled
        self.reused, self.pictures = counts.reused, counts.pictures
        self.new_images, _ = expected_images(counts.statuses)

    def take_rows(self, judged: "JudgedRows") -> None:
        """Take over what is said of the rows of tonight."""
        self.statuses = dict(sorted(judged.statuses.items()))
        self.images, self.unreadable = expected_images(self.statuses)
        self.median_score = judged.median_score
        self.calibration = str(judged.calibration.content)
        self.calibration_sha256 = judged.calibration.sha256
        if (len(judged.calibration.scores) + 1) * judged.alpha >= 1:
            self.flagged = judged.flags_count
            self.expected_false_alarms = round(judged.alpha * judged.scores_count, 2)

    def with_files_of(self, look: "LineReport") -> "LineReport":
        """This report, with the files that a later look saw, none of which was new."""
        names = ("found", "old", "excluded", "unmatched", "unsettled", "intake", "new_images")
        report = replace(self, **{name: getattr(look, name) for name in names})
        report.judge_alarms()
        return report

    def judge_alarms(self) -> None:
        """Set the exit code of a line that did not fail."""
        self.exit_code = ALARM if self.intake or self.messages else 0

    def alarm(self, text: str) -> None:
        """Add an alarm; a line that failed keeps its exit code."""
        self.messages.append(text)
        self.exit_code = self.exit_code or ALARM

    def content(self) -> dict[str, Any]:
        """What runs/RUN.json holds of the line; all alarms are its key `told`."""
        fields = asdict(self)
        fields["told"] = fields.pop("intake") + fields.pop("messages")
        return fields


@dataclass
class PartsReport:
    """A night of one kind of parts, of `views` each: how many were judged, and what was said.

    `undecided` parts are not flagged, but a view of theirs could not say that. `incomplete` ones
    lack the score of a view.
    """

    alpha: float | None = None
    views: int = 0
    parts: int = 0
    flagged: int = 0
    undecided: int = 0
    incomplete: int = 0
    exit_code: int = 0
    messages: list[str] = field(default_factory=list)

    def take(self, judgements: "pa.Table") -> None:
        """Take over the last judgement of the night on each part."""
        flags = judgements["is_anomalous"].to_pylist()
        self.parts, self.flagged = len(flags), flags.count(True)
        self.undecided = flags.count(None)
        seen, expected = (judgements[name].to_pylist() for name in ("views_seen", "views_expected"))
        self.incomplete = sum(n < m for n, m in zip(seen, expected, strict=True))

    def judge_alarms(self) -> None:
        """Set the exit code of parts that were judged."""
        self.exit_code = ALARM if self.messages else 0


@dataclass
class Reports:
    """What a night says of its lines and of its kinds of parts, each by name, look after look.

    `news`: the lines whose rows were judged by the last look.
    """

    lines: dict[str, LineReport] = field(default_factory=dict)
    parts: dict[str, PartsReport] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)


@contextmanager
def isolate(name: str, report: LineReport | PartsReport) -> Iterator[None]:
    """Keep a failure to its line; that of the ledger's index ends the night."""
    try:
        yield
    except sqlite3.Error:
        raise
    except (AdmodelsError, OSError) as error:
        known = StorageError.of(error) if isinstance(error, OSError) else error
        LOG.error("%s: %s: %s", name, type(known).__name__, known)
        report.exit_code = known.exit_code
        report.messages.append(known.fault)
    except Exception as error:  # a bug on one line must not cost the others their night
        LOG.exception("%s: a bug", name)
        report.exit_code = BUG
        report.messages.append(f"{type(error).__name__}: {error}")
