"""Score a fixed folder with its cell's bundle: images -> scores, verdicts, summary."""

from pathlib import Path

from admodels.foundation import params
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.folders import FixedFolder
from admodels.scoring.single import score_folder
from stages import run


def main(name: str) -> None:
    """The same engine as `admodels score`; the outputs hold nothing that a rerun would change."""
    block = params.read(f"folders.{name}", FixedFolder)
    model = Model.at(Path("data/models", block.bundle)).with_page(block.page).with_tiles(block.tile)
    source = LineImages(
        *(name, Path(block.folder), block.pattern),
        tile=block.tile,
        exclude=block.exclude,
        page=block.page,
        ignore_case=block.ignore_case,
    )
    print(score_folder(source, model, Path("data/scores", name), alpha=block.alpha))


if __name__ == "__main__":
    run(main)
