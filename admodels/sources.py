"""The params block `source`: where images come from, the pin of what they are, their licence."""

import re
from typing import Literal

from pydantic import Field

from admodels.params import Strict

NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research|academic", re.IGNORECASE)


class Source(Strict):
    """Where images come from; a relative `location` is relative to the repository root.

    `mirrors` are URLs of the same bytes: they can change where data comes from, not what it is.
    """

    kind: Literal["sample", "path", "archive", "url", "urls"]
    location: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mirrors: tuple[str, ...] = ()


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids, or seems to forbid, that a model earns money."""
    return bool(NON_COMMERCIAL.search(licence))
