"""The audit on the page of a closed night: marked without a score, kept, and counted."""

import csv
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from admodels.cli import app
from admodels.images import decode
from admodels.nights import audit, marks
from admodels.nights.page import render
from admodels.scoring.ledger import open_ledger
from tests import cards, plants, tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

HOSTILE = "\"><img src=x onerror=document.title='run'>.png"
LINES = ("press", "weld")


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed night of two lines; the second has fewer images than an audit set."""
    place = tmp_path_factory.mktemp("plant")
    cards.save_draem(place / "models" / "draem" / "stripes")
    for folder, count, seed in (("press", 60, 3), ("weld", 4, 4)):
        for at, pixels in enumerate(tiny.stripes(count, seed)):
            path = place / folder / (HOSTILE if folder == "weld" and not at else f"{at:04d}.png")
            decode.write_png(path, pixels.transpose(1, 2, 0))
    lines = {name: plants.line(place / name, alpha=0.3) for name in LINES}
    close(place, plants.night(lines, place)["night"])
    return place


def close(place: Path, night: str) -> None:
    with open_ledger(place / "ledger") as ledger:
        record = ledger.folder / "nights" / f"{night}.json"
        if not record.exists():
            drawn = {line: audit.draw(ledger, line, night, 5) for line in LINES}
            of_lines = {
                line: {"images": 60, "audit": [image.model_dump(mode="json") for image in images]}
                for line, images in drawn.items()
            }
            ledger.store_json(record, {"lines": of_lines})
        render.write(ledger)


@pytest.fixture
def page(browser, plant: Path) -> Iterator[object]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text))
    tab.goto((plant / "ledger/pages/000001.html").as_uri())
    yield tab
    context.close()
    assert faults == []


@pytest.mark.slow
def test_a_night_keeps_the_pictures_of_its_audit_set_in_rank_order(plant: Path, page) -> None:
    with open_ledger(plant / "ledger") as ledger:
        nights = audit.audit_nights(ledger)
    drawn = [image.path for line in LINES for image in nights[line][0].drawn]
    assert [len(nights[line][0].drawn) for line in LINES] == [5, 4]
    assert page.locator("#audit .file").all_inner_texts() == drawn
    sizes = page.evaluate(
        "[...document.querySelectorAll('#audit img')].map((i) => { i.loading = 'eager'; "
        "return i.decode().then(() => i.naturalWidth); })[0]"
    )
    assert sizes == tiny.stripes(1, 3).shape[-1]
    assert page.locator("#audit img").count() == 9
    assert page.title() != "run"


@pytest.mark.slow
def test_the_audit_section_shows_neither_score_nor_verdict_nor_map(page) -> None:
    text = page.locator("#audit").inner_text().replace("whatever their score", "")
    assert not re.search(r"score|flagged|p |\dx|verdict (?!s)", text.replace("verdicts.csv", ""))
    pictures = page.locator("#audit img").evaluate_all("all => all.map((i) => i.src)")
    assert all("/audit/" in address and "overlays" not in address for address in pictures)
    before = page.locator("#audit").bounding_box()["y"]
    assert before < page.locator("#gallery").bounding_box()["y"]


@pytest.mark.slow
def test_marks_of_the_audit_are_apart_outlast_the_page_and_are_taken(
    plant: Path, page, tmp_path: Path, monkeypatch, capsys
) -> None:
    line = page.locator("#audit [data-audit=press]")
    for at, word in enumerate(["fine", "fine", "unsure", "defect", "fine"]):
        assert line.inner_text().startswith(f"{at} of 5 marked")
        item = page.locator("#audit li").nth(at)
        if at == 3:  # by its key
            item.locator("a").focus()
            page.keyboard.press("d")
        else:
            item.get_by_role("button", name=f"{word}: ").click()
    page.reload()
    assert line.inner_text() == "5 of 5 marked in this browser"
    assert page.locator("#audit [aria-pressed=true]").count() == 5
    assert page.locator("#cards [aria-pressed=true]").count() == 0
    page.locator("#cards li").first.get_by_role("button", name="fine: ").click()
    with page.expect_download() as coming:
        page.locator("#audit [data-save]").click()
    coming.value.save_as(tmp_path / "verdicts.csv")
    rows = list(csv.DictReader(StringIO((tmp_path / "verdicts.csv").read_text(encoding="utf-8"))))
    assert [row["section"] for row in rows] == ["audit"] * 5 + [""]
    words = ["admodels", "feedback", str(tmp_path / "verdicts.csv"), "--plant", str(plant)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        raise SystemExit(app.main())
    assert not end.value.code
    with open_ledger(plant / "ledger") as ledger:
        (known,) = marks.figures_of(ledger, ["press"])["press"]
        render.write(ledger)
    assert known.nights == 1
    assert (known.audit.images, known.audit.defects) == (5, 1)
    assert [row["verdict"] for row in rows[:5]] == ["fine", "fine", "unsure", "defect", "fine"]
    page.reload()
    assert "Complete audits: 1." in page.locator("#promise").inner_text()
    assert "without a mark" in page.locator("#promise").inner_text()  # of weld


@pytest.mark.slow
def test_without_scripts_the_audit_says_how_to_mark(browser, plant: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((plant / "ledger/pages/000001.html").as_uri())
    assert tab.locator("#audit button:visible").count() == 0
    assert "line,path,verdict,section,night" in tab.locator("#audit").inner_text()
    context.close()


@pytest.mark.slow
def test_a_phone_shows_the_audit_without_scrolling_sideways(browser, plant: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    tab = context.new_page()
    tab.goto((plant / "ledger/pages/000001.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.locator("#audit li").first.get_by_role("button", name="fine: ").tap()
    assert tab.locator("#audit [aria-pressed=true]").count() == 1
    context.close()
