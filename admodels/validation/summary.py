"""What `validate` writes on the terminal: errors and warnings, the worst first, and the page."""

import logging
from collections import Counter
from collections.abc import Sequence

from admodels.pages.words import visible
from admodels.validation.checks import PAGE, Finding, worst_first

LOG = logging.getLogger(__name__)
MOST_LINES = 12  # of a terminal that other stages write to as well
LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}


def log_summary(task: str, findings: Sequence[Finding]) -> None:
    """Write at most MOST_LINES lines: what fails, and where the page stands."""
    failed, page = worst_first(findings), PAGE.format(task=task)
    if not failed:
        LOG.info("%s: all %d checks hold; %s", task, len(findings), page)
        return
    counts = Counter(finding.severity for finding in failed)
    words = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in counts.items()]
    LOG.info("%s: %s", task, ", ".join(words))
    fit = len(failed) if len(failed) <= MOST_LINES - 2 else MOST_LINES - 3
    for finding in failed[:fit]:
        LOG.log(LEVELS[finding.severity], "  %-7s  %s", finding.severity, _line(finding))
    if failed[fit:]:
        LOG.warning("  and %d more on the page", len(failed) - fit)
    LOG.info("  page: %s", page)


def _line(finding: Finding) -> str:
    """What was seen, and the first image."""
    first = "".join(f" ({visible(name)})" for name in finding.unexpected[:1])
    return f"{finding.name}: {finding.seen.removesuffix('.')}{first}"
