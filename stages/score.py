"""Score one line's folder with its cell's bundle: images -> scores, verdicts, summary."""

from pathlib import Path

from admodels import params
from admodels.scoring.engine import score_to
from admodels.scoring.params import Line
from stages import run


def main(name: str) -> None:
    """The same engine as `admodels score`; the outputs hold nothing that a rerun would change."""
    line = params.read(f"lines.{name}", Line)
    bundle = Path("data/models", line.method, line.task)
    summary = score_to(
        Path(line.folder), bundle, Path("data/scores", name), line=name, alpha=line.alpha
    )
    print(summary)


if __name__ == "__main__":
    run(main)
