import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admodels.foundation.manifest import DatasetImage, ManifestRow
from admodels.validation import checks, data_docs
from admodels.validation.checks import Needs, Severities, Validate
from admodels.validation.inspect import Facts
from admodels.validation.table import image_table

VENDOR = Path(data_docs.__file__).parent / "vendor"
LINKED = re.compile(r"<(script|link|img)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)[\"']")
TABLE_ROW = re.compile(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", re.MULTILINE)


def built(site: Path) -> Path:
    """The pages of 14 images, of which one is dark and one does not decode."""
    found, known = [], []
    for i in range(14):
        path = f"train/good/{i:03}.png"
        found.append(DatasetImage(path, "normal", "", "", "learn"))
        name = path.removesuffix(".png")
        row = ManifestRow(name, path, f"{i:064x}", 64, 64, "L", 8, "normal", "", "", "", "", "")
        known.append((row, Facts(1.0 if i == 3 else 90.0, 9.0, 9.0, True, bytes(range(256)) * 2)))
    severity = Severities(**dict.fromkeys(Severities.model_fields, "error"))
    bounds = Validate(
        orientation="stored",
        size_tolerance=1.25,
        ratio_tolerance=1.05,
        min_side_px=8,
        min_brightness=5.0,
        max_brightness=250.0,
        min_contrast=1.0,
        near_duplicate_bits=0,
        max_session_shift=0.6,
        max_oddity=3.0,
        severity=severity.model_copy(update={"test_has_both_labels": "warning"}),
    )
    table = image_table(found, known[:-1], {found[-1].image_path: "truncated"}, {}, {})
    needs = Needs(11, alpha=0.5, licence="ours")
    checks.findings("tiny", table, [], bounds, needs, site)
    return site


@pytest.fixture(scope="module")
def raw_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Great Expectations writes it."""
    return built(tmp_path_factory.mktemp("raw") / "docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, made offline."""
    made = built(tmp_path_factory.mktemp("offline") / "docs")
    data_docs.make_offline(made)
    return made


def pages(site: Path) -> dict[str, str]:
    return {p.relative_to(site).as_posix(): p.read_text("utf-8") for p in site.rglob("*.html")}


def test_great_expectations_still_needs_the_network_without_us(raw_site: Path) -> None:
    loaded = {address for page in pages(raw_site).values() for _, address in LINKED.findall(page)}
    assert any("bootstrap.min.css" in address for address in loaded)
    assert any(address.startswith("https:") for address in loaded)


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    assert len(pages(site)) == 5
    for page in pages(site).values():
        assert [a for _, a in LINKED.findall(page) if re.match(r"(https?:)?//", a)] == []
        assert re.search(r"url\(\s*[\"']?(https?:)?//", page) is None
        assert re.search(r"@import|integrity=|crossorigin=", page) is None


def test_every_file_that_a_page_loads_or_links_is_there(site: Path) -> None:
    for name, page in pages(site).items():
        loaded = [address for _, address in LINKED.findall(page)]
        assert len(loaded) == 6, name
        linked = re.findall(r"<a\b[^>]*\bhref=[\"']([^\"'#]+)[\"']", page)
        ours = [address for address in loaded + linked if not address.startswith("http")]
        for address in ours:
            assert ((site / name).parent / address).is_file(), (name, address)


def test_scripts_stand_after_what_they_need(site: Path) -> None:
    for page in pages(site).values():
        at = [page.index(f"vendor/{n}.min.js") for n in ("jquery", "bootstrap", "bootstrap-table")]
        assert at == sorted(at)


def test_the_pages_say_what_is_wrong_with_which_image(site: Path) -> None:
    must_hold = next(page for name, page in pages(site).items() if "validations/must_hold" in name)
    assert "Every image decodes to its last pixel." in must_hold
    assert "train/good/013.png" in must_hold
    assert "train/good/003.png" in must_hold
    should_hold = next(p for name, p in pages(site).items() if "expectations/should_hold" in name)
    assert "The test split has normal and anomalous images" in should_hold


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in another time zone."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_the_site_is_the_same_on_a_second_run_in_another_time_zone(
    site: Path, raw_site: Path, tmp_path: Path
) -> None:
    again = built(tmp_path / "docs")
    assert pages(again) != pages(raw_site)  # times and random ids
    data_docs.make_offline(again)
    files = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert files == {p.relative_to(site): p.read_bytes() for p in site.rglob("*") if p.is_file()}


def test_no_random_id_and_no_time_is_left_but_links_between_pages_hold(site: Path) -> None:
    links = 0
    for page in pages(site).values():
        assert data_docs.RANDOM_ID.search(page) is None
        assert re.search(r"\b20\d\d-\d\d-\d\d|\b20\d{6}T", page) is None
        targets = set(re.findall(r"data-toggle=\"collapse\" href=\"#([^\"]+)\"", page))
        assert targets <= set(re.findall(r"\bid=\"?([^\s\">]+)", page))
        links += len(targets)
    assert links


def test_vendored_files_are_those_of_the_list() -> None:
    listed = dict(TABLE_ROW.findall((VENDOR / "README.md").read_text("utf-8")))
    here = {p.relative_to(VENDOR).as_posix() for p in VENDOR.rglob("*.min.*")}
    assert len(listed) == 5
    assert set(listed) == here
    for name, sha256 in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256
    ours = {p.name for p in (VENDOR / "data_docs").glob("*.[cj]s*")}
    assert set(data_docs.VENDORED.values()) == ours
