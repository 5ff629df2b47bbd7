"""The morning page: what it shows of a night, from real nights of a tiny bundle."""

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from admodels.cli import app
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import sha256_of
from admodels.images import decode
from admodels.nights import history, marks
from admodels.nights.limits import Limit
from admodels.nights.page import content, render
from admodels.nights.page.changes import Change
from admodels.nights.run import Options
from admodels.pages.words import visible
from admodels.scoring.ledger import open_ledger
from tests import cards, plants, tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

HOSTILE = [
    "<img src=x onerror=document.title='run'>",
    "</script><script>document.title='run'<",
    "\"' onmouseover='document.title=1",
    "\u202egnp.exe",
    "new\nline",
    "=cmd|' !C calc'!A0",
    "{{ 7 * 7 }}${7}&lt;",
]
ALL = 0.95  # flags nearly everything; what lies below all of the calibration is not flagged


def draw(folder: Path, count: int, seed: int) -> None:
    for at, pixels in enumerate(tiny.stripes(count, seed)):
        decode.write_png(folder / f"{at:04d}.png", pixels.transpose(1, 2, 0))


def line(folder: Path, alpha: float) -> dict[str, object]:
    return plants.line(folder, alpha=alpha)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights of `press`, with hostile names and bad files, and of `weld` without verdicts."""
    place = tmp_path_factory.mktemp("plant")
    cards.save_draem(place / "models" / "draem" / "stripes")
    draw(place / "press" / "monday", 3, seed=3)
    draw(place / "weld", 4, seed=4)
    lines = {"press": line(place / "press", ALL), "weld": line(place / "weld", 0.01)}
    plants.night(lines, place)
    draw(place / "press" / "tuesday", 60, seed=5)
    verdicts = pd.read_parquet(place / "ledger" / "verdicts" / "press")
    flagged = place / "press" / verdicts[verdicts["is_anomalous"]]["path"].iloc[0]
    for at, name in enumerate(HOSTILE):
        path = place / "press" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(flagged.read_bytes() + bytes([at]))  # the same picture, another hash
    (place / "press" / "<b>empty<b>.png").write_bytes(b"")
    (place / "press" / "noise.png").write_bytes(b"\0 no image")
    lines["press"] = line(place / "press", ALL - 0.04)
    draw(place / "weld" / "more", 2, seed=6)
    plants.night(lines, place)
    drift = place / "ledger" / "drift" / "press" / "000002.json"
    drift.parent.mkdir(parents=True, exist_ok=True)
    drift.write_text(json.dumps(DRIFT), encoding="utf-8")
    with open_ledger(place / "ledger") as held:
        render.write(held)
    return place / "ledger"


DRIFT = {
    "line": "press",
    "run": "000002",
    "images": 60,
    "reference": "9 images of the bundle",
    "trusted": False,
    "hint": "40 % darker since 02:14: <lighting>",
    "statistics": {
        "brightness": {
            "night": 60.0,
            "reference": 100.0,
            "effect": -4.0,
            "p_value": 1e-6,
            "past": {"nights": 1, "p_value": 0.5},
            "alarm": "calibration",
            "since": "2026-11-26T02:14:00+00:00",
        },
        "contrast": {
            "night": 10.0,
            "reference": 10.0,
            "effect": 0.0,
            "p_value": 0.5,
            "past": None,
            "alarm": "",
            "since": None,
        },
    },
}


class Tab:
    """The page of the second night in a browser that notes what it complains of and asks for."""

    def __init__(self, browser, ledger: Path, **options) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda told: self.complaints.append(told.text))
        self.page.on("pageerror", lambda told: self.complaints.append(str(told)))
        self.page.on("dialog", lambda told: self.complaints.append(told.message))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto((ledger / "pages" / "000002.html").as_uri())

    def count(self) -> int:
        """How many parts the filter leaves, as it tells a screen reader."""
        return int(self.page.inner_text("#count").split()[0])


@pytest.fixture
def tab(browser, ledger: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    found = Tab(browser, ledger, **getattr(request, "param", {}))
    yield found
    found.context.close()


def test_the_page_of_a_night_can_be_made_again_to_the_byte(ledger: Path) -> None:
    first = (ledger / "pages" / "000002.html").read_bytes()
    with open_ledger(ledger) as held:
        assert render.write(held, "000002").read_bytes() == first
        with pytest.raises(ConfigurationError, match="no run 000009"):
            render.write(held, "000009")
    index = (ledger / "pages" / "index.html").read_text(encoding="utf-8")
    assert index.index('href="000002.html"') < index.index('href="000001.html"')


def test_the_page_says_what_its_verdicts_rest_on(ledger: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["admodels", "page", "--ledger", str(ledger)])
    with pytest.raises(SystemExit, match="0"):
        sys.exit(app.main() or 0)
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    told = json.loads((ledger / "runs" / "000002.json").read_text(encoding="utf-8"))
    press = told["lines"]["press"]
    (calibration,) = (ledger / "calibration" / "press").glob("*.json")
    for fact in (
        str(escape(told["command"])),
        press["model_fingerprint"],
        press["contract_fingerprint"],
        sha256_of(calibration)[:16],
        f"torch {told['versions']['torch']}",
        told["directory"],
    ):
        assert fact in text


@pytest.mark.slow
@pytest.mark.parametrize("tab", [{"timezone_id": "Asia/Tokyo"}], indirect=True)
def test_a_time_is_that_of_the_plant_wherever_the_browser_stands(tab: Tab) -> None:
    assert tab.page.inner_text("header time").endswith("(UTC)")  # the zone of this plant


def test_what_changed_since_the_night_before_is_said(ledger: Path) -> None:
    with open_ledger(ledger) as held:
        nights = content.read_runs(ledger)
        press, weld = content.line_nights(held, nights)
    assert press.before.run == "000001"
    assert press.changes == [Change("changes.other", {"old": "0.95", "new": "0.91"}, "alpha")]
    assert (press.unreadable_count, press.flagged) == (2, nights[0].lines["press"].flagged)
    assert {row["status"] for row in press.unreadable} == {"empty", "undecodable"}
    assert (weld.flagged, weld.changes, len(weld.rows)) == (None, [], 2)


def test_no_line_makes_way_for_the_worse_parts_of_another(ledger: Path, monkeypatch) -> None:
    monkeypatch.setattr(content, "ROWS_MAX", 6)
    monkeypatch.setattr(content, "UNJUDGED", 2)
    monkeypatch.setattr(content, "ROWS_LEAST", 1)
    with open_ledger(ledger) as held:
        lines = content.line_nights(held, content.read_runs(ledger))
    chosen = content.worst_first(lines)
    assert sorted(at for at, _ in chosen) == [0, 0, 0, 1, 1]
    verdicts = [row["is_anomalous"] for _, row in chosen]
    assert verdicts == sorted(verdicts, key=[True, None, False].index)
    excesses = [row["excess"] for _, row in chosen if row["is_anomalous"]]
    assert excesses == sorted(excesses, reverse=True)


def test_a_page_that_cannot_be_written_costs_its_code_and_no_row(
    ledger: Path, tmp_path: Path
) -> None:
    shutil.copytree(ledger.parent, tmp_path / "plant")
    place = tmp_path / "plant"
    shutil.rmtree(place / "ledger" / "pages")
    (place / "ledger" / "pages").write_text("a file in its way", encoding="utf-8")
    draw(place / "weld" / "late", 1, seed=8)
    (place / "weld" / "bad.png").touch()
    lines, limits = {"weld": line(place / "weld", 0.01)}, [Limit.of("unreadable>0")]
    told = plants.night(lines, place, Options(0.0, limits=limits))
    assert (told["exit_code"], told["lines"]["weld"]["exit_code"]) == (74, 5)
    assert history.last(place / "ledger").page_faults == ["FileExistsError: File exists"]
    kept = json.loads((place / "ledger" / "runs" / "000003.json").read_text(encoding="utf-8"))
    assert kept == told
    assert len(list((place / "ledger" / "scores" / "weld" / "000003").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("tab", [{"viewport": {"width": 1400, "height": 12000}}], indirect=True)
def test_names_are_text_and_nothing_is_fetched(tab: Tab) -> None:
    sync_api.expect(tab.page.locator("#cards li, #rows tr")).to_have_count(tab.count())
    names = set(tab.page.locator("#cards .file, #rows .file").all_inner_texts())
    assert {visible(f"{name}.png") for name in HOSTILE} <= names
    assert "\\u202egnp.exe.png" in names
    assert "new\\nline.png" in names
    assert "<b>empty<b>.png" in tab.page.inner_text("#unread")
    assert (
        tab.page.locator(
            "#cards .file *:not(bdi), #rows .file *:not(bdi), #unread b, img[onerror]"
        ).count()
        == 0
    )
    assert tab.page.title().endswith(" flagged, 2 unreadable")
    assert "40 % darker since 02:14: <lighting>" in tab.page.inner_text(".alarm")
    assert "may be wrong" in tab.page.inner_text("#cards li >> nth=0")
    assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}
    assert tab.complaints == []


@pytest.mark.slow
def test_a_script_that_got_into_the_page_would_not_run(tab: Tab) -> None:
    tab.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'run'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend",
                "<img src=x onerror=\\"document.title = 'run'\\"><img src=https://example.com/x.png>");
        }"""
    )
    tab.page.wait_for_timeout(200)
    assert tab.page.title().endswith(" flagged, 2 unreadable")
    assert any("script-src" in told for told in tab.complaints)
    assert any("img-src" in told for told in tab.complaints)


