"""The journal and the daily check: what was changed behind the ledger's back is noticed."""

import json
import os
import shutil
import sqlite3
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pytest

from admodels.foundation.errors import ConfigurationError, StorageError
from admodels.foundation.files import sha256_of
from admodels.nights.plant import read_plant
from admodels.scoring import engine, journal
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.integrity import Check, check, check_daily
from admodels.scoring.journal import Journal
from admodels.scoring.ledger import open_ledger
from admodels.scoring.stopping import Stop
from tests import plants
from tests.cards import card, make_bundle

PART = "scores/press/000001/0001.parquet"


def night(place: Path) -> int:
    """Score what is new; how many files have their row already."""
    source = LineImages(line="press", folder=place / "in")
    with open_ledger(place / "ledger") as ledger:
        return score_line(ledger, source, Model.of(make_bundle()), Stop()).old


def checked(place: Path) -> Check:
    with open_ledger(place / "ledger") as ledger:
        return check(ledger)


def rows(place: Path, table: str = "scores") -> pd.DataFrame:
    paths = sorted((place / "ledger" / table).glob("*/*/[0-9][0-9][0-9][0-9].parquet"))
    return pd.concat(map(pd.read_parquet, paths)).sort_values("path", ignore_index=True)


def deeds(place: Path) -> list[str]:
    return [entry["do"] for entry in Journal(place / "ledger").entries()]


