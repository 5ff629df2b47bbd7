"""What is wrong with the files of a line, though each of them was counted."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from admodels.foundation.errors import AdmodelsError
from admodels.nights.plant import Plant, PlantLine
from admodels.scoring.discover import Status, is_match, path_text
from admodels.scoring.engine import Counts
from admodels.scoring.inbox import Folder

FILES_LEAST = 3  # of which most are no images, before that is an alarm


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


def no_verdicts(line: str, missing: int, alpha: float, *, is_meant: bool) -> Iterator[str]:
    """The alarm of a line that lacks `missing` normal images; `is_meant`: it wants no verdicts."""
    if missing and not is_meant:
        images = "image is" if missing == 1 else "images are"
        yield (
            f"no verdicts: {missing} more normal {images} needed to promise an alpha of {alpha:g}. "
            f"Calibrate with more (`admodels calibrate {line} FOLDER`), raise alpha, or write "
            "`verdicts: none` for the line"
        )
