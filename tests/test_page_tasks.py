"""What a person does at seven, in a real browser: worst part of a lot, where, why, mark, save."""

import csv
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from admodels.images import decode
from admodels.nights.page import content
from admodels.nights.parts import part_judgements
from admodels.scoring.ledger import open_ledger
from tests import cards, plants, tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.slow
VIEWS = ("front", "back")
LOT = "B2"
NAME = r"(?P<lot>[A-Z]\d)_(?P<part_id>P\d)\.png"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of three lines: two views of the parts of two lots, and a line without parts."""
    place = tmp_path_factory.mktemp("plant")
    cards.save_draem(place / "models" / "draem" / "stripes")
    for seed, folder in enumerate((*VIEWS, "weld")):
        for number, pixels in enumerate(tiny.stripes(8, seed + 3)):
            name = f"{'A1' if number < 4 else LOT}_P{number}.png"
            decode.write_png(place / folder / name, pixels.transpose(1, 2, 0))
    changes = {"part": NAME, "alpha": 0.8, "mm_per_px": 0.25}
    lines = {view: plants.line(place / view, **changes) for view in VIEWS}
    lines["weld"] = plants.line(place / "weld", alpha=0.8)
    plants.write_plant(place, lines, parts={"door": {"views": list(VIEWS)}})
    plants.nightly(place, plants.Options(0.0))
    return place


@pytest.fixture
def tab(browser, plant: Path, request: pytest.FixtureRequest) -> Iterator[object]:
    context = browser.new_context(**getattr(request, "param", {}))
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text))
    tab.goto((plant / "ledger/pages/000001.html").as_uri())
    yield tab
    context.close()
    assert faults == []


def worst_part(plant: Path) -> dict[str, object]:
    """That of the lot, as the ledger has it."""
    with open_ledger(plant / "ledger") as ledger:
        (night,) = {path.name for path in (plant / "ledger/parts/door").iterdir()}
        rows = part_judgements(ledger, "door", night).to_pylist()
    return next(row for row in rows if row["lot"] == LOT and row["is_anomalous"])


def test_the_worst_part_of_a_lot_is_found_understood_marked_and_saved(
    tab, plant: Path, tmp_path: Path
) -> None:
    part = worst_part(plant)
    tab.get_by_label("Name, part or lot").fill(LOT)
    rows = tab.locator("#flagged-parts tr:visible")
    assert all(f"lot {LOT}" in text for text in rows.all_inner_texts())
    title = f"Part {part['part_id']}, lot {LOT}"
    assert rows.first.inner_text().startswith(title)
    assert "part flagged, 2 of 2 views" in rows.first.inner_text()
    tab.get_by_role("button", name=f"Show the images of {title}").click()
    shown = tab.locator("#cards .file, #rows .file")
    assert set(shown.all_inner_texts()) <= {image["path"] for image in part["images"]}
    card = tab.locator("#cards li").first
    where, size, why, now = card.locator("dd").all_inner_texts()
    assert re.match(r"(at|in) the ", where)
    assert re.match(r"[\d.,]+ x [\d.,]+ mm \([\d.,]+ mm²\)$", size)
    assert re.search(r"normal images? ", why)
    assert now.startswith("Look at this place on the part")
    card.get_by_role("button", name="Enlarge").click()
    zoom = tab.get_by_role("dialog", name=shown.first.inner_text())
    for key, layer in (("2", ".map"), ("3", ".regions")):
        tab.keyboard.press(key)
        zoom.locator(layer).evaluate("image => image.decode()")
        assert zoom.locator(layer).is_visible()
    tab.keyboard.press("d")
    tab.keyboard.press("Escape")
    with tab.expect_download() as coming:
        tab.locator("#filters [data-save]").click()
    coming.value.save_as(tmp_path / "verdicts.csv")
    text = (tmp_path / "verdicts.csv").read_text(encoding="utf-8")
    (row,) = csv.DictReader(StringIO(text))
    images = {(image["line"], image["image_sha256"]) for image in part["images"]}
    assert (row["line"], row["image_sha256"]) in images
    assert row["verdict"] == "defect"


def test_what_is_smaller_than_a_defect_that_matters_is_counted_and_not_shown(plant: Path) -> None:
    with open_ledger(plant / "ledger") as ledger:
        (night,) = content.read_runs(ledger.folder)
        line, *_ = content.line_nights(ledger, [night])
        flagged = flagged_rows(line)
        largest = max(place["area_mm2"] for row in flagged for place in row["regions"])
        for least, too_small in ((largest / 1e6, 0), (largest * 2, len(flagged))):
            night.lines[line.name].smallest_defect_mm2 = least
            line, *_ = content.line_nights(ledger, [night])
            assert line.too_small == too_small
            assert len(flagged_rows(line)) == len(flagged) - too_small
            assert line.flagged == len(flagged) > 0  # the verdicts stand


def flagged_rows(line: content.LineNight) -> list[dict[str, object]]:
    return [row for row in line.rows if row["is_anomalous"]]


def test_by_part_the_views_of_a_part_stand_together_under_its_name(tab) -> None:
    tab.get_by_label("Order").select_option("part")
    items = tab.locator("#cards li").evaluate_all(
        "items => items.map((item) => [item.className, item.textContent])"
    )
    heads = [text.split(":")[0] for kind, text in items if kind == "group"]
    assert len(heads) == len(set(heads)) > 2
    head = ""
    for kind, text in items:
        if kind == "group":
            head = text.split(":")[0]
        else:
            assert head in text or head == "Without a part number"


@pytest.mark.parametrize(
    "tab", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}], indirect=True
)
def test_a_tap_shows_the_next_view_and_a_swipe_the_next_image(tab) -> None:
    tab.locator("#cards .picture").first.tap()
    zoom = tab.get_by_role("dialog")
    first = zoom.locator("h2").inner_text()
    assert zoom.locator(".regions").is_visible()
    zoom.locator("#stage").tap()
    assert zoom.get_by_role("button", name="Reference").get_attribute("aria-pressed") == "true"
    zoom.locator("#stage").tap()
    assert zoom.get_by_role("button", name="Image").get_attribute("aria-pressed") == "true"
    box = zoom.locator("#stage").bounding_box()
    talk = tab.context.new_cdp_session(tab)
    y = box["y"] + box["height"] / 2
    for kind, points in (
        ("touchStart", [{"x": 300, "y": y}]),
        ("touchMove", [{"x": 150, "y": y}]),
        ("touchEnd", []),
    ):
        talk.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    sync_api.expect(zoom.locator("h2")).not_to_have_text(first)
    assert zoom.get_by_role("button", name="Image").get_attribute("aria-pressed") == "true"
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
