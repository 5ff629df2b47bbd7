"""Judge the views of a part together, each set of images once.

The p-value of a part is min(1, m x the smallest of its views), where m is the number of views in
plant.yaml, whatever arrives. A part is judged when it has an image of every view, or when the night
closes. An image that comes later, of a missing view or of one that is taken again, is another
judgement; what was said before stands.

Of a view that was taken more than once, the last image with a score counts: that of the later run,
within a run that of the later capture. With the smallest p-value of several images, m would have to
grow with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from admodels.foundation.errors import DONE
from admodels.inference.conformal import images_missing, images_needed, part_p_value
from admodels.nights.calendar import NightOfLook
from admodels.nights.calibrations import calibration_of
from admodels.nights.close import open_runs, read_records
from admodels.nights.judgements import rows_of_runs
from admodels.nights.parts import FOLDER, PART, judgements, last_of_each, part_judgements
from admodels.nights.plant import Plant
from admodels.nights.report import PartsReport, Reports, isolate
from admodels.scoring import tables
from admodels.scoring.discover import NOT_IMAGES
from admodels.scoring.integrity import Check
from admodels.scoring.journal import user
from admodels.scoring.ledger import Ledger

HELD = 4096  # images, or judgements, that are objects at a time
LATE = timedelta(days=7)  # after a night with another view; what comes later is another part
KEY = [field.name for field in tables.KEY]
PLACE = pa.field("place", pa.int64())  # of a row among those of its line, as they were written
IMAGES = pa.schema([*(tables.PARTS.field(name) for name in PART), *tables.VIEW, PLACE])
NO_TIME = datetime.min.replace(tzinfo=UTC)  # before every capture that has one
Image = dict[str, Any]  # one of `tables.VIEW`
Judgement = dict[str, Any]  # one row of `tables.PARTS`


def judge_all_parts(
    ledger: Ledger,
    plant: Plant,
    tonight: NightOfLook,
    checked: Check,
    reports: Reports,
) -> None:
    """Judge every kind of parts of which this look has judged a line; see `judge_parts`.

    `reports` has those of the look before, and gets those of this.
    """
    if not plant.parts:
        return
    nights = open_runs(ledger, tonight.night, read_records(ledger.folder))
    runs = [run for night in nights if night <= tonight.night for run in nights[night]]
    for name, parts in plant.parts.items():
        before = reports.parts.get(name)
        is_same = not tonight.closes and reports.news.isdisjoint(parts.lines)
        if before and before.exit_code in DONE and is_same:
            continue
        reports.parts[name] = report = PartsReport()
        with isolate(f"parts {name}", report):
            for line in parts.lines:
                checked.refuse(ledger.folder, line)
            checked.refuse(ledger.folder, name, parts=True)
            closes, night = tonight.closes, tonight.night
            reports.parts[name] = judge_parts(ledger, plant, name, night, runs, closes=closes)


def judge_parts(
    ledger: Ledger, plant: Plant, name: str, night: date, runs: Sequence[str], *, closes: bool
) -> PartsReport:
    """Judge the parts of the kind `name` that are complete; if the night closes, all parts.

    `runs`: of the nights that are not closed.

    Raises:
        StorageError: a file of the ledger is damaged.
    """
    kind = Kind(ledger, plant, name)
    images = kind.images(runs)
    first, last = (night - LATE).isoformat(), night.isoformat()
    before = judgements(ledger, name, lambda other: first <= other <= last)
    rows = kind.new_judgements(images, before, closes=closes)
    new = list(_tables(rows))
    if new:
        ledger.write_judgements(name, last, pa.concat_tables(new), FOLDER)
    report = PartsReport(alpha=kind.alpha, views=len(kind.views))
    report.take(part_judgements(ledger, name, last))
    report.messages = [*kind.shortages(images), *kind.images_without_view(images)]
    report.judge_alarms()
    return report


@dataclass(frozen=True)
class Kind:
    """One of `parts` of plant.yaml, and the ledger with the rows of its lines."""

    ledger: Ledger
    plant: Plant
    name: str

    @cached_property
    def views(self) -> tuple[str, ...]:
        """Of one part."""
        return self.plant.parts[self.name].views

    @cached_property
    def alpha(self) -> float:
        """The false-alarm budget of a part."""
        return self.plant.alpha_of_parts(self.name)

    @cached_property
    def _user(self) -> str:
        return user()

    @cached_property
    def _counts(self) -> dict[tuple[str, str], int]:
        return {}

    def images(self, runs: Sequence[str]) -> pa.Table:
        """The judged images of `runs` that name a part; see `IMAGES`. A view may be empty."""
        images = [IMAGES.empty_table()]
        for line in self.plant.parts[self.name].lines:
            rows = rows_of_runs(self.ledger, line, runs)
            is_judged = pc.field("alpha").is_valid() & pc.field("part_id").is_valid()
            rows = rows.filter(is_judged & ~pc.field("status").isin(list(NOT_IMAGES)))
            views = [self.view_of(line, path) for path in rows["path"].to_pylist()]
            columns = {name: rows[name] for name in IMAGES.names if name in rows.column_names}
            columns |= {"view": pa.array(views, pa.string()), "place": pa.array(range(len(rows)))}
            columns |= {"lot": pc.fill_null(rows["lot"], "")}
            images.append(pa.table([columns[name] for name in IMAGES.names], IMAGES))
        return pa.concat_tables(images)

    def view_of(self, line: str, path: str) -> str:
        """The view that an image belongs to; empty if none takes it."""
        ignore_case = self.plant.lines[line].ignore_case
        parts = self.plant.parts[self.name]
        return parts.view_of(line, path, ignore_case=ignore_case) or ""

    def new_judgements(
        self, images: pa.Table, before: pa.Table, *, closes: bool
    ) -> Iterator[Judgement]:
        """The judgements on parts of which `images` has some that no judgement of `before` has."""
        images = _of_changed_parts(images.filter(pc.field("view") != ""), before)
        places = before.select(PART).append_column(
            "place", pa.array(range(len(before)), pa.int64())
        )
        places = places.join(images.select(PART), PART, join_type="left semi").sort_by("place")
        own = last_of_each(before.take(places["place"]))
        last = {_key(row): row for row in own.to_pylist()}  # of two pieces of one name the second
        batches = images.sort_by([(name, "ascending") for name in PART]).to_batches(HELD)
        rows = (row for batch in batches for row in batch.to_pylist())
        for key, group in groupby(rows, key=_key):
            known = last.get(key)
            earlier = known["images"] if known else []
            counting = self.images_that_count([*earlier, *group])
            if _names(counting) != _names(earlier) and (closes or self.is_complete(counting)):
                yield self.judgement(key, counting, known)

    def is_complete(self, images: Sequence[Image]) -> bool:
        """Whether every view has an image."""
        return {image["view"] for image in images} == set(self.views)

    def images_that_count(self, images: Sequence[Image]) -> list[Image]:
        """Of each view the last image with a score, and the one after it that has none, if any."""
        counting = []
        for view in self.views:
            own = sorted((image for image in images if image["view"] == view), key=_order)
            counting += [image for image in own if image["p_value"] is not None][-1:]
            counting += [image for image in own[-1:] if image["p_value"] is None]
        return counting

    def judgement(
        self, key: tuple[str, str], images: list[Image], known: Judgement | None
    ) -> Judgement:
        """What is said of a part now; `known`: what was said last, if anything."""
        scored = [image for image in images if image["p_value"] is not None]
        p_values, reason = [image["p_value"] for image in scored], "; ".join(self.reasons(images))
        p_value = part_p_value(p_values, len(self.views)) if scored else None
        is_flagged = p_value is not None and p_value <= self.alpha
        seen = len({image["view"] for image in scored})
        return {
            "name": self.name,
            "lot": key[0],
            "part_id": key[1],
            "run": self.ledger.run,
            "judged_at": datetime.now(UTC),
            "alpha": self.alpha,
            "views_expected": len(self.views),
            "views_seen": seen,
            "p_value": p_value,
            "is_anomalous": True if is_flagged else None if reason else False,
            "trusted": bool(scored) and all(image["trusted"] for image in scored),
            "judgement": known["judgement"] + 1 if known else 1,
            "who": self._user,
            "why": self.why(images, seen, known),
            "reason": reason,
            "images": [{name: image[name] for name in tables.VIEW.names} for image in images],
        }

    def why(self, images: Sequence[Image], seen: int, known: Judgement | None) -> str:
        """Why a part is judged now."""
        if known is None:
            return "all views are there" if self.is_complete(images) else "the night closed"
        return "a view came late" if seen > known["views_seen"] else "a view came again"

    def reasons(self, images: Sequence[Image]) -> Iterator[str]:
        """Why a part without an alarm is not fine either."""
        views = {image["view"] for image in images}
        for view in (view for view in self.views if view not in views):
            yield f"no image of {view}"
        for image in images:
            if image["p_value"] is None:
                yield f"the last image of {image['view']} has no score: {image['status']}"
            elif missing := self.missing(image["line"], image["calibration"]):
                yield f"{image['view']} lacks {missing} normal images"

    def missing(self, line: str, calibration: str) -> int:
        """How many normal images a calibration of a line lacks, so that a view can flag a part."""
        if (line, calibration) not in self._counts:
            kept = calibration_of(self.ledger, line, calibration)
            count = len(kept.scores) if kept else 0
            self._counts[line, calibration] = images_missing(count, self.alpha, len(self.views))
        return self._counts[line, calibration]

    def shortages(self, images: pa.Table) -> Iterator[str]:
        """The alarm of each line whose calibration is too small for the number of views."""
        scored = images.filter(pc.field("p_value").is_valid())
        pairs = scored.group_by(["line", "calibration"]).aggregate([]).to_pylist()
        needed = images_needed(self.alpha, len(self.views))
        for line in self.plant.parts[self.name].lines:
            missing = [self.missing(**pair) for pair in pairs if pair["line"] == line]
            if any(missing):
                yield (
                    f"{line} flags no part: {max(missing)} more normal images are needed, {needed} "
                    f"in all for {len(self.views)} views and an alpha of {self.alpha:g} (`admodels "
                    f"calibrate {line} FOLDER`)"
                )

    def images_without_view(self, images: pa.Table) -> Iterator[str]:
        """The alarm of images that name a part and are in none of its views."""
        others = images.filter(pc.field("view") == "")
        if len(others):
            example = f"{others['line'][0]}/{others['path'][0]}"
            yield (
                f"{len(others)} images are in no view, such as `{example}`: correct `parts` in "
                "plant.yaml, or name them under `exclude`"
            )


def _tables(rows: Iterator[Judgement]) -> Iterator[pa.Table]:
    while group := list(islice(rows, HELD)):
        yield pa.Table.from_pylist(group, tables.PARTS)


def _of_changed_parts(images: pa.Table, before: pa.Table) -> pa.Table:
    """The images of parts that have one which no judgement rests on."""
    judged = before["images"].combine_chunks().flatten()
    known = pa.table({name: judged.field(name) for name in KEY}).group_by(KEY).aggregate([])
    keys = images.select([*PART, *KEY])
    parts = keys.join(known, KEY, join_type="left anti").group_by(PART).aggregate([])
    return images.join(parts, PART, join_type="left semi")


_key = itemgetter(*PART)


def _names(images: Sequence[Image]) -> list[tuple[str, ...]]:
    return [tuple(image[name] for name in KEY) for image in images]


def _order(image: Image) -> tuple[int, datetime, int]:
    """Where an image stands in time among those of its view; an earlier judgement has no place."""
    return int(image["run"]), image["captured_at"] or NO_TIME, image.get("place", -1)
