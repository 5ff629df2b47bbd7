"""How a night or a line ended, as a name that the messages have words for."""

from dataclasses import dataclass

from admodels.foundation.errors import ALARM, SIGNALLED

NAMES = {
    0: "done",
    1: "bug",
    2: "usage",
    3: "data",
    4: "bundle",
    ALARM: "alarm",
    69: "source",
    74: "storage",
    75: "busy",
}


@dataclass(frozen=True)
class Outcome:
    """`name` is that of the messages `outcome` and `next`; `style` a class of the pages' CSS."""

    name: str
    style: str


def outcome_of(exit_code: int) -> Outcome:
    """The outcome that an exit code stands for."""
    name = "stopped" if exit_code > SIGNALLED else NAMES.get(exit_code, "bug")
    return Outcome(name, {"done": "good", "alarm": "warning"}.get(name, "error"))