def flip(path: Path, place: int = -9) -> None:
    """One bit; size, times and inode as before."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_ino == before.st_ino


def sql(place: Path, statement: str) -> None:
    with sqlite3.connect(place / "ledger/index.sqlite") as base:
        base.execute(statement)
    base.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for at in range(6):
        card(tmp_path / "in" / f"{at}.png", 50 + at)
    assert night(tmp_path) == 0
    with open_ledger(tmp_path / "ledger") as ledger:
        ledger.finish({"whole": True, "lines": {}})
        ledger.store_json(ledger.folder / "drift/press/000001.json", {"trusted": True})
        ledger.store_json(ledger.folder / "calibration/press/m-c.json", {"scores": [0.5]})
    return tmp_path


def test_a_ledger_as_it_was_written_has_nothing_to_say(place: Path) -> None:
    assert checked(place) == Check(files=6)
    assert deeds(place) == ["write", "write", "write", "write", "check"]


@pytest.mark.parametrize(
    "name", [PART, PART.replace("scores", "appearance"), "calibration/press/m-c.json"]
)
def test_a_changed_part_or_calibration_is_a_fault_of_its_line_until_it_is_restored(
    place: Path, name: str
) -> None:
    shutil.copytree(place / "ledger", place / "backup")
    flip(place / "ledger" / name)
    for _ in range(2):
        found = checked(place)
        assert list(found.faults) == [name]
        with pytest.raises(StorageError) as error:
            found.refuse(place / "ledger", "press")
        assert str(place / "ledger" / name) in str(error.value)
        found.refuse(place / "ledger", "weld")
    shutil.copy(place / "backup" / name, place / "ledger" / name)
    assert checked(place) == Check(files=6)


@pytest.mark.parametrize("name", ["runs/000002.json", "drift/press/000001.json"])
def test_a_changed_summary_or_record_of_drift_is_set_aside(place: Path, name: str) -> None:
    flip(place / "ledger" / name)
    found = checked(place)
    assert (found.faults, len(found.notes)) == ({}, 1)
    assert name in found.notes[0]
    assert not (place / "ledger" / name).exists()
    assert (place / "ledger/damaged" / name).is_file()
    assert checked(place) == Check(files=5)


def test_the_rows_of_a_summary_that_was_set_aside_are_reported_again(place: Path) -> None:
    done = {"whole": True, "lines": {"press": {"exit_code": 0}}}
    with open_ledger(place / "ledger") as ledger:
        ledger.finish(done)
    with open_ledger(place / "ledger") as ledger:
        assert ledger.tonight("press") == ("000004",)
        flip(place / "ledger/runs/000003.json")
        assert len(check(ledger).notes) == 1
    with open_ledger(place / "ledger") as ledger:
        assert ledger.tonight("press") == ("000001", "000002", "000003", "000004")


def test_a_summary_that_the_check_sets_aside_is_not_missed_by_the_same_run(place: Path) -> None:
    with open_ledger(place / "ledger") as ledger:
        flip(place / "ledger/runs/000002.json")
        assert len(check(ledger).notes) == 1
        assert ledger.tonight("press") == ("000001", "000002", "000003")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET path = '2.qng' WHERE path = '2.png'",
        "UPDATE rows SET sha = replace(sha, 'a', 'b') WHERE path = '2.png'",
        "UPDATE scores SET score = score + 1 WHERE score = 53",
        "UPDATE seen SET path = '2.qng' WHERE path = '2.png'",
        "DELETE FROM scores WHERE score = 53",
        "DELETE FROM rows WHERE path = '2.png'",
        "INSERT INTO rows SELECT 'weld', path, sha, model, contract FROM rows WHERE path = '1.png'",
    ],
)
def test_an_index_that_differs_from_the_parts_is_made_anew(place: Path, statement: str) -> None:
    before = rows(place)
    sql(place, statement)
    found = checked(place)
    assert found.notes == ["the index differed from the parts and was made anew"]
    assert "index" in deeds(place)
    assert checked(place) == Check(files=6)
    assert night(place) == 6
    assert rows(place).equals(before)


def test_stamps_are_kept_when_the_index_is_made_anew(place: Path) -> None:
    sql(place, "DELETE FROM scores WHERE score = 53")
    checked(place)
    with open_ledger(place / "ledger") as ledger:
        base = ledger.index._base
        assert base.execute("SELECT count(*) FROM seen").fetchone() == (6,)


@pytest.mark.parametrize("more", [True, False])
def test_a_row_that_stands_twice_is_taken_out_of_the_later_part(place: Path, more: bool) -> None:
    before, seen = rows(place), rows(place, "appearance")
    first = (place / "ledger" / PART).read_bytes()
    sql(place, "UPDATE rows SET path = '2.qng' WHERE path = '2.png'")
    sql(place, "DELETE FROM seen")
    card(place / "in" / "new.png", 99) if more else None
    night(place)
    assert len(rows(place)) == len(before) + 1 + more
    found = checked(place)
    assert "1 rows stood twice" in " ".join(found.notes)
    assert "take out" in deeds(place)
    assert len(rows(place)) == len(before) + more
    assert rows(place).query("path != 'new.png'").reset_index(drop=True).equals(before)
    kept = rows(place, "appearance").query("path != 'new.png'")
    assert list(kept["path"]) == list(seen["path"])
    assert (place / "ledger" / PART).read_bytes() == first
    assert checked(place).notes == []


def test_files_that_do_not_belong_are_left_out_and_named(place: Path) -> None:
    home = place / "ledger/scores/press/000001"
    names = ["0001 (copy).parquet", "._0001.parquet", "0001.parquet.tmp", "0002.parquet"]
    for name in names:
        shutil.copy(home / "0001.parquet", home / name)
    assert night(place) == 6
    found = checked(place)
    assert len(found.notes) == 4
    assert all(any(name in note for note in found.notes) for name in names)
    with open_ledger(place / "ledger") as ledger:
        assert [path.name for path in ledger.parts("press")] == ["0001.parquet"]
        assert sum(len(group) for _, group in ledger.groups("press")) == 6
    assert {path.name for path in home.iterdir()} == {*names, "0001.parquet"}


def test_a_copy_beside_the_parts_is_not_lost_when_they_are_merged(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)
    for at in range(4):
        card(place / "in" / f"late{at}.png", 90 + at)
    night(place)
    copy = place / "ledger/scores/press/000003/0001 (copy).parquet"
    shutil.copy(copy.with_name("0001.parquet"), copy)
    with open_ledger(place / "ledger") as ledger:
        ledger.compact("press")
    assert copy.is_file()
    copy.unlink()
    with open_ledger(place / "ledger") as ledger:
        ledger.compact("press")
        assert len(ledger.parts("press", "000003")) == 1
    assert checked(place) == Check(files=9)


def test_an_older_ledger_is_taken_over_once(place: Path) -> None:
    (place / "ledger/journal.jsonl").unlink()
    assert night(place) == 6
    assert deeds(place) == ["adopt"]
    assert checked(place) == Check(files=6)
    flip(place / "ledger" / PART)
    assert list(checked(place).faults) == [PART]


def test_a_file_that_is_gone_is_named_once(place: Path) -> None:
    (place / "ledger" / PART).unlink()
    assert f"{PART} is gone" in checked(place).notes
    assert night(place) == 0
    assert not [note for note in checked(place).notes if "is gone" in note]


def test_the_check_comes_once_for_each_night(place: Path) -> None:
    monday, tuesday = date(2026, 5, 4), date(2026, 5, 5)
    with open_ledger(place / "ledger") as ledger:
        assert check_daily(ledger, monday).files == 6
        assert check_daily(ledger, monday).files == 0
        assert check_daily(ledger, tuesday).files == 6
        assert ledger.index.checked_on == tuesday
        flip(place / "ledger" / PART)
        wednesday = date(2026, 5, 6)
        for _ in range(2):
            assert len(check_daily(ledger, wednesday).faults) == 1


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_write_that_died_before_its_files_had_their_names_was_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    card(place / "in" / "new.png", 99)
    replace, count = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > renamed:
            raise SystemExit(137)
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        with pytest.raises(SystemExit):
            night(place)
    assert deeds(place)[-1] == "write"
    assert night(place) == 6
    assert "undo" in deeds(place)
    assert len(rows(place)) == len(rows(place, "appearance")) == 7
    assert checked(place) == Check(files=9)


def test_a_changed_file_is_not_taken_for_a_write_that_died(place: Path) -> None:
    flip(place / "ledger/calibration/press/m-c.json")  # the last that was written
    assert list(checked(place).faults) == ["calibration/press/m-c.json"]
    assert "undo" not in deeds(place)


def test_half_a_line_of_the_journal_is_cut_off(place: Path) -> None:
    path = place / "ledger/journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:50])
    assert checked(place) == Check(files=6)
    assert path.read_bytes().startswith(whole)


def test_every_bit_of_the_journal_counts(place: Path) -> None:
    path = place / "ledger/journal.jsonl"
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        flip(path, at)
        with pytest.raises(StorageError, match=r"journal\.jsonl"):
            list(Journal(place / "ledger").entries())
        path.write_bytes(whole)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(StorageError, match=r"line 2 of journal\.jsonl"):
        list(Journal(place / "ledger").entries())


def test_the_last_line_of_a_long_journal_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "BLOCK", 64)
    log = Journal(tmp_path)
    for at in range(5):
        log.append("note", {}, text="x" * 40 * at)
    assert [len(entry["text"]) for entry in log.entries()] == [0, 40, 80, 120, 160]


def test_the_journal_names_the_new_hash_of_merged_parts_before_the_old_ones_go(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)
    for at in range(4):
        card(place / "in" / f"late{at}.png", 90 + at)
    night(place)
    rename, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        last = list(Journal(place / "ledger").entries())[-1]
        seen.append((last["do"], self.exists()))
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", watched)
        with open_ledger(place / "ledger") as ledger:
            ledger.compact("press", 2)
            assert not seen
            ledger.compact("press")
    assert seen == [("merge", True)] * 6  # two of each table
    files = list(Journal(place / "ledger").entries())[-1]["files"]
    merged = "scores/press/000003/0001.parquet"
    assert files == {
        merged: sha256_of(place / "ledger" / merged),
        merged.replace("0001.p", "0002.p"): None,
    }
    assert checked(place) == Check(files=9)


def test_the_journal_is_json_lines_with_times(place: Path) -> None:
    lines = (place / "ledger/journal.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[0])
    assert entry["files"][PART] == sha256_of(place / "ledger" / PART)
    assert datetime.fromisoformat(entry["at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["press", "Press"], "share a folder"),
        (["a.b-c_1", "A.B-C_1"], None),
        (["x" * 300, "x" * 299 + "y"], None),
        (["press", "press_2", "press.3", "press-4", "0"], None),
        (["../up"], "no valid name"),
        ([".hidden"], "no valid name"),
        (["Linie 3"], "no valid name"),
        (["a\nb"], "no valid name"),
        ([""], "no valid name"),
        (["press\u0301"], "no valid name"),
    ],
)
def test_the_names_of_lines_are_closed_and_no_two_share_a_folder(
    tmp_path: Path, names: list[str], word: str | None
) -> None:
    block = {"folder": "in", "alpha": 0.1}
    content = {"schema": 1, "timezone": "UTC", "lines": dict.fromkeys(names, block)}
    (tmp_path / "plant.yaml").write_text(json.dumps(content), encoding="utf-8")
    if word is None:
        assert list(read_plant(tmp_path).lines) == names
        return
    with pytest.raises(ConfigurationError, match=word) as refusal:
        read_plant(tmp_path)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("place", ["in/plant", "in", "link/plant"])
def test_a_ledger_inside_an_inbox_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ConfigurationError, match="inside the folder of line `press`"):
        plants.night({"press": plants.line(tmp_path / "in")}, tmp_path / place)
    assert not list((tmp_path / "in").rglob("ledger/*"))
