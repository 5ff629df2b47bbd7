"""The audit on the page of a closed night, and what each line's promise was worth so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from admodels.nights.audit import audit_nights
from admodels.nights.marks import figures_of
from admodels.nights.promise import AuditNight, Figures
from admodels.scoring.candidates import picture_path
from admodels.scoring.ledger import Ledger


@dataclass(frozen=True)
class AuditCard:
    """An image of an audit set; `picture` is its address from the page, empty without one."""

    path: str
    image_sha256: str
    picture: str


@dataclass(frozen=True)
class LineAudit:
    """What a page shows of a line: the audit set of its night, and figures, the latest basis first.

    `figures` are as of today, of all nights.
    """

    line: str
    cards: list[AuditCard]
    figures: list[Figures]


def line_audits(ledger: Ledger, lines: list[str], night: str) -> list[LineAudit]:
    """The audits of `lines` in a night; without cards where the night is not closed.

    Raises:
        StorageError: the record of a night, or the marks, are damaged.
    """
    nights, known = audit_nights(ledger, night), figures_of(ledger, lines)
    return [
        LineAudit(line, _cards(ledger, line, nights.get(line, []), night), known[line][::-1])
        for line in lines
    ]


def _cards(ledger: Ledger, line: str, nights: Sequence[AuditNight], night: str) -> list[AuditCard]:
    drawn = next((each.drawn for each in nights if each.night == night), ())
    cards = []
    for image in drawn:
        path = picture_path(ledger.folder, line, night, image.image_sha256)
        picture = f"../{path.relative_to(ledger.folder).as_posix()}" if path.is_file() else ""
        cards.append(AuditCard(image.path, image.image_sha256, picture))
    return cards
