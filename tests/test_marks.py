"""What people say of images: taken whole, kept for good, and what calibration may take of it."""

import csv
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from admodels.datasets import read_layout
from admodels.foundation import manifest
from admodels.foundation.errors import DataError, StorageError
from admodels.inference.conformal import threshold
from admodels.nights import audit, marks
from admodels.nights.calibrate import calibrate
from admodels.nights.calibrations import Calibration
from admodels.nights.marks import Mark
from admodels.nights.promise import Tally
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import Ledger, open_ledger
from admodels.scoring.stopping import Stop
from tests.cards import ALPHA, card, judge, make_bundle

NIGHT = "2026-11-30"  # that of `judge`
LINES = ("press", "weld")
CASES = Path(__file__).parents[2] / "shared/cases/make.py"


@contextmanager
def held(place: Path) -> Iterator[Ledger]:
    with open_ledger(place / "ledger") as ledger:
        yield ledger


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Ten cards; 130, 140 and 150 are flagged."""
    for level in range(60, 160, 10):
        card(tmp_path / "in" / f"{level:03d}.png", level)
    look(tmp_path)
    return tmp_path


def look(place: Path) -> None:
    model = Model.of(make_bundle())
    with held(place) as ledger:
        score_line(ledger, LineImages("press", place / "in"), model, Stop())
        judge(ledger, "press", model)
        ledger.finish({"whole": True, "lines": {"press": {"exit_code": 0}}})


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def said(place: Path, *rows: tuple[str, ...], columns: str = "path,verdict") -> Path:
    path = place / "said.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        head = ["line", *columns.split(",")]
        csv.writer(file).writerows([head, *(("press", *row) for row in rows)])
    return path


def take(place: Path, *rows: tuple[str, ...], columns: str = "path,verdict") -> dict[str, int]:
    with held(place) as ledger:
        return marks.append(ledger, said(place, *rows, columns=columns), LINES)


def read(place: Path) -> marks.Marks:
    with held(place) as ledger:
        return marks.read(ledger, ["press"])["press"]


def close(place: Path, night: str = NIGHT, count: int = 5) -> list[str]:
    """Draw the audit set of a night and write its record, as the look does that closes it."""
    with held(place) as ledger:
        drawn = audit.draw(ledger, "press", night, count)
        content = [image.model_dump(mode="json") for image in drawn]
        lines = {"press": {"images": 10, "audit": content}}
        ledger.store_json(ledger.folder / "nights" / f"{night}.json", {"lines": lines})
    return [image.image_sha256 for image in drawn]


def mark_audit(place: Path, verdicts: dict[str, str], night: str = NIGHT) -> dict[str, int]:
    rows = [(sha256, verdict, "audit", night) for sha256, verdict in verdicts.items()]
    return take(place, *rows, columns="image_sha256,verdict,section,night")


def calibrated(place: Path, folder: str | None = "approved") -> Calibration:
    with held(place) as ledger:
        model, home = Model.of(make_bundle()), place / folder if folder else None
        return calibrate(ledger, "press", model, home, place / "manifests", Stop())


def test_marks_are_kept_in_order_with_who_when_and_from_where(place: Path) -> None:
    assert take(place, ("130.png", "defect"), ("120.png", "Fine "), ("060.png", "")) == {"press": 2}
    assert take(place, ("130.png", "unsure")) == {"press": 1}
    lines = (place / "ledger/marks.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first.keys() == {"at", "who", "from", "marks", "chain"}
    assert (first["from"], bool(first["who"])) == (str(place / "said.csv"), True)
    assert [mark["verdict"] for mark in first["marks"]] == ["defect", "fine"]
    assert [mark["section"] for mark in first["marks"]] == ["flagged", "other"]
    assert [mark["verdict"] for mark in second["marks"]] == ["unsure"]
    latest = read(place).last
    assert {mark.verdict for mark in latest.values()} == {"fine", "unsure"}
    assert read(place).of("unsure") == {sha(place / "in/130.png")}


def test_a_mark_that_was_changed_in_the_file_is_noticed(place: Path) -> None:
    take(place, ("130.png", "defect"))
    path = place / "ledger/marks.jsonl"
    path.write_text(path.read_text().replace("defect", "fine"))
    with pytest.raises(StorageError, match="not as it was written"):
        read(place)


@pytest.mark.parametrize("name", ["bom", "cp1252", "utf16", "semicolon"])
def test_marks_are_taken_as_any_spreadsheet_saves_them(tmp_path: Path, name: str) -> None:
    if not CASES.exists():
        pytest.skip("no shared/cases beside the repository")
    command = [sys.executable, "-c", MAKE_TABLES, str(CASES), str(tmp_path / "tables")]
    subprocess.run(command, check=True)
    card(tmp_path / "in/gr\u00fcn.png", 100)
    look(tmp_path)
    with held(tmp_path) as ledger:
        table = tmp_path / "tables" / f"marks_{name}.csv"
        assert marks.append(ledger, table, LINES) == {"press": 1}


MAKE_TABLES = (
    "import runpy, sys, pathlib\nrunpy.run_path(sys.argv[1])['tables'](pathlib.Path(sys.argv[2]))"
)


@pytest.mark.parametrize(
    "text",
    [
        'line,path,verdict\r\n"press","060.png","fine"\r\n',
        "sep=;\r\nline;path;verdict\r\npress;060.png;fine\r\n",
        "line\tpath\tverdict\npress\t060.png\tfine",
        "Line,Path,p_value,Verdict,,\r\npress,060.png,0.3,FINE,,\r\n,,,,,\r\n",
    ],
)
def test_quotes_hints_tabs_and_columns_of_others_are_understood(place: Path, text: str) -> None:
    (place / "t.csv").write_bytes(text.encode("utf-16"))
    with held(place) as ledger:
        assert marks.append(ledger, place / "t.csv", LINES) == {"press": 1}


@pytest.mark.parametrize(
    ("row", "columns", "fault"),
    [
        (("120.png", "good"), "path,verdict", "line 3: `good` is neither"),
        (("none.png", "fine"), "path,verdict", "line 3: the ledger does not know `none.png`"),
        (("../../x", "fine"), "image_sha256,verdict", "line 3: the ledger does not know"),
        (
            ("a" * 64, "fine"),
            "image_sha256,verdict",
            "line 3: image aaaaaaaaaaaaaaaa is",
        ),
        (("120.png", "fine", "best"), "path,verdict,section", "line 3: there is no section `best`"),
        (("120.png", "fine", "x"), "path,verdict,night", "line 3: `x` is no night"),
        (("120.png", "fine"), "file,judgement", "columns"),
        (("130.png", "fine"), "path,verdict", "lines 2 and 3 call image"),
    ],
)
def test_a_table_with_one_wrong_row_is_refused_whole(place: Path, row, columns, fault) -> None:
    empty = [""] * (len(row) - 2)
    first = ("130.png" if "path" in columns else sha(place / "in/130.png"), "defect", *empty)
    with pytest.raises(DataError) as error:
        take(place, first, row, columns=columns)
    assert fault in error.value.fault
    assert not (place / "ledger/marks.jsonl").exists()


def test_a_line_that_the_plant_does_not_have_is_refused(place: Path) -> None:
    with held(place) as ledger, pytest.raises(DataError, match="no line is named `press`"):
        marks.append(ledger, said(place, ("130.png", "fine")), ("weld",))


def test_marks_of_an_older_version_are_read_and_newer_ones_supersede_them(place: Path) -> None:
    old, newer = sha(place / "in/120.png"), sha(place / "in/130.png")
    (place / "feedback").mkdir()
    text = f"image_sha256,verdict\n{old},fine\n{newer},fine\n"
    (place / "feedback/press.csv").write_text(text)
    take(place, ("130.png", "defect"))
    assert (read(place).of("fine"), read(place).of("defect")) == ({old}, {newer})
    (place / "feedback/press.csv").write_text(text + "x,fine\n")
    with pytest.raises(StorageError, match="not a mark: `x`"):
        read(place)


def test_the_set_of_a_night_is_drawn_over_its_contents_with_what_was_said(place: Path) -> None:
    card(place / "in" / "copy of 140.png", 140)
    (place / "in" / "bad.png").write_bytes(b"bad")
    look(place)
    shas = {sha(path): path for path in (place / "in").glob("*0.png")}
    ranks = {s: hashlib.sha256(f"press\n{NIGHT}\n{s}".encode()).hexdigest() for s in shas}
    assert close(place) == sorted(shas, key=ranks.__getitem__)[:5]
    assert len(close(place, count=50)) == 10
    with held(place) as ledger:
        (night,) = audit.audit_nights(ledger)["press"]
    levels = {int(shas[image.image_sha256].stem[-3:]): image for image in night.drawn}
    assert {level for level, image in levels.items() if image.is_anomalous} == {130, 140, 150}
    basis = night.drawn[0].basis
    assert (basis.alpha, basis.calibration_images, len(basis.calibration)) == (ALPHA, 9, 64)
    assert not any(image.is_calibrated_with for image in night.drawn)


def test_closing_removes_the_pictures_of_images_that_were_not_drawn(place: Path) -> None:
    home = place / "ledger/audit/press" / NIGHT
    home.mkdir(parents=True)
    for path in (place / "in").iterdir():
        (home / f"{sha(path)}.webp").write_bytes(b"x")
    drawn = close(place)
    assert {path.stem for path in home.iterdir()} == set(drawn)


def test_a_mark_counts_for_the_audit_only_if_it_was_given_in_its_section(place: Path) -> None:
    drawn = close(place)
    rows = [(sha256, "fine") for sha256 in drawn]
    take(place, *rows, columns="image_sha256,verdict")
    assert read(place).audit == {}
    mark_audit(place, dict.fromkeys(drawn, "unsure"))
    assert read(place).audit == {NIGHT: dict.fromkeys(drawn, "unsure")}


def test_an_audit_mark_by_path_is_on_the_image_that_was_drawn_under_it(place: Path) -> None:
    drawn = close(place, count=10)
    card(place / "in" / "130.png", 131)
    look(place)
    take(place, ("130.png", "fine", "audit", NIGHT), columns="path,verdict,section,night")
    (sha256,) = read(place).audit[NIGHT]
    assert sha256 in drawn


def test_an_audit_mark_on_an_image_that_was_not_drawn_is_refused(place: Path) -> None:
    drawn = close(place)
    (other, *_) = {sha(path) for path in (place / "in").iterdir()} - set(drawn)
    for sha256, night in ((other, NIGHT), (drawn[0], "2026-12-01"), (drawn[0], "")):
        with pytest.raises(DataError, match="is not in the audit set of press"):
            mark_audit(place, {sha256: "fine"}, night)


def test_the_figures_rest_on_the_record_of_the_night_and_on_audit_marks(place: Path) -> None:
    drawn = close(place, count=10)
    by_level = {int(path.stem): sha(path) for path in (place / "in").iterdir()}
    verdicts = dict.fromkeys(drawn, "fine") | {by_level[150]: "defect", by_level[60]: "unsure"}
    mark_audit(place, verdicts)
    take(place, ("130.png", "defect"))
    with held(place) as ledger:
        (of_line,) = marks.figures_of(ledger, ["press"])["press"]
    assert of_line.audit == Tally(fine_flagged=2, fine_passed=6, defect_flagged=1, unsure_passed=1)
    assert of_line.alarms == Tally(fine_flagged=1, defect_flagged=2)  # the last mark on each alarm


def test_marks_of_unflagged_fine_images_leave_the_calibration_as_it_was(place: Path) -> None:
    for level in range(55, 145, 10):
        card(place / "approved" / f"{level}.png", level)
    before = calibrated(place)
    take(place, *((f"{level:03d}.png", "fine") for level in range(60, 150, 10)))
    after = calibrated(place)
    assert after == before
    assert threshold(after.scores, ALPHA) == threshold(before.scores, ALPHA)


def test_a_complete_audit_night_enters_the_calibration_as_far_as_it_is_fine(
    place: Path, caplog
) -> None:
    drawn = close(place, count=10)
    by_level = {int(path.stem): sha(path) for path in (place / "in").iterdir()}
    mark_audit(place, dict.fromkeys(drawn[1:], "fine"))
    with pytest.raises(DataError, match="no image to calibrate with"):
        calibrated(place, None)
    verdicts = dict.fromkeys(drawn, "fine") | {by_level[150]: "defect", by_level[60]: "unsure"}
    mark_audit(place, verdicts)
    with caplog.at_level(logging.WARNING):
        assert set(calibrated(place, None).scores) == {float(level) for level in range(70, 150, 10)}
    assert "1 images of audits are marked `unsure`" in caplog.text
    assert "up to 11.1 % of the fine images" in caplog.text


def test_while_a_night_is_marked_in_part_no_other_night_is_taken(place: Path, caplog) -> None:
    mark_audit(place, dict.fromkeys(close(place, count=3), "fine"))
    assert len(calibrated(place, None).scores) == 3
    with held(place) as ledger:
        drawn = audit.draw(ledger, "press", NIGHT, 9)
        content = [image.model_dump(mode="json") for image in drawn]
        record = {"lines": {"press": {"images": 10, "audit": content}}}
        ledger.store_json(ledger.folder / "nights/2026-12-01.json", record)
    mark_audit(place, {drawn[0].image_sha256: "fine"}, "2026-12-01")
    card(place / "approved" / "a.png", 101)
    with caplog.at_level(logging.WARNING):
        assert calibrated(place).scores == (101,)
    assert "2026-12-01 is marked in part" in caplog.text


def test_an_image_of_the_calibration_is_known_as_such_when_it_is_drawn_again(place: Path) -> None:
    mark_audit(place, dict.fromkeys(close(place, count=10), "fine"))
    calibrated(place, None)
    for path in list((place / "in").iterdir()):
        path.rename(path.with_name(f"again {path.name}"))
    look(place)
    with held(place) as ledger:
        images = [sha(path) for path in (place / "in").iterdir()]
        again = audit.what_was_said(ledger, "press", images)
    assert all(image.is_calibrated_with for image in again.values())
    assert len(again) == 10


@pytest.mark.parametrize("verdict", ["fine", "defect", "unsure"])
def test_a_folder_with_images_that_people_marked_is_refused(place: Path, verdict: str) -> None:
    card(place / "approved" / "a.png", 120)
    card(place / "approved" / "b.png", 75)
    take(place, ("120.png", verdict))
    take(place, ("120.png", "fine"))
    with pytest.raises(DataError, match="people marked 1 of the images"):
        calibrated(place)


def test_a_folder_with_marks_of_an_older_version_or_another_line_is_refused(place: Path) -> None:
    path = card(place / "approved" / "a.png", 77)
    (place / "feedback").mkdir()
    (place / "feedback/weld.csv").write_text(f"image_sha256,verdict\n{sha(path)},fine\n")
    with pytest.raises(DataError, match="people marked 1"):
        calibrated(place)


def test_a_folder_with_what_collect_copied_is_refused_though_no_mark_is_known(place: Path) -> None:
    path = card(place / "approved" / "a.png", 99)
    path.rename(path.with_name(f"{sha(path)}.png"))
    with pytest.raises(DataError, match="`admodels collect` copied them"):
        calibrated(place)


def test_an_image_that_the_audit_calls_a_defect_is_refused_in_a_folder(place: Path) -> None:
    drawn = close(place, count=10)
    by_level = {int(path.stem): sha(path) for path in (place / "in").iterdir()}
    mark_audit(place, dict.fromkeys(drawn, "fine") | {by_level[60]: "defect"})
    card(place / "approved" / "a.png", 70)
    assert len(calibrated(place).scores) == 9
    card(place / "approved" / "b.png", 60)
    with pytest.raises(DataError, match="people marked 1"):
        calibrated(place)


@pytest.mark.parametrize(
    ("levels", "is_warned"), [((60, 70), True), ((60, 130), False), ((61,), False)]
)
def test_calibrate_warns_of_a_folder_in_which_nothing_was_flagged(
    place: Path, caplog, levels, is_warned
) -> None:
    for level in levels:
        card(place / "approved" / f"{level}.png", level)
    with caplog.at_level(logging.WARNING):
        calibrated(place)
    words = f"judged {len(levels)} of the images and flagged none, which chance does in 64.0 %"
    assert (words in caplog.text) == is_warned
    assert bool(caplog.text) == is_warned


def test_what_was_called_fine_is_learnt_from_and_then_calibrates_no_more(place: Path) -> None:
    rows = [("130.png", "fine"), ("140.png", "fine"), ("150.png", "fine"), ("120.png", "defect")]
    source = place / "source"
    take(place, *rows)
    (place / "in" / "130.png").unlink()
    shas = {level: sha(place / "in" / f"{level}.png") for level in (140, 150)}
    with held(place) as ledger:
        assert marks.collect(ledger, "press", place / "in", source) == (2, 1)
        assert marks.collect(ledger, "press", place / "in", source) == (2, 1)
    found = read_layout("folder", "", source).images
    assert {(f.image_path, f.label, f.part) for f in found} == {
        (f"normal/{sha256}.png", "normal", "learn") for sha256 in shas.values()
    }
    take(place, ("140.png", "unsure"))
    with held(place) as ledger:
        assert marks.collect(ledger, "press", place / "in", source) == (1, 1)
    assert [f.image_path for f in read_layout("folder", "", source).images] == [
        f"normal/{shas[150]}.png"
    ]


def test_what_the_model_has_learnt_from_does_not_calibrate_it(place: Path) -> None:
    drawn = close(place, count=10)
    mark_audit(place, dict.fromkeys(drawn, "fine"))
    row = manifest.ManifestRow("b", "normal/b.png", drawn[0], 1, 1, "RGB", 8, "normal", *[""] * 5)
    (place / "manifests" / "grey_cards").mkdir(parents=True)
    manifest.write(place / "manifests" / "grey_cards" / "train.csv", [row])
    assert len(calibrated(place, None).scores) == 9


def test_a_mark_names_what_its_alarm_rests_on(place: Path) -> None:
    take(place, ("130.png", "fine"), ("120.png", "fine"))
    latest = {mark.section: mark for mark in read(place).last.values()}
    assert isinstance(latest["flagged"], Mark)
    assert latest["flagged"].alarm is not None
    assert latest["flagged"].alarm.alpha == ALPHA
    assert latest["other"].alarm is None


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_in_the_marks_is_noticed_also_in_the_last_line_end(
    place: Path, bit: int
) -> None:
    """But for the end of a line that a dying process left half: that is cut off."""
    take(place, ("130.png", "defect"))
    take(place, ("140.png", "fine"))
    path = place / "ledger/marks.jsonl"
    whole = path.read_bytes()
    for position in (*range(0, len(whole), 97), len(whole) - 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        with pytest.raises(StorageError, match=r"of marks\.jsonl is not as it was written"):
            read(place)
    path.write_bytes(whole[:-20])
    assert len(read(place).last) == 1
    take(place, ("150.png", "fine"))
    assert {mark.verdict for mark in read(place).last.values()} == {"defect", "fine"}