def test_the_filters_choose_and_the_count_is_shown(tab: Tab) -> None:
    everything = tab.count()
    tab.page.select_option("[name=line]", label="weld")
    assert tab.count() == 2
    first = tab.page.locator("#cards li").first
    sync_api.expect(first).to_contain_text("no verdict")
    assert first.inner_text().count("no verdict") == 1
    tab.page.select_option("[name=verdict]", "flagged")
    assert tab.count() == 0
    tab.page.get_by_role("button", name="Clear").click()
    sync_api.expect(tab.page.locator("#count")).to_contain_text(f"{everything} of")
    tab.page.select_option("[name=status]", "empty")
    assert tab.page.inner_text("#count").startswith(f"0 of {everything} images, 1 of 2 unreadable")
    tab.page.get_by_role("button", name="Clear").click()
    tab.page.fill("[name=path]", "ONERROR")
    assert tab.count() == 1
    assert tab.page.get_attribute("#count", "aria-live") == "polite"


@pytest.mark.slow
def test_a_picture_is_enlarged_turned_to_its_map_and_marked_by_keys_alone(tab: Tab) -> None:
    first = tab.page.locator("#cards .picture").first
    name = tab.page.locator("#cards .file").nth(1).inner_text()
    first.focus()
    assert first.locator("img.image").get_attribute("src").startswith("../overlays/press/")
    for key in ("ArrowRight", "f", "2", "Enter"):
        tab.page.keyboard.press(key)
    zoom = tab.page.get_by_role("dialog", name=name)
    assert zoom.get_by_role("button", name="fine").get_attribute("aria-pressed") == "true"
    assert zoom.get_by_role("button", name="Map").get_attribute("aria-pressed") == "true"
    large = zoom.locator("img.image")
    large.evaluate("image => image.decode()")
    before = large.bounding_box()
    assert zoom.locator("img.map").is_visible()
    tab.page.keyboard.press("1")
    assert not zoom.locator("img.map").is_visible()
    tab.page.keyboard.press("+")
    assert large.bounding_box()["width"] == pytest.approx(1.5 * before["width"], rel=0.01)
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#zoom-name").inner_text() != name
    tab.page.keyboard.press("Escape")
    sync_api.expect(tab.page.locator("#cards [data-at='2'] .picture")).to_be_focused()


