"""Judge a task's images: data/raw -> data/validation, and the four manifests if nothing forbids."""

import shutil
from pathlib import Path

from admodels import data_docs, expectations, inspection, manifest, params
from admodels.datasets import Task, found
from admodels.errors import DataError
from admodels.expectations import Validate
from admodels.writing import whole_folder, write_json
from stages import run

STATISTICS = (
    *("image_path", "brightness", "contrast", "sharpness"),
    *("perceptual_hash", "mask_area_share"),
)


def _shared_out(
    rows: list[tuple[manifest.Found, manifest.Row]], task: str
) -> tuple[dict[str, list[manifest.Row]], DataError | None]:
    """The splits, or why there are none: the report is written in either case."""
    block = params.read("split", manifest.Split)
    try:
        return manifest.splits(rows, block, params.read("seed", int), task), None
    except DataError as error:
        return {}, error


def main(task: str) -> None:
    """Write what was found, readable even when refused; then stop, or write the manifests."""
    block, bounds = params.read(f"tasks.{task}", Task), params.read("validate", Validate)
    least = params.read("split.min_normal_images", int)
    raw, target = Path("data/raw", task), Path("data/validation", task)
    manifests = Path("data/manifests", task)
    shutil.rmtree(manifests, ignore_errors=True)  # those of refused images must not remain
    listed = found(block, raw)
    inspected, unreadable = inspection.inspected(listed, raw)
    splits, no_splits = _shared_out([(one, row) for one, row, _ in inspected], task)
    table = expectations.frame(
        listed,
        [(row, facts) for _, row, facts in inspected],
        {str(error.where): error.reason for error in unreadable},
        splits,
    )
    with whole_folder(target) as partial:
        findings = expectations.findings(task, table, bounds, least, partial / "docs")
        data_docs.make_offline(partial / "docs")
        refusal = expectations.refusal(task, findings) or no_splits
        about = {
            "task": task,
            "dataset": block.dataset,
            "category": block.category,
            "licence": block.licence,
            "refused": refusal.found if refusal else None,
        }
        write_json(partial / "report.json", about | expectations.report(table, findings))
        statistics = partial / "statistics.csv"
        table[list(STATISTICS)].to_csv(statistics, index=False, lineterminator="\n")
    if refusal:
        raise refusal
    for name, rows_of_split in splits.items():
        manifest.write(manifests / f"{name}.csv", rows_of_split)


if __name__ == "__main__":
    run(main)
