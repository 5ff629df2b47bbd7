"""The page in another language, for ears, on a phone and on paper, of real nights."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from admodels.images import decode
from admodels.nights.page import render
from admodels.pages.catalogue import Catalogue, english
from admodels.scoring.ledger import open_ledger
from tests import cards, plants, tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.slow
LETTERS = {ord("a") + n: chr(0x430 + n) for n in range(26)}
TO_CYRILLIC = LETTERS | {ord("A") + n: chr(0x410 + n) for n in range(26)}
SHOWN = """() => {
    const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) {
        const home = walker.currentNode.parentElement;
        const others = "bdi, code, script, style, noscript, [lang]:not(html)";
        if (!home.closest(others)) texts.push(walker.currentNode.data);
    }
    for (const element of document.querySelectorAll("[aria-label], [alt], [title]"))
        texts.push(element.ariaLabel || element.alt || element.title);
    return texts;
}"""


def toy(text: object) -> object:
    """A text with other letters, its values untouched."""
    if isinstance(text, str):
        return "".join(
            piece if piece.startswith("{") else piece.translate(TO_CYRILLIC)
            for piece in re.split(r"(\{[^}]*\})", text)
        )
    if isinstance(text, dict):
        return {key: toy(value) for key, value in text.items()}
    return [toy(value) for value in text] if isinstance(text, list) else text


def toy_catalogue() -> Catalogue:
    words = english()
    form = {**{key: toy(value) for key, value in words.form.items()}, "decimal": ",", "group": "."}
    return replace(words, language="xx", texts=toy(dict(words.texts)), form=form)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of a line with flagged and unreadable images, and of one without verdicts."""
    place = tmp_path_factory.mktemp("plant")
    cards.save_draem(place / "models" / "draem" / "stripes", reference=True)
    for folder, count, seed in (("1", 12, 3), ("2", 4, 4)):
        for number, pixels in enumerate(tiny.stripes(count, seed)):
            decode.write_png(place / folder / f"{number}.png", pixels.transpose(1, 2, 0))
    (place / "1" / "0.bmp").write_bytes(b"")
    lines = {
        "1": plants.line(place / "1", alpha=0.95),
        "2": plants.line(place / "2", alpha=0.01),
    }
    plants.night(lines, place)
    return place / "ledger"


@pytest.fixture
def tab(browser, ledger: Path, request: pytest.FixtureRequest) -> Iterator[object]:
    with open_ledger(ledger) as held:
        page = render.write(held)
    context = browser.new_context(**getattr(request, "param", {}))
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert faults == []


def test_with_another_catalogue_no_english_text_remains(browser, ledger: Path) -> None:
    with open_ledger(ledger) as held:
        page = render.write(held, catalogue=toy_catalogue())
    tab = browser.new_page()
    for address in (page, page.with_name("index.html")):
        tab.goto(address.as_uri())
        if tab.locator("#cards .picture").count():
            tab.locator("#cards .picture").first.click()
        texts = tab.evaluate(SHOWN)
        assert len(texts) > 20
        known = r"UTC|n/a|sha256|[0-9a-f]{64}|\S+\.(png|bmp|csv)|admodels|calibrate|\d+e"
        english_left = [t for t in texts if re.search(r"[A-Za-z]{2,}", re.sub(known, "", t))]
        assert english_left == []
        assert tab.evaluate("document.documentElement.lang") == "xx"
    tab.close()


def names_of(tab) -> list[tuple[str, str]]:
    """(role, accessible name) of what a screen reader meets, as Chromium computes them."""
    session = tab.context.new_cdp_session(tab)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]


def test_a_screen_reader_hears_a_name_for_every_control_picture_and_section(tab) -> None:
    tab.locator("#cards .picture").first.scroll_into_view_if_needed()
    tab.locator("#cards img").first.evaluate("image => image.decode()")
    heard = names_of(tab)
    spoken = {"button", "link", "combobox", "searchbox", "radio", "image", "region", "dialog"}
    nameless = [role for role, name in heard if role in spoken and not name.strip()]
    assert nameless == []
    assert next(name for role, name in heard if role == "heading").startswith("Night of ")
    buttons = [name for role, name in heard if role == "button"]
    first = tab.locator("#cards .file").first.inner_text()
    assert [name for name in buttons if name.startswith(f"Enlarge {first}: flagged, ")]
    assert f"defect: {first}" in buttons
    assert {name for role, name in heard if role == "radio"} == {
        *("Image", "Map", "Regions", "Reference")
    }


def test_no_word_of_the_machine_stands_in_the_open(tab) -> None:
    text = tab.locator("body").inner_text()
    assert not re.search(r"exit code|sha256|\d+\.\d+x|\bp 0\.|[0-9a-f]{16}", text)
    assert re.match(r"Night of \w+, \d+ \w+ 20\d\d$", tab.locator("h1").inner_text())
    assert tab.locator("#details details").get_attribute("open") is None


@pytest.mark.parametrize("tab", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_the_index_shows_flagged_unreadable_and_outcome_on_a_phone(tab) -> None:
    night = datetime.strptime(tab.locator("h1").inner_text(), "Night of %A, %d %B %Y")
    flagged = tab.locator(".figures b").first.inner_text()
    tab.get_by_role("link", name="All nights").click()
    row = tab.locator("tbody tr").first
    cells = row.locator("th, td")
    for at in range(4):
        box = cells.nth(at).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert cells.nth(0).inner_text() == f"{night:%a %-d %b %Y}"
    assert [cells.nth(1).inner_text(), cells.nth(2).inner_text()] == [flagged, "1"]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    row.get_by_role("link").first.click()
    assert tab.locator("h1").inner_text().startswith("Night of ")


def test_on_paper_the_cards_stand_without_controls_on_white(tab) -> None:
    tab.emulate_media(media="print", color_scheme="dark")
    for control in ("#filters", "#cards .mark", "nav", "[data-save]"):
        assert tab.locator(control).first.is_hidden()
    assert tab.locator("#cards .facts").first.is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
