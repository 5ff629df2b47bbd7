"""The `lines` block of params.yaml: which images a bundle scores, and the false-alarm budget."""

from pydantic import Field

from admodels.params import Strict


class Line(Strict):
    """One production source of images and the cell whose bundle scores them."""

    folder: str = Field(min_length=1)
    task: str = Field(min_length=1)
    method: str = Field(min_length=1)
    alpha: float = Field(gt=0, lt=1)
    pattern: str | None = Field(default=None, min_length=1)  # of paths below folder; * crosses /
