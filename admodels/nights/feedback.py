"""What people said of images: it corrects calibration, and shows what the promise was worth.

feedback/LINE.csv, beside the ledger: image_sha256, verdict; one line per image, sorted. It is
small, and neither the ledger nor a model is needed to read it: `dvc add feedback` keeps it.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from admodels.foundation.errors import DataError
from admodels.foundation.files import durable_file, names_text, whole_file
from admodels.nights.judgements import rows_of_runs
from admodels.scoring.inbox import Folder, same_contents
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

FINE, DEFECT = "fine", "defect"
COLUMNS = ("image_sha256", "verdict")


@dataclass(frozen=True)
class FalseAlarms:
    """A line's alarms as far as people looked at them.

    `rate` is the estimated share of normal images that were flagged, None without a reviewed
    alarm: the reviewed alarms are taken for all of them.
    """

    line: str
    scored: int
    flagged: int
    reviewed: int
    false_alarms: int
    missed: int
    alpha: float

    @property
    def rate(self) -> float | None:
        """False alarms per normal image."""
        if not self.reviewed:
            return None
        false = self.flagged * self.false_alarms / self.reviewed
        normal = self.scored - (self.flagged - false) - self.missed
        return false / normal if normal > 0 else 0.0

    def __str__(self) -> str:
        rate = "unknown" if self.rate is None else f"{self.rate:.3g}"
        return (
            f"{self.line}: {self.reviewed} of {self.flagged} alarms reviewed, "
            f"{self.false_alarms} false; {self.missed} defects were not flagged; "
            f"false-alarm rate {rate}, promised {self.alpha:g}"
        )


def path_of(ledger: Ledger, line: str) -> Path:
    """Where the feedback on a line stands."""
    return ledger.folder.resolve().with_name("feedback") / f"{folder_name(line)}.csv"


def read(path: Path) -> dict[str, str]:
    """image_sha256 -> fine or defect; nothing where there is no file.

    Raises:
        DataError: it is not as `take` writes it.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        verdicts = {row.get("image_sha256", ""): row.get("verdict", "") for row in table}
    if not set(verdicts.values()) <= {FINE, DEFECT}:
        raise _refusal("other verdicts than fine and defect", path)
    return verdicts


def take(ledger: Ledger, path: Path) -> dict[str, int]:
    """Keep what an operator's CSV says, the later word counts; how many images of each line.

    It has the columns `line`, `verdict` (fine or defect), and `path` or `image_sha256`; others are
    ignored, so that a table of ours with one column added will do.

    Raises:
        DataError: another CSV, another word, or a file that the ledger does not know.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if not {"line", "verdict"} <= set(table.fieldnames or ()):
            raise _refusal(f"the columns are {table.fieldnames}", path)
        rows = [row for row in table if row["verdict"]]
    wrong = {row["verdict"] for row in rows} - {FINE, DEFECT}
    if wrong:
        raise _refusal(f"verdicts that are neither fine nor defect: {names_text(wrong)}", path)
    said: dict[str, dict[str, str]] = {}
    unknown = []
    for row in rows:
        sha256 = row.get("image_sha256") or ledger.index.last(row["line"], row.get("path") or "")
        if re.fullmatch("[0-9a-f]{64}", sha256):
            said.setdefault(row["line"], {})[sha256] = row["verdict"]
        else:
            unknown.append(f"{row['line']}: {row.get('path')}")
    if unknown:
        raise _refusal(f"files that the ledger does not know: {names_text(unknown)}", path)
    with ledger.commit():
        for line, verdicts in said.items():
            target = path_of(ledger, line)
            _write(target, (read(target) | verdicts).items())
    return {line: len(verdicts) for line, verdicts in sorted(said.items())}


def _write(path: Path, said: Iterable[tuple[str, str]]) -> None:
    with durable_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(said))


def collect(ledger: Ledger, line: str, images: Path, target: Path) -> tuple[int, int]:
    """Copy what was called fine from the line's folder to target/normal; how many, how many gone.

    `target` is a source of layout `folder`. Names are hashes; what is called a defect by now is
    taken out again.
    """
    said, home = read(path_of(ledger, line)), target / "normal"
    left = {sha256 for sha256, verdict in said.items() if verdict == FINE}
    fine = len(left)
    for sha256 in said.keys() - left:
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


def count_false_alarms(ledger: Ledger, line: str, alpha: float) -> FalseAlarms:
    """What the feedback says of all verdicts of a line."""
    said = read(path_of(ledger, line))
    counts = dict.fromkeys(("scored", "flagged", "reviewed", "false_alarms", "missed"), 0)
    for run in dict.fromkeys(path.parent.name for path in ledger.parts(line)):
        rows = rows_of_runs(ledger, line, [run])
        columns = (rows[name].to_pylist() for name in ("image_sha256", "is_anomalous"))
        for sha256, flagged in zip(*columns, strict=True):
            if flagged is not None:
                counts["scored"] += 1
                counts["flagged"] += flagged
                counts["reviewed"] += flagged and sha256 in said
                counts["false_alarms"] += flagged and said.get(sha256) == FINE
                counts["missed"] += not flagged and said.get(sha256) == DEFECT
    return FalseAlarms(line, alpha=alpha, **counts)


def _refusal(reason: str, path: Path) -> DataError:
    return DataError(
        reason,
        where=path,
        expected="a CSV with the columns line, path or image_sha256, and verdict: fine or defect",
        next_step="correct the CSV; nothing of it was taken",
    )
