"""What a line of plant.yaml says of its images: how many, on which days (`expect:`)."""

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from admodels.foundation.params import Strict

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = "|".join(WEEKDAYS)
DAYS = rf"^({DAY})(-({DAY}))?(,({DAY})(-({DAY}))?)*$"
Count = Annotated[int, Field(ge=0)]


class Expect(Strict):
    """How many images a line takes in a night, and on which days.

    `images` are the fewest and the most; without them the nights before say how many. The day of a
    night is the calendar day that most of it lies in: of a night from Monday 6:00 to Tuesday 6:00
    it is Monday.
    """

    images: tuple[Count, Count] | None = None
    days: str = Field(default="mon-sun", pattern=DAYS)  # such as mon-fri or mon,wed-fri
    but: tuple[date, ...] = Field(default=(), alias="except")  # days without images

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.images and self.images[0] > self.images[1]:
            raise ValueError("the fewest images stand before the most")
        return self

    @property
    def weekdays(self) -> frozenset[int]:
        """The days of the week with images; Monday is 0."""
        days: set[int] = set()
        for span in self.days.split(","):
            first, _, last = span.partition("-")
            start, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
            days |= {(start + step) % 7 for step in range((end - start) % 7 + 1)}
        return frozenset(days)
