"""The params block `source`: where images come from, and the pin of what they are."""

from typing import Literal

from pydantic import Field

from admodels.params import Strict


class Source(Strict):
    """Where images come from; a relative `location` is relative to the repository root."""

    kind: Literal["sample", "path", "archive", "url"]
    location: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
