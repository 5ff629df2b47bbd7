"""The four answers on a card: where, how big, why, and what to do now, in words with units."""

from dataclasses import dataclass
from typing import Any

from admodels.pages.catalogue import Catalogue
from admodels.scoring.pointing import ALWAYS

PLACES = (
    ("top_left", "top", "top_right"),
    ("left", "middle", "right"),
    ("bottom_left", "bottom", "bottom_right"),
)


@dataclass(frozen=True)
class Facts:
    """What the page says of an image; each is a sentence or a part of one."""

    where: str
    size: str
    why: str
    now: str


def facts(row: dict[str, Any], *, is_trusted: bool, catalogue: Catalogue) -> Facts:
    """The answers on a row of the page."""
    return Facts(
        where_text(row, catalogue),
        size_text(row, catalogue),
        why_text(row, catalogue),
        catalogue.text(now_message(row, is_trusted=is_trusted), n=ALWAYS),
    )


def where_text(row: dict[str, Any], catalogue: Catalogue) -> str:
    """The place of the worst region, and how many more there are."""
    regions = row["regions"]
    if not regions:
        why = "region.not_kept" if row["is_anomalous"] else "region.none"
        return catalogue.text("where.unknown", why=catalogue.text(why))
    worst, *others = regions
    place = place_text(worst, row["width"], row["height"], catalogue)
    if worst["zone"]:
        place = catalogue.text("where.zone", zone=worst["zone"], place=place)
    if others:
        return catalogue.text("where.many", place=place, n=len(others))
    return place if row["has_level"] else catalogue.text("where.maximum", place=place)


def place_text(region: dict[str, Any], width: int, height: int, catalogue: Catalogue) -> str:
    """In which ninth of the image the centroid of a region lies."""
    column = min(2, int(3 * (region["x"] + 0.5) / width))
    row = min(2, int(3 * (region["y"] + 0.5) / height))
    return catalogue.text(f"place.{PLACES[row][column]}")


def size_text(row: dict[str, Any], catalogue: Catalogue) -> str:
    """The box of the worst region in mm, or in pixels where the line does not know mm."""
    if not row["regions"]:
        return catalogue.text("size.unknown")
    worst = row["regions"][0]
    if worst["area_mm2"] is None:
        share = catalogue.percent(worst["share"])
        return catalogue.text("size.px", width=worst["width"], height=worst["height"], share=share)
    sides = {key: catalogue.significant(worst[f"{key}_mm"]) for key in ("width", "height")}
    return catalogue.text("size.mm", **sides, area=catalogue.significant(worst["area_mm2"]))


def why_text(row: dict[str, Any], catalogue: Catalogue) -> str:
    """How much the image differs from normal ones, and how many of these differ as much.

    The p-value is (k + 1) / (n + 1), where k of n normal scores are at least as high.
    """
    count, p_value = row["normal_images"], row["p_value"]
    if not count or p_value is None:
        score = catalogue.significant(row["anomaly_score"], 3)
        return catalogue.text("why.unknown", score=score)
    as_high = round(p_value * (count + 1)) - 1
    if not as_high:
        rank = catalogue.text("why.all", n=count)
    else:
        message = "why.some" if row["is_anomalous"] else "why.many"
        rank = catalogue.text(message, n=as_high, of=count)
    if row["ratio"] is None:
        return rank
    ratio = catalogue.significant(row["ratio"])
    return catalogue.text("why.ratio", ratio=ratio, rank=rank)


def now_message(row: dict[str, Any], *, is_trusted: bool) -> str:
    """The id of what a person should do about an image, or why it is shown."""
    if row["is_anomalous"] is None:
        return "now.none"
    if row["is_anomalous"]:
        return "now.flagged" if is_trusted else "now.drift"
    return "now.today" if row["today"] else "now.normal"
