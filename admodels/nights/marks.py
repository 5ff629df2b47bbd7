"""What people say of images: marks, each kept for good with who gave it, when and from where.

marks.jsonl   a chained line for each table that was taken, with all its marks

A mark counts for the audit of a night only if it was given in the night's audit section, which
shows neither score nor verdict. Other marks on flagged images give the precision of the alarms. A
later mark takes the place of an earlier one in what is read, never in the file. An older version
kept ../feedback/LINE.csv: these are marks without a section.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from admodels.datasets import TableRow, read_table
from admodels.foundation.errors import DataError, StorageError
from admodels.foundation.files import printable, whole_file
from admodels.foundation.params import Strict
from admodels.nights.audit import audit_nights, what_was_said
from admodels.nights.promise import AuditImage, Basis, Figures, Verdict, figures
from admodels.scoring.inbox import Folder, same_contents
from admodels.scoring.journal import Chain, user
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

NAME = "marks.jsonl"
VERDICTS: tuple[Verdict, ...] = ("fine", "defect", "unsure")
REQUIRED, OPTIONAL = ("line", "verdict"), ("path", "image_sha256", "section", "night")
EXPECTED = (
    "a CSV with the columns line, verdict (fine, defect or unsure), and path or image_sha256; with "
    "section and night where the page gave it"
)
Section = Literal["audit", "flagged", "other"]
SECTIONS = ("", "audit", "flagged", "other")
SHA256, NIGHT = r"[0-9a-f]{64}", r"\d{4}-\d\d-\d\d"
FAULTS_SHOWN = 10


class Mark(Strict):
    """A mark on an image of a line; `alarm` is what its alarm rests on, None if it was no alarm."""

    line: str
    image_sha256: str
    verdict: Verdict
    section: Section
    night: str = ""
    alarm: Basis | None = None


MARKS = TypeAdapter(list[Mark])


@dataclass
class Marks:
    """The marks on one line.

    `audit`: night -> image_sha256 -> verdict, given in the audit section of that night. `last`:
    image_sha256 -> the last mark, of whatever section.
    """

    audit: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    last: dict[str, Mark] = field(default_factory=dict)

    def take(self, mark: Mark) -> None:
        """Let a later mark take the place of an earlier one."""
        self.last[mark.image_sha256] = mark
        if mark.section == "audit":
            self.audit.setdefault(mark.night, {})[mark.image_sha256] = mark.verdict

    @property
    def alarms(self) -> list[tuple[Basis, Verdict]]:
        """The last mark on each flagged image, with what its alarm rests on."""
        return [(mark.alarm, mark.verdict) for mark in self.last.values() if mark.alarm]

    def of(self, *verdicts: Verdict) -> set[str]:
        """The images whose last mark is one of these."""
        return {sha256 for sha256, mark in self.last.items() if mark.verdict in verdicts}


def old_path(ledger: Ledger, line: str) -> Path:
    """Where an older version kept what people said of a line."""
    return ledger.folder.resolve().with_name("feedback") / f"{folder_name(line)}.csv"


def read(ledger: Ledger, lines: Iterable[str]) -> dict[str, Marks]:
    """The marks on each of `lines`.

    Raises:
        StorageError: they are not as they were written.
    """
    marks = {line: Marks() for line in lines}
    for line, own in marks.items():
        for sha256, verdict in _old_marks(old_path(ledger, line)):
            own.take(Mark(line=line, image_sha256=sha256, verdict=verdict, section="other"))
    for mark in _entries(ledger):
        if mark.line in marks:
            marks[mark.line].take(mark)
    return marks


def figures_of(ledger: Ledger, lines: Sequence[str]) -> dict[str, list[Figures]]:
    """What the audits of each of `lines`, and the marks on it, say of its promise, by basis."""
    nights, marks = audit_nights(ledger), read(ledger, lines)
    return {
        line: figures(line, nights.get(line, ()), marks[line].audit, marks[line].alarms)
        for line in lines
    }


def images_with_marks(ledger: Ledger) -> set[str]:
    """The images of all lines that people ever marked, outside an audit section."""
    images = {mark.image_sha256 for mark in _entries(ledger) if mark.section != "audit"}
    for path in ledger.folder.resolve().with_name("feedback").glob("*.csv"):
        images |= {sha256 for sha256, _ in _old_marks(path)}
    return images


def count(ledger: Ledger) -> int:
    """How many marks there are, each as it was written.

    Raises:
        StorageError: one is not.
    """
    return sum(1 for _ in _entries(ledger))


def _entries(ledger: Ledger) -> Iterator[Mark]:
    journal = Chain(ledger.folder / NAME)
    for entry in journal.entries():
        yield from MARKS.validate_json(json.dumps(entry["marks"]))


def _old_marks(path: Path) -> Iterator[tuple[str, Verdict]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            sha256, verdict = row.get("image_sha256") or "", row.get("verdict")
            if verdict not in VERDICTS or not re.fullmatch(SHA256, sha256):
                raise StorageError(
                    f"not a mark: `{sha256}`, `{verdict}`",
                    where=path,
                    expected="image_sha256 and fine or defect, as an older version wrote them",
                    next_step="restore it from the backup, or delete the line",
                )
            yield sha256, verdict


Drawn = dict[tuple[str, str], dict[str, AuditImage]]  # by line and night, then by image_sha256


class _Claim(NamedTuple):
    """A row of a table whose words are understood; `number` is its line in the table."""

    number: int
    line: str
    image_sha256: str
    verdict: Verdict
    section: str
    night: str


def append(ledger: Ledger, table: Path, lines: Collection[str]) -> dict[str, int]:
    """Take the marks of a CSV that a page or a spreadsheet saved; how many on each of `lines`.

    All its rows are taken or none; rows without a verdict say nothing. Columns that are not ours
    are ignored, so that a table of ours with one column added will do.

    Raises:
        DataError: no such CSV, or rows that cannot be taken; names their places in the table.
    """
    rows = [
        row for row in read_table(table, REQUIRED, OPTIONAL, others=True) if row.cells["verdict"]
    ]
    drawn = {
        (line, night.night): {image.image_sha256: image for image in night.drawn}
        for line, nights in audit_nights(ledger).items()
        for night in nights
    }
    read = [_claim(ledger, row, lines, drawn) for row in rows]
    claims = [claim for claim in read if isinstance(claim, _Claim)]
    marks = list(_marks(ledger, claims, drawn))
    faults = [fault for fault in (*read, *marks) if isinstance(fault, str)]
    faults += _contradictions(claims)
    if faults:
        more = len(faults) - FAULTS_SHOWN
        raise DataError(
            "; ".join(faults[:FAULTS_SHOWN]) + (f"; and {more} more" if more > 0 else ""),
            where=table,
            expected=EXPECTED,
            next_step="correct these lines, then run this again; nothing of the table was taken",
        )
    contents = [mark.model_dump(mode="json") for mark in marks if isinstance(mark, Mark)]
    if contents:
        with ledger.commit():
            entry = {"who": user(), "from": printable(str(table.resolve())), "marks": contents}
            Chain(ledger.folder / NAME).add(entry)
    return dict(sorted(Counter(content["line"] for content in contents).items()))


def _claim(ledger: Ledger, row: TableRow, lines: Collection[str], drawn: Drawn) -> _Claim | str:
    """What a row of a table claims, or what is wrong with it."""
    cells, number = row.cells, row.line
    line, verdict, section = cells["line"], cells["verdict"].casefold(), cells["section"].casefold()
    sha256, night = cells["image_sha256"].casefold(), cells["night"]
    if line not in lines:
        return f"line {number}: no line is named `{line}`"
    if verdict not in VERDICTS:
        return f"line {number}: `{cells['verdict']}` is neither fine nor defect nor unsure"
    if section not in SECTIONS:
        return f"line {number}: there is no section `{cells['section']}`"
    if night and not re.fullmatch(NIGHT, night):
        return f"line {number}: `{night}` is no night such as 2026-11-30"
    if not sha256 and section == "audit":  # the name may have other contents by now
        images = drawn.get((line, night), {}).values()
        sha256 = next((i.image_sha256 for i in images if i.path == cells["path"]), "")
    sha256 = sha256 or ledger.index.last(line, cells["path"])
    if not re.fullmatch(SHA256, sha256):
        return f"line {number}: the ledger does not know `{cells['path'] or sha256}` of {line}"
    return _Claim(number, line, sha256, verdict, section, night)


def _marks(ledger: Ledger, claims: Sequence[_Claim], drawn: Drawn) -> Iterator[Mark | str]:
    """The mark of each claim, or why it cannot be one."""
    said: Drawn = {}
    others = [claim for claim in claims if claim.section != "audit"]
    for place in sorted({(claim.line, claim.night) for claim in others}):
        images = [c.image_sha256 for c in others if (c.line, c.night) == place]
        said[place] = what_was_said(ledger, place[0], images, place[1])
    for claim in claims:
        place, is_audit = (claim.line, claim.night), claim.section == "audit"
        image = (drawn.get(place, {}) if is_audit else said[place]).get(claim.image_sha256)
        if image is not None:
            section: Section = "flagged" if image.is_anomalous else "other"
            yield Mark(
                line=claim.line,
                image_sha256=claim.image_sha256,
                verdict=claim.verdict,
                section="audit" if is_audit else section,
                night=claim.night,
                alarm=image.basis if image.is_anomalous else None,
            )
        else:
            where = f"in the audit set of {claim.line}" if is_audit else f"scored of {claim.line}"
            night = f" in night {claim.night}" if claim.night or is_audit else ""
            yield f"line {claim.number}: image {claim.image_sha256[:16]} is not {where}{night}"


def _contradictions(claims: Sequence[_Claim]) -> Iterator[str]:
    """Pairs of rows that give one image two verdicts in one place."""
    first: dict[tuple[str, ...], _Claim] = {}
    for claim in claims:
        is_audit = claim.section == "audit"
        key = (claim.line, claim.image_sha256, claim.night if is_audit else "", str(is_audit))
        if first.setdefault(key, claim).verdict != claim.verdict:
            yield (
                f"lines {first[key].number} and {claim.number} call image "
                f"{claim.image_sha256[:16]} {first[key].verdict} and {claim.verdict}"
            )


def collect(ledger: Ledger, line: str, images: Path, target: Path) -> tuple[int, int]:
    """Copy what was called fine from the line's folder to target/normal; how many, how many gone.

    `target` is a source of layout `folder`. Names are hashes; what is called otherwise by now is
    taken out again.
    """
    marks, home = read(ledger, [line])[line], target / "normal"
    left = marks.of("fine")
    fine = len(left)
    for sha256 in marks.of("defect", "unsure"):
        for earlier in home.glob(f"{sha256}.*"):
            earlier.unlink()
    for _, group in ledger.groups(line):
        columns = (group[name].to_pylist() for name in ("path", "image_sha256"))
        for path, sha256 in zip(*columns, strict=True):
            data = same_contents(Folder(images), path, sha256) if sha256 in left else None
            if data is not None:
                with whole_file(home / f"{sha256}{Path(path).suffix.lower()}") as partial:
                    partial.write_bytes(data)
                left.discard(sha256)
    return fine - len(left), len(left)
