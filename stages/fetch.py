"""Fetch the pinned source of one task to data/raw/<task>/."""

import sys
from pathlib import Path

from admodels.foundation import params
from admodels.foundation.licences import licence_text
from admodels.sources import fetch
from admodels.sources.source import Task
from stages import run


def main(task: str) -> None:
    """Fetch, and refuse a source that differs from its pin."""
    block = params.read(f"tasks.{task}", Task)
    sys.stderr.write(f"{task}: licence of the images: {licence_text(block.licence)}\n")
    fetch.fetch(block.source, block.category, Path("data/raw", task), block.exclude)


if __name__ == "__main__":
    run(main)
