"""What a run may find and still end with 0: the policy of `--fail-if`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from admodels.foundation.errors import ConfigurationError
from admodels.scoring.discover import NOT_IMAGES, Status


def expected_images(statuses: Mapping[str, int]) -> tuple[int, int]:
    """Of counts by status: how many should be images, and how many of these have no score."""
    images = sum(count for status, count in statuses.items() if status not in NOT_IMAGES)
    return images, images - statuses.get(Status.SCORED, 0)


@dataclass(frozen=True)
class Limit:
    """A share or a number of the images of one line that must not be exceeded."""

    what: str
    most: float
    is_share: bool

    @classmethod
    def of(cls, text: str) -> "Limit":
        """From words such as `unreadable>2%` or `flagged>20`.

        Raises:
            ConfigurationError: other words.
        """
        words = re.fullmatch(r"(unreadable|flagged)>(\d+(?:\.\d+)?)(%?)", text.replace(" ", ""))
        if not words:
            raise ConfigurationError(
                f"`{text}` is no limit",
                where="--fail-if",
                expected="`unreadable>2%` or `flagged>20`, with or without the %",
                next_step="correct it, and quote it: a shell takes > for itself",
            )
        return cls(words[1], float(words[2]), bool(words[3]))

    def is_exceeded(self, images: int, counts: Mapping[str, Any]) -> bool:
        """Whether the counts exceed it; those of no image exceed no share."""
        most = self.most / 100 * images if self.is_share else self.most
        return float(counts[self.what] or 0) > most

    def __str__(self) -> str:
        return f"{self.what}>{self.most:g}{'%' * self.is_share}"
