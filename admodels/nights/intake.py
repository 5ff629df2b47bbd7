"""What is wrong with the files of a line, though each of them was counted."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.errors import AdmodelsError
from admodels.nights.plant import Plant, PlantLine
from admodels.scoring.discover import Status, is_match, path_text
from admodels.scoring.engine import Counts
from admodels.scoring.inbox import Folder

FILES_LEAST = 3  # of which most are no images, before that is an alarm
AHEAD = timedelta(minutes=5)  # of the clock of a camera, before that is an alarm


def files_of_no_line(plant: Plant) -> dict[str, int]:
    """How many files of each folder match the pattern of no line.

    A folder that is not there counts none here: its line fails.
    """
    by_folder: dict[str, list[PlantLine]] = {}
    for line in plant.lines.values():
        by_folder.setdefault(line.folder, []).append(line)
    counts = {}
    for folder, lines in by_folder.items():
        if all(line.pattern for line in lines):
            with suppress(AdmodelsError, OSError):
                names = map(path_text, Folder(plant.folder / folder).files().names)
                counts[folder] = sum(not _is_claimed(name, lines) for name in names)
    return counts


def _is_claimed(name: str, lines: Sequence[PlantLine]) -> bool:
    return any(is_match(name, line.pattern, ignore_case=line.ignore_case) for line in lines)


def alarms(counts: Counts, line: PlantLine, unclaimed: Mapping[str, int]) -> Iterator[str]:
    """The alarms of the files that a look saw; `unclaimed`: those of no line, by folder."""
    yield from no_match(line.pattern, len(counts.paths), unclaimed.get(line.folder, 0))
    yield from idle_files(counts.stuck)


def no_images(statuses: Mapping[str, int]) -> Iterator[str]:
    """The alarm of a line most of whose new files have no score, from counts by status."""
    files = sum(statuses.values())
    without = {status: count for status, count in statuses.items() if status != Status.SCORED}
    count = sum(without.values())
    if files >= FILES_LEAST and 2 * count > files:
        reasons = ", ".join(f"{without[s]} {s}" for s in sorted(without, key=lambda s: -without[s]))
        yield (
            f"{count} of {files} new files have no score ({reasons}): look at the camera, or name "
            "the files of the line with `pattern` or `exclude`"
        )


def no_match(pattern: str | None, matched: int, unclaimed: int) -> Iterator[str]:
    """The alarm of a line whose pattern matches no file, while `unclaimed` files are no line's."""
    if pattern is not None and not matched and unclaimed:
        yield (
            f"`{pattern}` matches no file, and no line takes the {unclaimed} files that are there: "
            "correct the `pattern` of the line"
        )


def idle_files(paths: Sequence[str]) -> Iterator[str]:
    """The alarm of files that nobody finishes: named as unfinished, or never the same twice."""
    if paths:
        files = "1 file waits" if len(paths) == 1 else f"{len(paths)} files wait"
        yield (
            f"{files} for more than a day to be complete, such as `{paths[0]}`: finish the copy, "
            "delete what is left of it, or name it under `exclude`"
        )


def unknown_parts(images: pa.Table, line: PlantLine) -> tuple[int, list[str]]:
    """How many images show a part that their path does not name, and the alarm of that."""
    unnamed = images.filter(pc.field("part_id").is_null())
    if line.part is None or not len(unnamed):
        return 0, []
    example = unnamed["path"][0].as_py()
    text = (
        f"{len(unnamed)} of {len(images)} images name no part, such as `{example}`: correct the "
        "`part` of the line, or name them under `exclude`"
    )
    return len(unnamed), [text]


def wrong_times(images: pa.Table, line: PlantLine, now: datetime) -> Iterator[str]:
    """The alarms of images without the time of their capture, and of a clock that runs ahead."""
    scored = images.filter(pc.field("status") == Status.SCORED)
    if line.captured and (count := scored["captured_at"].null_count):
        where = f"`captured: {{from: {line.captured.clock}}}`"
        yield f"{count} of {len(scored)} images have no capture time: correct {where} of the line"
    ahead = images.filter(pc.field("captured_at") > pa.scalar(now + AHEAD))
    if len(ahead):
        yield (
            f"{len(ahead)} images were captured later than now, such as `{ahead['path'][0]}`: "
            "correct the clock of the camera, or the `timezone` of its `captured`"
        )


def no_verdicts(line: str, missing: int, alpha: float, *, is_meant: bool) -> Iterator[str]:
    """The alarm of a line that lacks `missing` normal images; `is_meant`: it wants no verdicts."""
    if missing and not is_meant:
        images = "image is" if missing == 1 else "images are"
        yield (
            f"no verdicts: {missing} more normal {images} needed to promise an alpha of {alpha:g}. "
            f"Calibrate with more (`admodels calibrate {line} FOLDER`), raise alpha, or write "
            "`verdicts: none` for the line"
        )
