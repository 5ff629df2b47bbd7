"""The block `folders` of params.yaml: fixed folders that the DVC stage `score` scores."""

from pydantic import Field

from admodels.foundation.params import Strict
from admodels.scoring.lines import Tile


class FixedFolder(Strict):
    """A folder of images, the cell whose bundle scores it, and the false-alarm budget."""

    folder: str = Field(min_length=1)
    task: str = Field(min_length=1)
    method: str = Field(min_length=1)
    alpha: float = Field(gt=0, lt=1)
    pattern: str | None = Field(default=None, min_length=1)  # of paths below folder; * crosses /
    ignore_case: bool = True  # of the pattern
    exclude: tuple[str, ...] = ()  # patterns of names or paths, beside the usual ones
    page: int | None = Field(default=None, ge=0)  # of TIFF files with several, from 0
    tile: Tile | None = None  # large images, small defects

    @property
    def bundle(self) -> str:
        """METHOD/TASK of the cell."""
        return f"{self.method}/{self.task}"
