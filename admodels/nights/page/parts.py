"""Parts on the page: what was said of each, and to which one an image belongs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from admodels.nights.parts import kinds_of_parts, part_judgements
from admodels.pages.catalogue import Catalogue
from admodels.pages.words import visible
from admodels.scoring.ledger import Ledger

MOST = 500  # rows of the table of parts
Row = Mapping[str, Any]


@dataclass(frozen=True)
class PartRow:
    """A part that was judged; `verdict` says it with the number of views, `why` what is missing."""

    name: str
    verdict: str
    is_flagged: bool | None  # None: a view that says nothing leaves it open
    flagged_views: int
    trusted: bool
    why: str


@dataclass
class PartTable:
    """The parts of a night: those that were judged, the worst first, and names of all others.

    `places` has the row of each image of a judged part, by line, path and hash.
    """

    rows: list[PartRow] = field(default_factory=list)
    places: dict[tuple[str, str, str], int] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    flagged: int = 0

    def place(self, line: str, image: Row, catalogue: Catalogue) -> int:
        """The row of the part that an image shows, -1 where its name has no part."""
        key = (line, image["path"], image["image_sha256"])
        if key in self.places:
            return self.places[key]
        if not image["part_id"]:
            return -1
        name = part_name(image["part_id"], image["lot"] or "", catalogue)
        if name not in self.named:
            self.named[name] = len(self.rows)
            verdict = catalogue.text("part.unjudged")
            self.rows.append(PartRow(name, verdict, False, 0, True, ""))
        return self.named[name]

    @property
    def worst(self) -> Sequence[tuple[int, PartRow]]:
        """The flagged parts with their places, as many as the table of the page holds."""
        flagged = [(place, row) for place, row in enumerate(self.rows) if row.is_flagged]
        return flagged[:MOST]

    @property
    def without_verdict(self) -> Sequence[PartRow]:
        """The parts that are not flagged, and of which a view could not say that they are fine."""
        return [row for row in self.rows if row.is_flagged is None]


def read_parts(ledger: Ledger, night: str, catalogue: Catalogue) -> PartTable:
    """The parts that were judged in a night.

    Raises:
        StorageError: a file of the ledger is damaged.
    """
    table = PartTable()
    kinds = kinds_of_parts(ledger, night) if night else []
    for judgement in _judgements(ledger, kinds, night):
        for image in judgement["images"]:
            key = (image["line"], image["path"], image["image_sha256"])
            table.places[key] = len(table.rows)
        table.rows.append(_row(judgement, catalogue))
        table.flagged += table.rows[-1].is_flagged is True
    return table


def _judgements(ledger: Ledger, kinds: Sequence[str], night: str) -> Iterator[Row]:
    """Those of all kinds, the worst first."""
    rows = [row for kind in kinds for row in part_judgements(ledger, kind, night).to_pylist()]

    def badness(row: Row) -> tuple[bool, float]:
        return not row["is_anomalous"], 2.0 if row["p_value"] is None else row["p_value"]

    yield from sorted(rows, key=badness)


def _row(judgement: Row, catalogue: Catalogue) -> PartRow:
    is_flagged = judgement["is_anomalous"]
    name = "none" if is_flagged is None else "flagged" if is_flagged else "normal"
    return PartRow(
        part_name(judgement["part_id"], judgement["lot"], catalogue),
        catalogue.text(
            "part.verdict",
            verdict=catalogue.text(f"part.{name}"),
            seen=judgement["views_seen"],
            expected=judgement["views_expected"],
        ),
        is_flagged,
        sum(image["is_anomalous"] is True for image in judgement["images"]),
        judgement["trusted"],
        judgement["reason"],
    )


def part_name(part_id: str, lot: str, catalogue: Catalogue) -> str:
    """A part and its lot, where it has one."""
    name, lot = visible(part_id), visible(lot)
    if not lot:
        return catalogue.text("part.name", part=name)
    return catalogue.text("part.name_of_lot", part=name, lot=lot)
