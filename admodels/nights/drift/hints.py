"""What may have happened to a line, in sentences, from the statistics that raised an alarm."""

from collections.abc import Iterator, Mapping
from datetime import datetime, tzinfo
from typing import NamedTuple

from admodels.nights.drift.repeats import Repeats
from admodels.nights.drift.statistics import RATIOS, Comparison

Comparisons = Mapping[str, Comparison]

WORDS = {  # a verb, and what follows for more and for less
    "brightness": ("are", "brighter", "darker"),
    "contrast": ("have", "more contrast", "less contrast"),
    "sharpness": ("are", "sharper", "less sharp"),
    "noise": ("have", "more noise", "less noise"),
    "red": ("are", "redder", "less red"),
    "blue": ("are", "bluer", "less blue"),
    "shift_x": ("stand", "px to the right", "px to the left"),
    "shift_y": ("stand", "px down", "px up"),
    "resolution": ("have", "more pixels a side", "fewer pixels a side"),
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
    "resolution": "resolution",
}
OTHER_SCENE_GROUPS = 4  # at once, a spot among them and beside the resolution
SPOT_SHARE = 0.15  # of the image; what is more is no spot
SMALL_P = 0.01  # below it, nobody says that a statistic is unchanged
GREY = 1e-3  # as near to 1, red and blue over green are equal to it
SUSPECTS = 3  # changes that raise no alarm, at most, beside scores that do


class Rule(NamedTuple):
    """An alarm, its likely cause, and the other alarms that this explains.

    A statistic with + or - fits in this direction only. `spot!` fits a spot of at most SPOT_SHARE,
    `turned!` images that are turned, `grey!` images without colour, and another statistic with !
    where its effect is larger than that of the spot.
    """

    alarm: str
    cause: str
    explains: tuple[str, ...] = ()


