"""The data page: what it says, what it shows, and that nothing on it runs."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.datasets import LeftOut, read_layout
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import Split
from admodels.foundation.params import parse
from admodels.images.decode import STORED
from admodels.validation import checks, page, summary
from admodels.validation.checks import Finding, Needs, Severities, Validate
from admodels.validation.examine import examine
from admodels.validation.pictures import LONGER_SIDE_PX, write_pictures
from admodels.validation.sentences import SENTENCES
from stages import validate
from tests.browser import CHROMIUM, FLAGS
from tests.test_validate_stage import MASK, PARAMS, RAW, VALIDATION, save, write_tiny
from tests.test_validation_checks import BOUNDS

HOSTILE = [
    'bad "><img src=x onerror=alert(1)>',
    "' onmouseover='alert(2)' x='",
    "<svg onload=alert(3)>",
    "{{ 7 * 7 }}${7}&lt;",
    "javascript:alert(4)",
    "\u202egnp.exe",
]
LICENCE = "CC BY-NC 4.0 <script>alert(5)</script>`"
CATEGORY = '"\' onmouseover=alert(6) x="'
DEFECT = "<b onmouseover=alert(7)>hole<!--"
LEFT_OUT = f"train/{HOSTILE[0]}.<script>"
FLAT = np.full((40, 48, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of a refused task, every name in it hostile: images, defects, licence, category."""
    place = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        text = PARAMS.replace("licence: CC0-1.0", f"licence: {json.dumps(LICENCE)}")
        write_tiny(text.replace("category: ''", f"category: {json.dumps(CATEGORY)}"))
        for number, name in enumerate(HOSTILE):
            path = RAW / f"train/good/{number:03}.png"
            save(f"train/good/{name}.png", np.asarray(Image.open(path).convert("L")))  # named
            path.unlink()
        again = np.asarray(Image.open(RAW / f"train/good/{HOSTILE[1]}.png"))
        save("test/good/again.png", np.clip(again, 90, 170))
        save(f"train/good/{HOSTILE[0]} flat.png", FLAT)
        (RAW / f"train/good/{HOSTILE[2]} half.png").write_bytes(b"\x89PNG")
        for folder in (RAW / "test/hole", RAW / "ground_truth/hole"):
            folder.rename(folder.with_name(DEFECT))
        (RAW / LEFT_OUT).write_text("no image", encoding="utf-8")
        with pytest.raises(DataError, match="image_decodes"):
            validate.main("tiny")
        yield place / VALIDATION / "index.html"


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_from_data_make_no_tag_and_no_attribute(hostile: Path) -> None:
    parsed = Tags(hostile.read_text(encoding="utf-8"))
    assert {tag for tag, _ in parsed.tags} & {"script", "b onmouseover", "iframe"} == set()
    assert [a for _, attributes in parsed.tags for a in attributes if a.startswith("on")] == []
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) > 10
    assert all(re.fullmatch(r"pictures/\d{4}\.webp", source or "") for source in images)
    links = [attributes["href"] or "" for tag, attributes in parsed.tags if tag == "a"]
    assert all(re.match(r"#|checks\.json|statistics\.csv|\.\./\.\./raw/tiny/", a) for a in links)
    shown = [name for name in HOSTILE if f"train/good/{name}.png" in parsed.text]
    assert shown == HOSTILE[:5]
    assert "\\u202egnp.exe" in parsed.text
    for text in (LICENCE.strip("`"), CATEGORY, DEFECT, LEFT_OUT):
        assert text in parsed.text