@pytest.mark.slow
def test_marks_outlast_the_page_and_feedback_takes_what_is_saved(
    tab: Tab, ledger: Path, tmp_path: Path
) -> None:
    tab.page.fill("[name=path]", "cmd")
    mark = tab.page.get_by_role("button", name="defect: ")
    mark.click()
    sync_api.expect(mark).to_have_attribute("aria-pressed", "true")
    tab.page.reload()
    tab.page.select_option("[name=mark]", "defect")
    assert tab.count() == 1
    with tab.page.expect_download() as coming:
        tab.page.get_by_role("button", name="Save verdicts.csv").click()
    coming.value.save_as(tmp_path / "verdicts.csv")
    text = (tmp_path / "verdicts.csv").read_text(encoding="utf-8")
    (row,) = csv.DictReader(StringIO(text))
    assert (row["line"], row["verdict"]) == ("press", "defect")
    shutil.copytree(ledger, tmp_path / "ledger")
    with open_ledger(tmp_path / "ledger") as held:
        assert held.index.last("press", "=cmd|' !C calc'!A0.png") == row["image_sha256"]
        assert marks.append(held, tmp_path / "verdicts.csv", ["press"]) == {"press": 1}


@pytest.mark.parametrize(
    "tab",
    [{"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}],
    indirect=True,
)
def test_a_phone_at_night_needs_no_scrolling_sideways(tab: Tab) -> None:
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
    tab.page.locator("#cards .picture").first.tap()
    assert tab.page.locator("#zoom").bounding_box()["width"] == 360
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("tab", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_the_worst_and_the_unreadable_are_tables(tab: Tab) -> None:
    assert "<img src=x onerror" in tab.page.inner_text("noscript")
    assert tab.page.locator("noscript tbody tr").count() > 50
    assert tab.page.locator("#unread tr").count() == 2
    assert not tab.page.locator("#filters").is_visible()


@pytest.mark.slow
def test_every_control_has_a_name_and_every_section_a_heading(tab: Tab) -> None:
    assert tab.page.get_by_role("region").count() >= 7
    tab.page.locator("#cards .picture").first.click()
    nameless = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a, svg[role=img], img")]
            .filter((one) => !one.ariaLabel && !one.alt && !one.labels?.length)
            .filter((one) => !one.closest(".frame")?.querySelector("img.image[alt]"))
            .filter((one) => !one.textContent.trim() && !one.querySelector("[alt], [aria-label]"))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert tab.page.locator("header, main, nav[aria-label]").count() == 3
    assert tab.page.locator("h1").count() == 1


CONTRAST = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (one) => {
        const colour = getComputedStyle(one).backgroundColor;
        return parts(colour)[3] === 0 && one.parentElement ? ground(one.parentElement) : colour;
    };
    return [...document.querySelectorAll("body *")]
        .filter((one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .filter((one) => one.checkVisibility() && !one.closest("svg"))
        .map((one) => {
            const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML.slice(0, 80)];
        })
        .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "tab", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True
)
def test_all_text_stands_out_from_its_ground(tab: Tab) -> None:
    tab.page.get_by_role("button", name="fine: ").first.click()
    tab.page.get_by_role("button", name="defect: ").nth(1).click()
    assert tab.page.evaluate(CONTRAST) == []
