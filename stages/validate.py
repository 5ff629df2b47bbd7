"""Judge a task's images: data/raw -> data/validation, and the four manifests if nothing forbids."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from admodels.datasets import find_images
from admodels.foundation import manifest, params
from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import DataError
from admodels.foundation.files import NAMES_SHOWN, whole_folder, write_json
from admodels.foundation.licences import is_non_commercial
from admodels.images import decode, sheets
from admodels.images.decode import Reading
from admodels.images.rules import ImageRules
from admodels.sources.source import Task
from admodels.validation import checks, data_docs, inspect
from admodels.validation.checks import Needs, Validate
from admodels.validation.inspect import Inspected
from admodels.validation.similarity import Pair, near_pairs
from stages import run

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = (
    *("image_path", "brightness", "contrast", "sharpness"),
    *("perceptual_hash", "oddity", "mask_area_share"),
)
PAIRS_SHOWN = 12
ODD_SHOWN = (4, 4)  # rows, images in each


def _window(
    inspected: list[Inspected], splits: dict[str, list[manifest.ManifestRow]], raw: Path
) -> tuple[int, int] | None:
    """Of the images to learn from: those that calibrate must not shape how others are seen."""
    held = {row.image_path for row in splits.get("calibration", ())}
    learnt = [row for one, row, _ in inspected if one.part == "learn"]
    return inspect.learnt_window([row for row in learnt if row.image_path not in held], raw)


def _contract(
    inspected: list[Inspected], reading: Reading, bounds: Validate
) -> tuple[ImageRules | None, dict[str, str]]:
    """What the images to learn from and to calibrate with agree on, and who in test does not."""
    looks = {one.image_path: inspect.look_of(row, facts) for one, row, facts in inspected}
    tested = {one.image_path for one, _, _ in inspected if one.part == "test"}
    learnt = [look for path, look in looks.items() if path not in tested]
    if not learnt:
        return None, {}
    contract = inspect.learnt_contract(
        learnt,
        reading,
        size_tolerance=bounds.size_tolerance,
        ratio_tolerance=bounds.ratio_tolerance,
        brightness=(bounds.min_brightness, bounds.max_brightness),
        min_contrast=bounds.min_contrast,
    )
    faults = {path: contract.fault(looks[path]) for path in tested}
    return contract, {path: fault[0] for path, fault in faults.items() if fault}


def _shared_out(
    rows: list[Inspected], task: str
) -> tuple[dict[str, list[manifest.ManifestRow]], DataError | None]:
    """The splits, or why there are none: the report is written in either case."""
    block, found_rows = params.read("split", manifest.Split), [(one, row) for one, row, _ in rows]
    try:
        return manifest.splits(found_rows, block, params.read("seed", int), task), None
    except DataError as error:
        return {}, error


def _write_sheet(
    path: Path, raw: Path, reading: Reading, rows: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    """Each row a heading, then captions and paths of images; without rows there is no sheet."""

    def picture(name: str) -> UInt8:
        return decode.decode_image((raw / name).read_bytes(), name, reading).rgb

    if rows:
        drawn = [(head, [(said, picture(p)) for said, p in named]) for head, named in rows]
        decode.write_png(path, sheets.sheet(drawn))


def _pair_rows(pairs: Sequence[Pair]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (
            f"{p.bits} bits apart, {'in two splits' if p.across else 'in one split'}",
            [(path, path) for path in (p.first, p.second)],
        )
        for p in pairs[:PAIRS_SHOWN]
    ]


def _odd_rows(table: "pd.DataFrame") -> list[tuple[str, list[tuple[str, str]]]]:
    """The images to learn from that stand out most; the last row is filled up or left out."""
    height, width = ODD_SHOWN
    found = table[table["oddity"].notna()].sort_values(["oddity", "image_path"])[::-1]
    named = [(f"{o:.2f} {p}", p) for o, p in zip(found["oddity"], found["image_path"], strict=True)]
    shown = [named[at : at + width] for at in range(0, height * width, width)]
    return [("oddity and name", row) for row in shown if len(row) == width]


def _about(task: str, block: Task) -> dict[str, object]:
    return {
        "task": task,
        "dataset": block.dataset,
        "category": block.category,
        "licence": block.licence,
        "non_commercial": is_non_commercial(block.licence),
    }


def main(task: str) -> None:
    """Write what was found, readable even when refused; then stop, or write the manifests."""
    block, bounds = params.read(f"tasks.{task}", Task), params.read("validate", Validate)
    least, alpha = params.read("split.min_normal_images", int), params.read("evaluate.alpha", float)
    needs = Needs(least, alpha, block.licence)
    raw, target = Path("data/raw", task), Path("data/validation", task)
    manifests = Path("data/manifests", task)
    shutil.rmtree(manifests, ignore_errors=True)  # those of refused images must not remain
    listed = find_images(block.dataset, block.category, raw)
    reading = Reading(window=None, orientation=bounds.orientation)
    inspected, unreadable = inspect.inspect_images(listed, raw, reading)
    splits, no_splits = _shared_out(inspected, task)
    if window := _window(inspected, splits, raw):
        reading = Reading(window=window, orientation=bounds.orientation)
        inspected, unreadable = inspect.inspect_images(listed, raw, reading)
    contract, faults = _contract(inspected, reading, bounds)
    table = checks.frame(
        listed,
        [(row, facts) for _, row, facts in inspected],
        {str(error.where): error.reason for error in unreadable},
        splits,
        faults,
    )
    pairs = near_pairs(table, bounds.near_duplicate_bits)
    with whole_folder(target) as partial:
        docs = partial / "docs"
        findings = checks.findings(task, table, pairs, bounds, needs, docs)
        data_docs.make_offline(docs)
        refusal = checks.refusal(task, findings) or no_splits
        outcome = {
            "near_pairs": [asdict(pair) for pair in pairs[:NAMES_SHOWN]],
            "refused": refusal.found if refusal else None,
        }
        about = _about(task, block) | outcome | checks.report(table, findings)
        write_json(partial / "report.json", about)
        _write_sheet(partial / "near_duplicates.png", raw, reading, _pair_rows(pairs))
        _write_sheet(partial / "odd_images.png", raw, reading, _odd_rows(table))
        statistics = partial / "statistics.csv"
        table[list(STATISTICS)].to_csv(statistics, index=False, lineterminator="\n")
    if refusal:
        raise refusal
    for name, rows_of_split in splits.items():
        manifest.write(manifests / f"{name}.csv", rows_of_split)
    if contract:
        write_json(manifests / "image_rules.json", contract.model_dump(mode="json"))


if __name__ == "__main__":
    run(main)
