"""The table of regions: of a part of scores, or of a later judgement on a night.

regions/LINE/RUN/NNNN.parquet     of the flagged images in the part of `scores` of this name
regions/LINE/NIGHT/NNNN.parquet   of images that were flagged later, made from their files then
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from admodels.scoring import tables
from admodels.scoring.index import open_part
from admodels.scoring.ledger import Ledger
from admodels.scoring.lines import folder_name


def regions_of(ledger: Ledger, line: str, runs: Iterable[str]) -> pa.Table:
    """The regions of the flagged images of `runs`; those of older versions have none.

    Raises:
        BusyError: beside a run, which merges the files meanwhile.
        StorageError: a file is damaged.
    """
    places, wanted = [tables.REGIONS.empty_table()], set(runs)
    for run in sorted(wanted):
        for path in ledger.parts(line, run):
            own = ledger.sides(path)[1]
            if own.is_file():
                places.append(_read(own))
            else:
                ledger.check_place(path)
    for name in ledger.catalogue.names(f"regions/{folder_name(line)}"):
        path = ledger.folder / name
        if not path.parent.name.isdigit() and path.is_file() and tables.runs_of(path) & wanted:
            places.append(_read(path))
    return pa.concat_tables(places)


def write_regions(
    ledger: Ledger, line: str, night: str, regions: pa.Table, runs: Iterable[str]
) -> None:
    """Write the regions of rows of `runs` that were flagged after their night."""
    home = ledger.folder / "regions" / folder_name(line) / night
    with ledger.commit():
        numbers = [int(path.stem) for path in home.glob("*.parquet") if path.stem.isdigit()]
        target = home / f"{max(numbers, default=0) + 1:04d}.parquet"
        with ledger.store(target) as (partial,):
            tables.write(partial, tables.REGIONS, [regions], runs)


def _read(path: Path) -> pa.Table:
    with open_part(path, tables.REGIONS) as file:
        batches = list(tables.batches(file, tables.REGIONS))
    return pa.Table.from_batches(batches, tables.REGIONS)
