"""Score one line's folder with its cell's bundle: images -> scores, verdicts, summary."""

from pathlib import Path

from admodels.foundation import params
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.lines import Line
from admodels.scoring.single import score_folder
from stages import run


def main(name: str) -> None:
    """The same engine as `admodels score`; the outputs hold nothing that a rerun would change."""
    line = params.read(f"lines.{name}", Line)
    model = Model.at(Path("data/models", line.bundle)).with_page(line.page).with_tiles(line.tile)
    source = LineImages(
        *(name, Path(line.folder), line.pattern),
        tile=line.tile,
        exclude=line.exclude,
        page=line.page,
    )
    print(score_folder(source, model, Path("data/scores", name), alpha=line.alpha))


if __name__ == "__main__":
    run(main)
