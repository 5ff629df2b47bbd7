"""What may have happened to a line, in words, from the statistics that raised an alarm."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from admodels.nights.drift.statistics import RATIOS, Comparison

Alarms = Mapping[str, Comparison]

WORDS = {  # for more, for less
    "brightness": ("brighter", "darker"),
    "contrast": ("more contrast", "less contrast"),
    "sharpness": ("sharper", "less sharp"),
    "noise": ("more noise", "less noise"),
    "red": ("redder", "less red"),
    "blue": ("bluer", "less blue"),
    "shift_x": ("px to the right", "px to the left"),
    "shift_y": ("px down", "px up"),
    "anomaly_score": ("higher scores", "lower scores"),
}
GROUPS = {  # what one cause may change without another
    "brightness": "light",
    "contrast": "contrast",
    "sharpness": "sharpness",
    "noise": "noise",
    "red": "colour",
    "blue": "colour",
    "shift_x": "shift",
    "shift_y": "shift",
    "spot": "spot",
}
OTHER_SCENE_GROUPS = 4  # at once, a spot among them
SPOT_SHARE = 0.15  # of the image; what is more is no spot


class Rule(NamedTuple):
    """An alarm, its likely cause, and the other alarms that this explains.

    A statistic with + or - fits in this direction only; `spot!` fits a spot of at most SPOT_SHARE.
    """

    alarm: str
    cause: str
    explains: tuple[str, ...] = ()


MOVED = "camera or fixture moved"
COLOUR = "white balance or colour of the light"
RULES = (  # the first that fits a statistic names its cause
    Rule("brightness", "lighting or exposure", ("noise-", "contrast", "sharpness+")),
    Rule("noise+", "sensor noise, as from gain or heat", ("sharpness+", "spot")),
    Rule("sharpness-", "focus, or a veil on the whole lens", ("noise-", "contrast", "spot")),
    Rule("spot!", "dirt on the lens, or something new there", ("shift_x", "shift_y", "contrast")),
    Rule("shift_x", MOVED, ("shift_y", "spot", "contrast")),
    Rule("shift_y", MOVED, ("spot", "contrast")),
    Rule("spot", "another view, or another product"),
    Rule("red", COLOUR, ("blue",)),
    Rule("blue", COLOUR),
    Rule("contrast-", "haze or stray light"),
    Rule("contrast+", "light from another side"),
    Rule("sharpness+", "another focus, or processing in the camera"),
    Rule("noise-", "smoothing or compression in the camera"),
)


def hint(comparisons: Alarms) -> str:
    """The likely causes of what raised an alarm; empty where nothing did."""
    alarms = {name: comparison for name, comparison in comparisons.items() if comparison.alarm}
    groups = {GROUPS[name] for name in alarms if name in GROUPS}
    if alarms and not groups:
        return (
            f"{_change('anomaly_score', alarms['anomaly_score'])} from images that look as ever: "
            "most are defective, or they changed in a way that no statistic sees"
        )
    if "spot" in groups and len(groups) >= OTHER_SCENE_GROUPS:
        changes = ", ".join(_change(name, alarms[name]) for name in alarms if name in WORDS)
        return f"{changes}: another product, or another view"
    return "; ".join(_causes(alarms))


def _causes(alarms: Alarms) -> Iterator[str]:
    explained: set[str] = set()
    for alarm, cause, explains in RULES:
        name = alarm.rstrip("+-!")
        kinds = _kinds(name, alarms[name]) if name in alarms else set()
        if alarm in kinds and not explained & kinds:
            explained |= {name, *explains}
            unchanged = name == "brightness" and "sharpness" not in alarms
            yield f"{_change(name, alarms[name])}{', sharpness unchanged' * unchanged}: {cause}"


def _kinds(name: str, comparison: Comparison) -> set[str]:
    """The words of the rules that fit an alarm."""
    small = comparison.share is not None and comparison.share <= SPOT_SHARE
    return {
        name,
        f"{name}{'+' if comparison.night > _base(comparison) else '-'}",
        f"{name}!" * small,
    }


def _base(comparison: Comparison) -> float:
    """What the night is compared with."""
    return (
        comparison.past.median
        if comparison.past and comparison.alarm == "past nights"
        else comparison.reference
    )


def _change(name: str, comparison: Comparison) -> str:
    """E.g. `40 % darker since 02:14`."""
    when = ""
    for word, time in (("since", comparison.since), ("until", comparison.until)):
        if time is not None:
            when = f" {word} {datetime.fromisoformat(time):%H:%M}"
    if name == "spot":
        x, y = (round(100 * share) for share in comparison.place or (0, 0))
        return f"another contrast {x} % from the left and {y} % from the top{when}"
    base, night = _base(comparison), comparison.night
    words = WORDS[name][night < base]
    if name in RATIOS and night > 2 * base:
        return f"{words} by a factor of {night / base:.2g}{when}"
    if name in RATIOS:
        return f"{100 * abs(night / base - 1):.0f} % {words}{when}"
    if name == "anomaly_score":
        return f"{words} (median {night:.3g}, not {base:.3g}){when}"
    return f"{abs(night - base):.0f} {words}{when}"
