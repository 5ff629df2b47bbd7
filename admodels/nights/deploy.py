"""Which bundle a line is scored with: that of a cell, or one that the registry names."""

import logging
from collections.abc import Iterable
from pathlib import Path

from admodels.foundation.errors import BundleError
from admodels.scoring.engine import Model
from admodels.scoring.lines import Line

LOG = logging.getLogger(__name__)
BUNDLES = "bundles"  # in the ledger: copies of what the registry holds


class BundleChoice:
    """The bundles of lines; an address of the registry means the same for as long as this lives."""

    def __init__(self, models: Path, ledger: Path) -> None:
        """`models` holds METHOD/TASK; `ledger` gets copies of what the registry holds."""
        self._models, self._cache = models, ledger / BUNDLES
        self._held: dict[str, tuple[Path, str, str]] = {}  # folder, name, note
        self._failed: dict[str, Exception] = {}

    def look_up(self, lines: Iterable[Line]) -> None:
        """Ask the registry for all addresses that it has not answered for."""
        for address in sorted({line.model for line in lines if line.model} - self._held.keys()):
            from admodels.tracking import registry

            try:
                copy = registry.fetch_version(address, Path(), self._cache)
            except Exception as error:  # of these lines alone: `of` raises it
                self._failed[address] = error
                continue
            self._held[address] = (copy.folder, f"{address} version {copy.version}", copy.note)
            if copy.note:
                LOG.warning("%s: %s", address, copy.note)

    def of(self, line: Line) -> tuple[Model, str, str]:
        """The line's model, what it is called, and a note if it may not be the one that counts now.

        Raises:
            SourceError: the registry was away at the start.
            BundleError: the bundle must not be used, or is not of the line's task.
        """
        folder, name, note = self._models / line.bundle, line.bundle, ""
        if line.model is not None:
            if line.model not in self._held:
                raise self._failed[line.model]
            folder, name, note = self._held[line.model]
        model = Model.at(folder)
        if line.model is not None and model.task != line.task:
            raise BundleError(
                f"a bundle of task `{model.task}`",
                where=name,
                expected=f"one of the line's task, `{line.task}`",
                next_step="correct `model` or `task` of the line",
            )
        return model.with_page(line.page).with_tiles(line.tile), name, note
