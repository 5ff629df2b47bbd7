"""The record of drift of a run of a line: drift/LINE/RUN.json.

A run is found by its number, so that reading costs the same however many runs came before.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from admodels.foundation.errors import StorageError
from admodels.foundation.files import read_json
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name

LOG = logging.getLogger(__name__)
Record = dict[str, Any]  # the content of drift/LINE/RUN.json
RUNS_BACK = 1500  # at most, to look for past nights in: 60 nights of a run an hour
KEYS = {"images", "trusted", "statistics"}


def drift_folder(ledger: Ledger, line: str) -> Path:
    """Where the records of a line stand."""
    return ledger.folder / "drift" / folder_name(line)


def read_record(path: Path) -> Record | None:
    """The record at `path`, if there is one; a damaged one is left out, with a warning."""
    try:
        record = read_json(path, "the next night compares its images again")
    except FileNotFoundError:
        return None
    except StorageError as error:
        LOG.warning("%s", error)
        return None
    if isinstance(record, dict) and record.keys() >= KEYS:
        return record
    LOG.warning("%s is left out: it is no record of drift", path)
    return None


def read_records_of(ledger: Ledger, line: str, runs: Iterable[str]) -> list[Record]:
    """The records that there are of some runs of a line."""
    paths = (drift_folder(ledger, line) / f"{run}.json" for run in runs)
    return [record for path in paths if (record := read_record(path)) is not None]


def runs_before(run: str) -> Iterator[str]:
    """The numbers of the last runs before `run`, newest first."""
    for number in range(int(run) - 1, max(0, int(run) - 1 - RUNS_BACK), -1):
        yield f"{number:06d}"


def records_before(folder: Path, run: str) -> Iterator[Record]:
    """The records of the last runs before `run`, newest first."""
    for name in runs_before(run):
        record = read_record(folder / f"{name}.json")
        if record is not None:
            yield record