MOVED = "the camera or a fixture moved"
COLOUR = "the white balance, the colour of the light, or colour channels that changed places"
RULES = (  # the first that fits a statistic names its cause
    Rule(
        "resolution",
        "another resolution of the camera, or another cut of its picture",
        ("sharpness", "noise", "contrast", "shift_x", "shift_y", "spot"),
    ),
    Rule(
        "turned!",
        "the camera was mounted or set in another way, or its images are stored in another way",
        ("shift_x", "shift_y", "spot"),
    ),
    Rule("grey!", "the camera now gives grey images", ("red", "blue")),
    Rule("brightness", "lighting or exposure", ("noise-", "contrast", "sharpness+")),
    Rule("noise+", "noise of the sensor, as from gain or heat", ("sharpness+", "spot")),
    Rule(
        "sharpness-",
        "focus, a veil on the whole lens, or stronger compression",
        ("noise-", "contrast", "spot"),
    ),
    Rule("noise-!", "smoothing or compression in the camera", ("sharpness+", "contrast", "spot")),
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


def hint(comparisons: Comparisons, repeats: Repeats | None, zone: tzinfo) -> str:
    """What raised an alarm and its likely causes, with times of `zone`; empty where nothing did."""
    sentences = [] if repeats is None else [_repeats(repeats, zone)]
    alarms = {name: comparison for name, comparison in comparisons.items() if comparison.alarm}
    if set(alarms) == {"anomaly_score"}:
        sentences.append(_scores_alone(comparisons, zone))
    elif _is_other_scene(alarms):
        changes = [_change(name, alarms[name], zone) for name in alarms if name in WORDS]
        cause = "another product or another view"
        light = ", or a much stronger or weaker light" * ("brightness" in alarms)
        sentences.append(_sentence(changes, cause + light))
    else:
        sentences += _causes(comparisons, alarms, zone)
    return " ".join(sentences)


def _repeats(repeats: Repeats, zone: tzinfo) -> str:
    kept = "the same bytes" if repeats.contents == 1 else f"only {repeats.contents} contents"
    since = "" if repeats.since is None else f" since {_time(repeats.since, zone)}"
    return (
        f"{repeats.files} of {repeats.images} images hold {kept} under new names{since}. "
        "Likely cause: a frozen camera, or a program that stores its images again and again."
    )


def _scores_alone(comparisons: Comparisons, zone: tzinfo) -> str:
    scores = comparisons["anomaly_score"]
    direction = "higher" if scores.night > _base(scores) else "lower"
    since = _when(scores, zone)
    first = f"The scores are {direction}{since} (median {scores.night:.3g}, not {_base(scores):.3g}"
    others = [name for name in comparisons if name in GROUPS and _is_suspect(comparisons[name])]
    if others:
        others.sort(key=lambda name: -abs(comparisons[name].effect))
        changes = _enumeration([_change(n, comparisons[n], zone) for n in others[:SUSPECTS]])
        return (
            f"{first}). The images may be the cause: they {changes}, "
            "which is too little or too uncertain for an alarm of its own."
        )
    unseen = "the images changed in a way that no statistic measures"
    causes = f"most images show defects, or {unseen}" if direction == "higher" else unseen
    return f"{first}). No other statistic that could be compared changed. Likely cause: {causes}."


def _is_suspect(comparison: Comparison) -> bool:
    past = comparison.past.p_value if comparison.past else 1.0
    return min(comparison.p_value, past) <= SMALL_P


def _is_other_scene(alarms: Comparisons) -> bool:
    groups = {GROUPS[name] for name in alarms if name in GROUPS} - {"resolution"}
    is_turned = "spot" in alarms and alarms["spot"].turned
    return "spot" in groups and len(groups) >= OTHER_SCENE_GROUPS and not is_turned


def _causes(comparisons: Comparisons, alarms: Comparisons, zone: tzinfo) -> Iterator[str]:
    kinds = {name: _kinds(name, comparisons) for name in alarms}
    explained: set[str] = set()
    for alarm, cause, explains in RULES:
        name = next((name for name in alarms if alarm in kinds[name]), None)
        if name is not None and not explained & {name, *kinds[name]}:
            explained |= {name, *explains}
            changes = [_special(alarm, alarms[name]) or _change(name, alarms[name], zone)]
            if name == "brightness" and _is_unchanged("sharpness", comparisons):
                changes.append("as sharp as before")
            yield _sentence(changes, cause)


def _is_unchanged(name: str, comparisons: Comparisons) -> bool:
    return name in comparisons and not _is_suspect(comparisons[name])


def _kinds(name: str, comparisons: Comparisons) -> set[str]:
    """The words of the rules that fit an alarm."""
    comparison = comparisons[name]
    direction = f"{name}{'+' if comparison.night > _base(comparison) else '-'}"
    kinds = {name, direction}
    if comparison.turned:
        kinds.add("turned!")
    if name == "spot":
        small = comparison.share is not None and comparison.share <= SPOT_SHARE
        return kinds | {"spot!"} if small else kinds
    if name in ("red", "blue") and _is_grey(comparisons):
        kinds.add("grey!")
    if "spot" not in comparisons or abs(comparison.effect) > abs(comparisons["spot"].effect):
        kinds.add(f"{direction}!")
    return kinds


def _is_grey(comparisons: Comparisons) -> bool:
    colours = [comparisons[name].night for name in ("red", "blue") if name in comparisons]
    return len(colours) == 2 and all(abs(colour - 1) <= GREY for colour in colours)


def _base(comparison: Comparison) -> float:
    """What the night is compared with."""
    return (
        comparison.past.median
        if comparison.past and comparison.alarm == "past nights"
        else comparison.reference
    )


def _special(alarm: str, comparison: Comparison) -> str:
    """What a rule says of the images beside a change of its statistic."""
    if alarm == "grey!":
        return "have no colour any more"
    return f"are {comparison.turned}" if alarm == "turned!" else ""


def _sentence(changes: list[str], cause: str) -> str:
    return f"The images {_enumeration(changes)}. Likely cause: {cause}."


def _enumeration(changes: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(changes[:-1]), changes[-1]]))


def _change(name: str, comparison: Comparison, zone: tzinfo) -> str:
    """E.g. `are 40 % darker since 2026-11-26 02:14 (Europe/Berlin)`."""
    when = _when(comparison, zone)
    if name == "spot":
        x, y = (round(100 * share) for share in comparison.place or (0, 0))
        return f"have another contrast {x} % from the left and {y} % from the top{when}"
    base, night = _base(comparison), comparison.night
    verb, more, less = WORDS[name]
    words = less if night < base else more
    if name in RATIOS and night > 2 * base:
        factor = night / base
        return f"{verb} {words} by a factor of {factor:.{0 if factor >= 10 else 1}f}{when}"
    if name in RATIOS:
        percent = 100 * abs(night / base - 1)
        return f"{verb} {percent:.{0 if percent >= 1 else 1}f} % {words}{when}"
    return f"{verb} {abs(night - base):.0f} {words}{when}"


def _when(comparison: Comparison, zone: tzinfo) -> str:
    if comparison.since is not None:
        return f" since {_time(comparison.since, zone)}"
    return "" if comparison.until is None else f" until {_time(comparison.until, zone)}"


def _time(time: str, zone: tzinfo) -> str:
    """An ISO time as people of the plant read it, with the name of its zone."""
    return f"{datetime.fromisoformat(time).astimezone(zone):%Y-%m-%d %H:%M} ({zone})"
