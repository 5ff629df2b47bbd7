"""The params block `source`: where images come from, the pin of what they are, their licence."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from admodels.params import Strict

NOT_STATED = "not stated"
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research|academic", re.IGNORECASE)


class Source(Strict):
    """Where images come from; a relative `location` is relative to the repository root.

    `mirrors` are URLs of the same bytes: they can change where data comes from, not what it is.
    """

    kind: Literal["sample", "path", "archive", "url", "urls"]
    location: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mirrors: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _mirrors_are_of_a_url(self) -> Self:
        if self.mirrors and "://" not in self.location:
            raise ValueError("mirrors go with a location that is a URL")
        return self


def is_stated(licence: str) -> bool:
    """Whether the words of a licence say anything."""
    return licence.strip().lower() not in ("", NOT_STATED, "unknown", "none", "n/a", "?")


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids, or seems to forbid, that a model earns money."""
    return bool(NON_COMMERCIAL.search(licence))


def told(licence: str) -> str:
    """The licence with what follows from it, for people."""
    return f"{licence} (NON-COMMERCIAL use only)" if is_non_commercial(licence) else licence
