"""Check a task's images: data/raw -> data/validation, and the four manifests if none is refused."""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from admodels import datasets
from admodels.datasets import Layout
from admodels.foundation import manifest, params
from admodels.foundation.errors import DataError
from admodels.foundation.files import NAMES_SHOWN, whole_folder, write_json, write_text
from admodels.foundation.licences import is_non_commercial
from admodels.foundation.manifest import ManifestRow
from admodels.images import area as areas
from admodels.images.area import Area
from admodels.images.reading import DECODER, Reading
from admodels.images.shape import Aspect
from admodels.sources.source import Task
from admodels.validation import checks, page
from admodels.validation.checks import Needs, Validate
from admodels.validation.examine import Examination, examine
from admodels.validation.groups import chain_sentence, name_groups
from admodels.validation.splits import held_out_images, splits_sentence
from admodels.validation.summary import log_summary
from stages import run

STATISTICS = (
    *("image_path", "brightness", "contrast", "sharpness"),
    *("perceptual_hash", "oddity", "mask_area_share"),
)


def _write_report(
    task: str, block: Task, layout: Layout, images: Examination, bounds: Validate
) -> DataError | None:
    """Write data/validation/<task>/, also where the images are refused; the reason if they are."""
    least, alpha = params.read("split.min_normal_images", int), params.read("evaluate.alpha", float)
    methods = params.read("run.methods", tuple[str, ...])
    aspects: dict[str, Aspect] = {
        method: params.read(f"methods.{method}.aspect", Aspect)  # type: ignore[arg-type]
        for method in methods
    }
    needs = Needs(least, alpha, block.licence, images.shortage, aspects)
    findings, judgement = checks.findings(images.table, images.pairs, bounds, needs)
    refusal = checks.refusal(task, findings) or images.no_splits
    about = {
        "task": task,
        "dataset": block.dataset,
        "category": block.category,
        "licence": block.licence,
        "non_commercial": is_non_commercial(block.licence),
        "near_pairs": [asdict(pair) for pair in images.pairs[:NAMES_SHOWN]],
        "refused": refusal.fault if refusal else None,
        "held_out": held_out_images(images.splits, layout.images),
        "near_chains": [len(chain) for chain in images.chains],
        "shortage": asdict(images.shortage) if images.shortage else None,
        **checks.report(images.table, findings),
    }
    with whole_folder(Path("data/validation", task)) as partial:
        write_json(partial / "report.json", about)
        write_json(partial / "checks.json", judgement)
        statistics = images.table[list(STATISTICS)]
        statistics.to_csv(partial / "statistics.csv", index=False, lineterminator="\n")
        write_text(partial / "index.html", page.render(partial, about, layout, images, findings))
    log_summary(task, findings)
    return refusal


def _read_area(task: str, block: Task, rows: Sequence[ManifestRow]) -> Area:
    """The area of the task, all white where it names none.

    Raises:
        DataError: the file must not be used, or images have another size than it.
    """
    sizes = Counter((row.width, row.height) for row in rows)
    if block.area is None:
        return areas.everywhere(*sizes.most_common(1)[0][0])
    area = areas.read_area(Path(block.area.file), block.area.sha256, block.area.zones)
    height, width = area.levels.shape
    other = {size: count for size, count in sizes.items() if size != (width, height)}
    if other:
        wide, tall = next(iter(other))
        raise DataError(
            f"area: {width} x {height} px, and {sum(other.values())} of {len(rows)} images have "
            f"another size, such as {wide} x {tall}",
            where=f"{block.area.file}, params.yaml: tasks.{task}.area",
            expected="an area of the size of every image, as it is looked at",
            next_step=f"`admodels area set {task} FILE` with a file of that size, or "
            "`admodels area remove`",
        )
    return area


def main(task: str) -> None:
    """Write the report, which can be read even when it refuses; then stop, or write manifests.

    Raises:
        DataError: a check that must hold fails; nothing may learn from these images.
    """
    block, bounds = params.read(f"tasks.{task}", Task), params.read("validate", Validate)
    raw, manifests = Path("data/raw", task), Path("data/manifests", task)
    shutil.rmtree(manifests, ignore_errors=True)  # those of refused images must not remain
    split, seed = params.read("split", manifest.Split), params.read("seed", int)
    alpha = params.read("evaluate.alpha", float)
    layout = datasets.read_layout(
        *(block.dataset, block.category, raw, block.exclude, block.normal_folders),
        is_copy=True,
    )
    datasets.write_left_out(manifests / "left_out.csv", layout.left_out)
    sys.stderr.write(f"{task}: {layout.sentence()}\n")
    if not layout.images:
        datasets.check_trainable(layout, split)
    layout = replace(layout, images=name_groups(layout.images, block.group, task))
    reading = Reading(window=None, orientation=bounds.orientation, decoder=DECODER, page=block.page)
    images = examine(layout.images, raw, task, reading, bounds, split, alpha, seed)
    for chain in images.chains:
        sys.stderr.write(f"{task}: {chain_sentence(chain, task)}\n")
    if refusal := _write_report(task, block, layout, images, bounds):
        raise refusal
    area = _read_area(task, block, [row for rows in images.splits.values() for row in rows])
    for name, rows in images.splits.items():
        manifest.write(manifests / f"{name}.csv", rows)
    areas.write_area(manifests / areas.AREA_FILE, area)
    sys.stderr.write(f"{task}: {splits_sentence(images.splits, layout.images)}\n")
    if images.rules:
        write_json(manifests / "image_rules.json", images.rules.model_dump(mode="json"))


if __name__ == "__main__":
    run(main)
