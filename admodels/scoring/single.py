"""One folder, one bundle, one fresh output folder: what `admodels score` and stage `score` do."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.errors import ConfigurationError, Interrupted
from admodels.foundation.files import whole_folder, write_json
from admodels.inference.conformal import images_missing, smallest_alpha, threshold
from admodels.inference.regions import level
from admodels.scoring import tables
from admodels.scoring.discover import Status, path_text
from admodels.scoring.engine import Counts, Engine, LineImages, Model, local, score_line
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.pointing import Pointing
from admodels.scoring.region_files import regions_of
from admodels.scoring.rows import UNTURNED
from admodels.scoring.stopping import on_signals

TABLES = ("scores", "verdicts", "regions")
WRITTEN = (*(f"{name}.{kind}" for name in TABLES for kind in ("parquet", "csv")), "summary.json")


@dataclass(frozen=True)
class FolderSummary:
    """The content of summary.json: counts of files, and what the calibration images promise.

    `threshold` and `flagged` are None where `images_missing` normal images more would be needed
    to promise `alpha`. `unsettled` files changed while they were read and have no row,
    nor have `excluded` files and folders. `unturned` ones were scored as they are, though the
    bundle turns single parts upright: they show several parts, or none.
    """

    line: str
    method: str
    task: str
    model_fingerprint: str
    contract_fingerprint: str
    found: int
    excluded: int
    statuses: dict[str, int]
    unsettled: int
    reused: int
    unturned: int
    flagged: int | None
    alpha: float
    threshold: float | None
    smallest_alpha: float
    calibration_images: int
    images_missing: int

    def __str__(self) -> str:
        states = ", ".join(f"{count} {name}" for name, count in self.statuses.items() if count)
        unturned = f"; {self.unturned} not turned upright" if self.unturned else ""
        start = f"{self.line}: {self.found} files ({states or 'nothing to do'}{unturned}), "
        if self.flagged is not None:
            return f"{start}{self.flagged} flagged at alpha {self.alpha:g}"
        return (
            f"{start}no verdicts: alpha {self.alpha:g} needs {self.images_missing} more normal "
            f"images for calibration, {self.calibration_images} hold {self.smallest_alpha:.3g}"
        )


def score_folder(
    images: LineImages,
    model: Model,
    out_dir: Path,
    *,
    alpha: float,
    csv: bool = False,
    engine: Engine = local,
    mm_per_px: float | None = None,
) -> FolderSummary:
    """Score every file of the folder; write `out_dir` whole or not at all.

    Until then the scores stand in a ledger beside it: a killed run goes on where it stopped.

    Raises:
        ConfigurationError: no such folder, alpha out of range, `out_dir` is not ours to replace.
        BundleError: the bundle must not be used.
        BusyError: another run writes the same `out_dir`.
        Interrupted: by a signal; run again.
        OSError: `out_dir` cannot be written.
    """
    _check_alpha(alpha)
    images.inbox.files()
    out = out_dir.resolve()
    _check_out(out, images.folder.resolve())
    work = out.with_name(f".{out.name}.ledger")
    with on_signals() as stop, open_ledger(work) as ledger:
        pointed = replace(images, pointing=_pointing(model, alpha, mm_per_px))
        counts = score_line(ledger, pointed, model, stop, engine)
        if stop():
            raise Interrupted(stop.signal, work)
        with whole_folder(out) as building:
            table = _current(ledger, images.line, model, counts)
            paths = _write_tables(building, table, model, alpha)
            tables.write(paths[2], tables.REGIONS, [_regions(ledger, images.line, table)])
            for path in paths if csv else ():
                tables.write_csv(path)
            summary = _summary(paths[0], paths[1], model, images.line, alpha, counts)
            write_json(building / "summary.json", asdict(summary))
        shutil.rmtree(work)
    return summary


def _write_tables(folder: Path, rows: pa.Table, model: Model, alpha: float) -> list[Path]:
    """Write scores and verdicts; the paths of `TABLES`."""
    paths = [folder / f"{name}.parquet" for name in TABLES]
    step = tables.ROWS_PER_GROUP
    groups = [rows[start : start + step] for start in range(0, len(rows), step)]
    tables.write(paths[0], tables.SCORES, groups)
    judged = (tables.verdicts(group, model.calibration_scores, alpha) for group in groups)
    tables.write(paths[1], tables.VERDICTS, judged)
    return paths


def _current(ledger: Ledger, line: str, model: Model, counts: Counts) -> pa.Table:
    """The rows of the files that were found, by key: a killed run may have left others."""
    paths = set(counts.paths)
    wanted = pc.field("model_fingerprint") == model.model_fingerprint
    wanted &= pc.field("contract_fingerprint") == model.contract_fingerprint

    def groups() -> Iterator[pa.Table]:
        for _, group in ledger.groups(line):
            pairs = zip(group["path"].to_pylist(), group["image_sha256"].to_pylist(), strict=True)
            now = [p in paths and ledger.index.last(line, p) == sha for p, sha in pairs]
            yield group.filter(pa.array(now, pa.bool_())).filter(wanted)

    order = [(field.name, "ascending") for field in tables.KEY]
    return pa.concat_tables([tables.SCORES.empty_table(), *groups()]).sort_by(order)


def _pointing(model: Model, alpha: float, mm_per_px: float | None) -> Pointing:
    calibration = model.calibration_scores
    largest = model.calibration_map_max if len(model.calibration_map_max) else calibration * np.nan
    return Pointing(threshold(calibration, alpha), level(largest, alpha), (0, 1), mm_per_px)


def _regions(ledger: Ledger, line: str, rows: pa.Table) -> pa.Table:
    """The regions of `rows`, by key and number."""
    runs = [path.parent.name for path in ledger.parts(line)]
    regions = regions_of(ledger, line, sorted(set(runs)))
    keys = [field.name for field in tables.KEY]
    own = regions.join(rows.select(keys), keys, join_type="left semi")
    order = [(name, "ascending") for name in (*keys, "number")]
    return own.sort_by(order).select(tables.REGIONS.names).cast(tables.REGIONS)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ConfigurationError(
            f"alpha is {alpha}",
            where="`--alpha`, or `alpha` of the line",
            expected="a false-alarm rate above 0 and below 1, such as 0.01",
            next_step="choose how many of 100 normal images may be flagged",
        )


def _check_out(out: Path, folder: Path) -> None:
    if out.is_relative_to(folder):
        reason = "the output would stand among the images and be scored as they are"
    elif out.exists() and not out.is_dir():
        reason = "the output folder is a file"
    elif out.exists() and (others := {p.name for p in out.iterdir()} - set(WRITTEN)):
        reason = f"the output folder holds {path_text(min(others))!r}, which is not of a scoring"
    else:
        return
    raise ConfigurationError(
        reason,
        where=path_text(str(out)),
        expected="a new folder, or that of an earlier scoring, which is replaced",
        next_step="choose another output folder",
    )


def _summary(
    scores: Path, verdicts: Path, model: Model, line: str, alpha: float, counts: Counts
) -> FolderSummary:
    statuses = Counter({status.value: 0 for status in Status})
    reused = unturned = flagged = 0
    for group in tables.read(scores):
        statuses.update(group["status"].to_pylist())
        reused += group["reused"].to_pylist().count(True)
        unturned += group["reason"].to_pylist().count(UNTURNED)
    for group in tables.read(verdicts):
        flagged += group["is_anomalous"].to_pylist().count(True)
    calibration = model.calibration_scores
    limit = threshold(calibration, alpha)
    return FolderSummary(
        line=line,
        method=model.method,
        task=model.task,
        model_fingerprint=model.model_fingerprint,
        contract_fingerprint=model.contract_fingerprint,
        found=statuses.total(),
        excluded=counts.excluded,
        statuses=dict(statuses),
        unsettled=counts.unsettled,
        reused=reused,
        unturned=unturned,
        flagged=None if limit is None else flagged,
        alpha=alpha,
        threshold=limit,
        smallest_alpha=smallest_alpha(len(calibration)),
        calibration_images=len(calibration),
        images_missing=images_missing(len(calibration), alpha),
    )
