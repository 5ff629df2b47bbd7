"""One folder, one bundle, one fresh output folder: what `admodels score` and stage `score` do."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from admodels import bundle as bundles
from admodels import runtime
from admodels.bundle import Bundle
from admodels.calibration import images_missing, smallest_alpha, threshold
from admodels.errors import ConfigurationError
from admodels.progress import progress
from admodels.scoring import tables
from admodels.scoring.discover import Status, files, shown
from admodels.scoring.rows import rows
from admodels.writing import whole_folder, write_json

WRITTEN = ("scores.parquet", "scores.csv", "verdicts.parquet", "verdicts.csv", "summary.json")


@dataclass(frozen=True)
class Summary:
    """summary.json: what was found, and what the calibration images can promise.

    `threshold` and `flagged` are None where `images_missing` normal images more would be needed
    to promise `alpha`.
    """

    line: str
    method: str
    task: str
    model_fingerprint: str
    contract_fingerprint: str
    found: int
    statuses: dict[str, int]
    reused: int
    flagged: int | None
    alpha: float
    threshold: float | None
    smallest_alpha: float
    calibration_images: int
    images_missing: int

    def __str__(self) -> str:
        states = ", ".join(f"{count} {name}" for name, count in self.statuses.items() if count)
        start = f"{self.line}: {self.found} files ({states or 'nothing to do'}), "
        if self.flagged is not None:
            return f"{start}{self.flagged} flagged at alpha {self.alpha:g}"
        return (
            f"{start}no verdicts: alpha {self.alpha:g} needs {self.images_missing} more normal "
            f"images for calibration, {self.calibration_images} hold {self.smallest_alpha:.3g}"
        )


def score_to(
    folder: Path, bundle_dir: Path, out_dir: Path, *, line: str, alpha: float, csv: bool = False
) -> Summary:
    """Load the bundle, then `score_folder`.

    Raises:
        BundleError: the bundle must not be used.
    """
    bundle = bundles.load(bundle_dir, runtime.device())
    return score_folder(folder, bundle, out_dir, line=line, alpha=alpha, csv=csv)


def score_folder(
    folder: Path, bundle: Bundle, out_dir: Path, *, line: str, alpha: float, csv: bool = False
) -> Summary:
    """Score every file below `folder`; write `out_dir` whole or not at all.

    Raises:
        ConfigurationError: no such folder, alpha out of range, `out_dir` is not ours to replace.
        OSError: `out_dir` cannot be written.
    """
    _check_alpha(alpha)
    names = files(folder)
    _check_out(out_dir.resolve(), folder.resolve())
    line = shown(line)
    with whole_folder(out_dir.resolve()) as building:
        scores, verdicts = building / "scores.parquet", building / "verdicts.parquet"
        found = progress(rows(folder, names, bundle, line), len(names), f"score {line}")
        tables.write(scores, tables.SCORES, tables.scores(found))
        groups = (
            tables.verdicts(group, bundle.calibration_scores, alpha)
            for group in tables.read(scores)
        )
        tables.write(verdicts, tables.VERDICTS, groups)
        if csv:
            tables.write_csv(scores)
            tables.write_csv(verdicts)
        summary = _summary(scores, verdicts, bundle, line, alpha)
        write_json(building / "summary.json", asdict(summary))
    return summary


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
        found = "the output would stand among the images and be scored as they are"
    elif out.exists() and not out.is_dir():
        found = "the output folder is a file"
    elif out.exists() and (others := {p.name for p in out.iterdir()} - set(WRITTEN)):
        found = f"the output folder holds {shown(min(others))!r}, which is not of a scoring"
    else:
        return
    raise ConfigurationError(
        found,
        where=shown(str(out)),
        expected="a new folder, or that of an earlier scoring, which is replaced",
        next_step="choose another output folder",
    )


def _summary(scores: Path, verdicts: Path, bundle: Bundle, line: str, alpha: float) -> Summary:
    statuses = Counter({status.value: 0 for status in Status})
    reused = flagged = 0
    for group in tables.read(scores):
        statuses.update(group["status"].to_pylist())
        reused += group["reused"].to_pylist().count(True)
    for group in tables.read(verdicts):
        flagged += group["is_anomalous"].to_pylist().count(True)
    calibration = bundle.calibration_scores
    limit = threshold(calibration, alpha)
    return Summary(
        line=line,
        method=bundle.method,
        task=bundle.task,
        model_fingerprint=bundle.model_fingerprint,
        contract_fingerprint=bundle.contract_fingerprint,
        found=statuses.total(),
        statuses=dict(statuses),
        reused=reused,
        flagged=None if limit is None else flagged,
        alpha=alpha,
        threshold=limit,
        smallest_alpha=smallest_alpha(len(calibration)),
        calibration_images=len(calibration),
        images_missing=images_missing(len(calibration), alpha),
    )