@pytest.mark.slow
def test_no_script_runs_and_no_request_leaves_in_a_browser(hostile: Path) -> None:
    """Neither with the policy of the page nor by its escaping alone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    events: list[str] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for bypass_csp in (False, True):
            tab = browser.new_context(bypass_csp=bypass_csp).new_page()
            tab.on("dialog", lambda dialog: (events.append(dialog.message), dialog.dismiss()))
            tab.on("console", lambda message: events.append(message.text))
            tab.on("request", lambda request: events.append(request.url))
            tab.goto(hostile.as_uri())
            tab.evaluate("for (const image of document.images) image.loading = 'eager'")
            tab.evaluate(
                "for (const node of document.querySelectorAll('*'))"
                " node.dispatchEvent(new MouseEvent('mouseover'))"
            )
            tab.wait_for_load_state("networkidle")
            widths = tab.evaluate("Array.from(document.images, image => image.naturalWidth)")
            assert len(widths) > 10
            assert min(widths) > 0
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        browser.close()
    own = (hostile.as_uri(), f"{hostile.parent.as_uri()}/pictures/", "data:,")
    assert [event for event in events if not event.startswith(own)] == []


def test_the_page_states_what_was_seen_expected_and_to_do_errors_first(hostile: Path) -> None:
    text = hostile.read_text(encoding="utf-8")
    plain = unescape(re.sub("<[^>]*>", "", text))
    found = json.loads((hostile.parent / "report.json").read_text(encoding="utf-8"))
    failed = [f for f in found["checks"] if not f["success"]]
    assert len(failed) > 4
    places = []
    for severity in ("error", "warning"):
        mine = [f for f in failed if f["severity"] == severity]
        assert mine
        for finding in mine:
            for sentence in (finding["seen"], finding["expected"], finding["step"]):
                assert sentence.replace("`", "") in plain.replace("`", "")
        places.append([plain.index(f["expected"]) for f in mine])
    assert max(places[0]) < min(places[1])
    assert "1 image does not decode to the last pixel." in plain
    assert "earn money" not in plain


def test_every_picture_has_the_size_that_the_page_states(hostile: Path) -> None:
    tags = Tags(hostile.read_text(encoding="utf-8")).tags
    stated = {a["src"]: (a["width"], a["height"]) for tag, a in tags if tag == "img"}
    files = sorted((hostile.parent / "pictures").iterdir())
    assert sorted(stated) == [f"pictures/{file.name}" for file in files]
    for file in files:
        with Image.open(file) as picture:
            assert stated[f"pictures/{file.name}"] == tuple(map(str, picture.size))
            assert max(picture.size) == LONGER_SIDE_PX


def test_near_copies_stand_side_by_side_with_both_names(hostile: Path) -> None:
    text = hostile.read_text(encoding="utf-8")
    (pair,) = re.findall(r'<figure class="pair">.*?</figure>', text, re.DOTALL)
    parsed = Tags(pair)
    names = ("test/good/again.png", f"train/good/{HOSTILE[1]}.png")
    assert -1 < parsed.text.index(names[0]) < parsed.text.index(names[1])
    assert "in two splits" in parsed.text
    sources = [attributes["src"] or "" for tag, attributes in parsed.tags if tag == "img"]
    left, right = (np.asarray(Image.open(hostile.parent / s)).astype(int) for s in sources)
    assert 0 < np.abs(left - right).mean() < 4  # the same picture, not the same bytes


def test_a_mask_is_laid_over_its_image_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny()
    save("test/hole/000.png", FLAT)
    save("test/hole/wide.png", FLAT[:, :20])
    wanted = [("test/hole/000.png", MASK), ("test/hole/000.png", ""), ("test/hole/wide.png", MASK)]
    missing = [("test/hole/000.png", "no_mask.png"), ("test/hole/none.png", "")]
    (RAW / "test/hole/none.png").write_bytes(b"no image")
    drawn = write_pictures(tmp_path / "pictures", RAW, STORED, [*wanted, *missing, *wanted])
    assert list(drawn) == [*wanted, missing[0]]
    colours = [np.asarray(Image.open(tmp_path / drawn[w].address)).astype(int) for w in drawn]
    red = [(image[:, :, 0] - image[:, :, 1] > 30).mean() for image in colours]
    assert red == [pytest.approx(0.0625, abs=0.01), 0, 0, 0]  # 10 x 12 of 40 x 48 pixels
    assert (drawn[wanted[2]].width, drawn[wanted[2]].height) == (160, LONGER_SIDE_PX)


@pytest.mark.slow
def test_counts_left_out_files_and_charts_are_those_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny()
    bounds = parse(BOUNDS, Validate, "validate")
    split = Split(validation_share=0.25, calibration_share=0.25, min_normal_images=11)
    layout = read_layout("mvtec_ad", "", RAW)
    images = examine(layout.images, RAW, "tiny", STORED, bounds, split, 0.25, 7)
    found, _ = checks.findings(images.table, images.pairs, bounds, Needs(11, 0.25, "ours"))
    about = {"task": "tiny", "dataset": "d", "category": "", "licence": "ours", "refused": None}
    about |= checks.report(images.table, found)
    left_out = [LeftOut(f"x/{i:03}.txt", "unknown_suffix", ".txt") for i in range(230)]
    layout = replace(layout, left_out=[*left_out, LeftOut("@eaDir/a.png", "excluded", "@eaDir")])
    text = page.render(tmp_path, about, layout, images, found)
    rows = {
        row[0]: row[1:]
        for row in (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r) for r in text.split("<tr>"))
        if row
    }
    assert rows["train"] == ["8", "0", ""]
    assert rows["test"] == ["3", "3", "hole 3"]
    plain = Tags(text).text
    assert "Used 25 of 256 files: 230 unknown suffix, 1 excluded." in plain
    assert ("x/199.txt" in plain, "x/200.txt" in plain) == (True, False)
    assert text.count('<figure class="chart">') == 4
    (shares,) = images.table["mask_area_share"].dropna().unique()
    assert shares == 0.0625  # the third of 32 bins begins there: its top is 1, all others are 0
    chart = [c for column in page.HISTOGRAMS for c in page._histogram(images.table, column)][-1]
    assert [points for _, points in chart.series][:2] == ["", ""]
    (_, points) = chart.series[2]
    steps = [tuple(map(float, point.split(","))) for point in points.split()]
    high = [x for x, y in steps if y == 10]
    assert high == pytest.approx([46 + 264 * 2 / 32, 46 + 264 * 3 / 32], abs=0.1)


def finding(name: str, severity: str, count: int) -> Finding:
    names = [f"\x1b[31m{name}.png"] if count else []
    return Finding(name, severity, False, "e", "Seen.", "s", None, count, names, [""])  # type: ignore[arg-type]


def lines(caplog: pytest.LogCaptureFixture, findings: list[Finding]) -> list[str]:
    caplog.set_level(logging.INFO, "admodels")
    summary.log_summary("tiny", findings)
    return [record.getMessage() for record in caplog.records]


def test_the_terminal_gets_a_dozen_lines_the_worst_first_and_the_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warnings = [finding(f"w{i}", "warning", i) for i in range(20)]
    written = lines(caplog, [*warnings, finding("few", "error", 3), finding("all", "error", 0)])
    assert len(written) == summary.MOST_LINES == 12
    assert written[0] == "tiny: 2 errors, 20 warnings"
    assert written[1] == "  error    all: Seen"
    assert written[2] == "  error    few: Seen (\\x1b[31mfew.png)"
    assert written[3] == "  warning  w0: Seen"
    assert written[4].startswith("  warning  w19: ")
    assert written[-2:] == ["  and 13 more on the page", "  page: data/validation/tiny/index.html"]


def test_the_terminal_gets_one_line_where_every_check_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = replace(finding("a", "error", 0), success=True)
    assert lines(caplog, [held]) == ["tiny: all 1 checks hold; data/validation/tiny/index.html"]


def test_every_check_has_sentences_that_are_sentences() -> None:
    fixed = {"image_id_unique", "only_normal_to_learn", "no_split_leakage", "enough_normal_images"}
    assert set(SENTENCES) == {*Severities.model_fields, *fixed, "mattes_fit"}
    for texts in SENTENCES.values():
        assert all(text[0] in "{" or text[0].isupper() for text in texts)
        assert all(text.endswith(".") for text in texts)
