"""Is a plant ready for its nights? `admodels plant check` prints what is not, one line each."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from admodels.foundation.errors import AdmodelsError
from admodels.nights.deploy import Deployed, missing_images
from admodels.nights.founding import work_tree
from admodels.nights.history import NightSummary
from admodels.nights.plant import PLANT_FILE, Plant, with_environment
from admodels.scoring.ledger import summaries

ROOM_BYTES = 2 << 30  # below it a night of pictures may fill the device
AFTER_CLOSE = timedelta(hours=1)  # a look that closes the night starts before that
NIGHTS_ASKED = 3  # the last ones that ended


def warnings(plant: Plant) -> Iterator[str]:
    """What people should correct before the next night."""
    if tree := work_tree(plant.folder):
        yield f"{plant.folder} stands in the git work tree {tree}: a checkout could change it"
    for path in (plant.folder, plant.folder / PLANT_FILE, plant.ledger):
        if path.exists() and path.stat().st_mode & stat.S_IWOTH:
            yield f"everybody may write to {path}: `chmod o-w {path}`"
    if (free := shutil.disk_usage(plant.folder).free) < ROOM_BYTES:
        yield f"{free / 2**30:.1f} GiB are free in {plant.folder}: a night may fill that"
    yield from _of_page_url(plant)
    if not plant.lines:
        yield "the plant has no line: `admodels line add`"
    deployed = Deployed(plant)
    for name in plant.lines:
        yield from (f"{name}: {text}" for text in _of_line(plant, deployed, name))
    yield from _of_parts(plant, deployed)
    yield from _of_timer(plant, datetime.now(UTC))


def _of_page_url(plant: Plant) -> Iterator[str]:
    try:
        with_environment(plant.page_url or "", "page_url")
    except AdmodelsError as error:
        yield f"page_url: {error.fault}"


def _of_line(plant: Plant, deployed: Deployed, name: str) -> Iterator[str]:
    inbox, place = plant.inbox(name), plant.folder.resolve()
    if not inbox.is_dir():
        yield f"the inbox {inbox} is missing: create or mount it"
    elif not os.access(inbox, os.R_OK | os.X_OK):
        yield f"the inbox {inbox} cannot be read by this user"
    elif inbox.resolve().is_relative_to(place):
        yield f"the inbox {inbox} stands inside the plant: a backup would hold all its images"
    elif place.is_relative_to(inbox.resolve()):
        yield f"the plant stands inside the inbox {inbox}: a night refuses that"
    try:
        model, _ = deployed.of(name)
        missing = missing_images(plant, name, model)
    except AdmodelsError as error:
        yield error.fault
        return
    if missing and plant.lines[name].verdicts is None:
        yield (
            f"no verdicts: {missing} more normal images are needed to hold alpha "
            f"{plant.lines[name].alpha:g}: `admodels calibrate {name} FOLDER`"
        )


def _of_parts(plant: Plant, deployed: Deployed) -> Iterator[str]:
    """Lines that have verdicts on their images, and cannot flag a part of several views."""
    for name, parts in plant.parts.items():
        for line in parts.lines:
            with suppress(AdmodelsError):  # what is wrong with the line was said
                missing = missing_images(plant, line, deployed.of(line)[0], name)
                if missing:
                    yield (
                        f"parts {name}: {line} flags no part: {missing} more normal images are "
                        f"needed for {len(parts.views)} views and an alpha of "
                        f"{plant.alpha_of_parts(name):g}: `admodels calibrate {line} FOLDER`"
                    )


def _of_timer(plant: Plant, now: datetime) -> Iterator[str]:
    """Whether looks followed the ends of the last nights: what the ledger knows of the timers."""
    calendar = plant.calendar
    ends = [calendar.end_of(calendar.night_of(now) - timedelta(days=n)) for n in range(1, 9)]
    ended = [end for end in ends if end + AFTER_CLOSE < now][:NIGHTS_ASKED]
    runs = summaries(plant.ledger)
    looks = list(_looks(runs, ended[-1]))
    if not looks:
        yield (
            f"no look in the last {NIGHTS_ASKED} nights: let a timer fire every hour and 5 minutes "
            f"after {plant.day_ends} {plant.timezone} (deploy/)"
        )
        return
    is_new = len(runs) == len(looks)
    for end in ended:
        if is_new and all(start > end for start, _ in looks):
            continue  # before the first look of the plant
        if not any(start <= end + AFTER_CLOSE and stop >= end for start, stop in looks):
            yield (
                f"no look followed the end of the night of {calendar.local(end):%Y-%m-%d}: let a "
                f"timer fire 5 minutes after {plant.day_ends} {plant.timezone} (deploy/)"
            )


def _looks(runs: list[Path], since: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Start and end of the runs that ended after `since`; `runs` stand the newest first."""
    for path in runs:
        run = NightSummary.of(path.read_bytes())
        if run is not None and run.end < since:
            return
        if run is not None:
            yield run.started, run.end
