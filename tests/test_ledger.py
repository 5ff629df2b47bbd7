"""The ledger: only new bytes are scored, nothing is lost, doubled or half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from admodels.bundles.bundle import Bundle
from admodels.foundation.errors import BusyError, ConfigurationError, StorageError
from admodels.scoring import engine, merging, tables
from admodels.scoring.discover import State, is_settled
from admodels.scoring.engine import Counts, LineImages, Model, score_line
from admodels.scoring.index import open_part
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import folder_name
from admodels.scoring.stopping import Stop
from tests import cards
from tests.cards import card, make_bundle

ROOT = Path(__file__).parents[1]


def night(place: Path, bundle: Bundle | None = None, **changes: object) -> Counts:
    """One run over `place/in` into `place/ledger`."""
    source = LineImages(**{"line": "press", "folder": place / "in"} | changes)
    with open_ledger(place / "ledger") as ledger:
        return score_line(ledger, source, Model.of(bundle or make_bundle()), Stop())


def rows(place: Path) -> pd.DataFrame:
    """What plain pandas makes of the ledger."""
    return pd.read_parquet(place / "ledger" / "scores").sort_values(["line", "path"])


def scored(bundle: Bundle) -> int:
    """How many chunks went through the detector."""
    return len(bundle.detector.chunks)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of six images and a text, scored once."""
    for at in range(6):
        card(tmp_path / "in" / f"{at}.png", 50 + at)
    (tmp_path / "in" / "notes.txt").write_text("shift 3", encoding="utf-8")
    night(tmp_path)
    return tmp_path


def test_the_next_run_scores_what_is_new_and_nothing_else(place: Path) -> None:
    card(place / "in" / "new.png", 99)
    bundle = make_bundle()
    counts = night(place, bundle)
    assert (counts.old, dict(counts.statuses)) == (7, {"scored": 1})
    assert scored(bundle) == 1
    assert list(rows(place)["path"]) == sorted(p.name for p in (place / "in").iterdir())


def test_a_run_with_nothing_new_loads_no_bundle_and_writes_no_part(place: Path) -> None:
    before = sorted((place / "ledger").rglob("*.parquet"))
    model = replace(Model.of(make_bundle()), load=None)
    with open_ledger(place / "ledger") as ledger:
        assert score_line(ledger, LineImages("press", place / "in"), model, Stop()).old == 7
    assert sorted((place / "ledger").rglob("*.parquet")) == before


def test_a_renamed_and_a_copied_file_get_rows_that_reuse_the_score(place: Path) -> None:
    (place / "in" / "0.png").rename(place / "in" / "renamed.png")
    shutil.copyfile(place / "in" / "1.png", place / "in" / "copy.png")
    bundle = make_bundle()
    assert night(place, bundle).reused == 2
    assert scored(bundle) == 0
    found = rows(place).set_index("path")
    assert found.loc[["renamed.png", "copy.png", "0.png"], "anomaly_score"].tolist() == [50, 51, 50]
    assert found["reused"].sum() == 2


def test_the_same_bytes_on_another_line_are_not_scored_again(place: Path) -> None:
    bundle = make_bundle()
    assert night(place, bundle, line="weld").reused == 6
    assert scored(bundle) == 0
    assert len(rows(place)) == 14


def test_another_model_scores_everything_anew(place: Path) -> None:
    bundle = replace(make_bundle(), model_fingerprint="n" * 16)
    assert night(place, bundle).statuses["scored"] == 6
    assert night(place).old == 7  # and the first one's rows are still there


def test_a_changed_file_gets_a_second_row(place: Path) -> None:
    card(place / "in" / "0.png", 200)
    night(place)
    assert rows(place).query("path == '0.png'")["anomaly_score"].tolist() == [50, 200]


def test_a_file_that_only_looks_new_has_its_row_already(place: Path) -> None:
    os.utime(place / "in" / "0.png", (1, 1))
    bundle = make_bundle()
    assert night(place, bundle).old == 7
    assert scored(bundle) == 0
    assert len(rows(place)) == 7


def test_what_looks_unchanged_is_read_again_only_with_rehash(place: Path) -> None:
    path = place / "in" / "0.png"
    looks = path.stat()
    other = card(place / "other.png", 60).read_bytes()
    assert len(other) == looks.st_size
    with path.open("r+b") as file:  # the same inode
        file.write(other)
    os.utime(path, ns=(looks.st_atime_ns, looks.st_mtime_ns))
    assert night(place).old == 7
    counts = night(place, rehash=True)
    assert (counts.old, counts.statuses["scored"]) == (6, 1)


def test_what_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    card(tmp_path / "in" / "a.png", 50)
    (tmp_path / "in" / "late.png").symlink_to("there.png")
    night(tmp_path)
    night(tmp_path)
    assert rows(tmp_path)["status"].tolist() == ["scored", "vanished"]
    card(tmp_path / "in" / "there.png", 70)
    night(tmp_path)
    assert sorted(rows(tmp_path)["status"]) == ["scored", "scored", "scored", "vanished"]


def test_storage_that_failed_is_asked_again_though_the_file_looks_the_same(
    tmp_path: Path, monkeypatch
) -> None:
    path = card(tmp_path / "in" / "a.png", 50)
    really = os.open

    def failing(name: object, *words: object, **more: object) -> int:
        if name == path.name:
            raise OSError(5, "Input/output error")
        return really(name, *words, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        assert night(tmp_path).statuses == {"unreadable": 1}
        assert night(tmp_path).old == 1  # it has its row, but not for good
    assert night(tmp_path).statuses == {"scored": 1}


@pytest.mark.parametrize("harm", ["lost", "garbage", "truncated"])
def test_a_harmed_index_is_made_again_from_the_parts(place: Path, harm: str) -> None:
    index = place / "ledger" / "index.sqlite"
    if harm == "lost":
        index.unlink()
    elif harm == "garbage":
        index.write_bytes(b"no database" * 100)
    else:
        index.write_bytes(index.read_bytes()[:5000])
    bundle = make_bundle()
    assert night(place, bundle).old == 7
    assert scored(bundle) == 0
    assert len(rows(place)) == 7


def test_a_part_that_the_index_has_not_seen_is_taken_in(place: Path) -> None:
    shutil.copyfile(place / "ledger" / "index.sqlite", place / "before.sqlite")
    card(place / "in" / "new.png", 99)
    night(place)
    shutil.copyfile(place / "before.sqlite", place / "ledger" / "index.sqlite")
    bundle = make_bundle()
    assert night(place, bundle).old == 8
    assert scored(bundle) == 0


def test_the_images_of_a_part_that_is_gone_are_scored_again(place: Path) -> None:
    shutil.rmtree(place / "ledger" / "scores")
    assert night(place).statuses["scored"] == 6
    assert len(rows(place)) == 7


def test_what_a_killed_run_had_not_finished_writing_is_cleared_away(place: Path) -> None:
    half = place / "ledger" / "writing" / "1.0002.parquet"
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"PAR1")
    assert night(place).old == 7
    assert not half.exists()


def test_a_damaged_part_is_named_and_nothing_is_done(place: Path) -> None:
    (part,) = (place / "ledger" / "scores").rglob("*.parquet")
    part.write_bytes(part.read_bytes()[:200])
    (place / "ledger" / "index.sqlite").unlink()
    with pytest.raises(StorageError, match=r"0001\.parquet"):
        night(place)
    pd.DataFrame({"x": [1]}).to_parquet(part)
    with pytest.raises(StorageError, match="other columns"):
        night(place)


@pytest.mark.parametrize(("held", "expected"), [(256, [4, 3]), (1, [2, 2, 2, 1])])
def test_many_parts_of_a_run_become_one_with_the_same_rows(
    place: Path, monkeypatch, held: int, expected: list[int]
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)
    monkeypatch.setattr(merging, "HELD", held)
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 4)
    night(place, line="weld")
    before = rows(place)
    with open_ledger(place / "ledger") as ledger:
        assert len(ledger.parts("weld")) == 4
        ledger.compact("weld")
        (merged,) = ledger.parts("weld")
    with pq.ParquetFile(merged) as file:
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert groups == expected
    assert rows(place).reset_index(drop=True).equals(before.reset_index(drop=True))
    bundle = make_bundle()
    assert night(place, bundle, line="weld").old == 7
    assert scored(bundle) == 0


@pytest.mark.parametrize("table", ["scores", "appearance", "regions"])
def test_a_compaction_that_died_between_its_renames_is_finished(place: Path, table: str) -> None:
    ledger = place / "ledger"
    home = ledger / table / "press" / "000001"
    new = ledger / "compacting" / table / "press" / "000001"
    shutil.copytree(home, new)
    home.rename(new.with_suffix(".old"))
    before = len(list(ledger.rglob("*.parquet")))
    assert night(place).old == 7
    assert (before, len(list(ledger.rglob("*.parquet")))) == (4, 3)
    assert home.is_dir()
    assert not (ledger / "compacting").exists()
    shutil.copytree(home, new)  # and one that died before them is forgotten
    assert night(place).old == 7
    assert not (ledger / "compacting").exists()


@pytest.mark.parametrize(
    ("name", "age", "settled"),
    [
        ("a.png", 61, True),
        ("a.png", 10, False),
        ("a.png", -10, False),  # the storage's clock is a little ahead
        ("a.png", -86400, True),  # a wrong clock says nothing
        ("a.png.part", 86400, False),
        ("a.PNG.TMP", 86400, False),
    ],
)
def test_a_file_that_is_still_being_written_looks_so(name: str, age: int, settled: bool) -> None:
    now = 1_700_000_000.0
    assert is_settled(name, State("s", int((now - age) * 1e9), 0), now, 60) is settled


def test_unsettled_files_wait_for_the_next_run(place: Path, monkeypatch) -> None:
    card(place / "in" / "young.png", 99)
    card(place / "in" / "copying.png", 98).rename(place / "in" / "copying.png.part")
    counts = night(place, settle_seconds=60)
    assert (counts.old, counts.unsettled, dict(counts.statuses)) == (7, 2, {})
    os.utime(place / "in" / "young.png", (1, 1))  # a copy may bring the time of the original
    assert night(place, settle_seconds=60).unsettled == 2
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert night(place, settle_seconds=60).statuses["scored"] == 1


def test_a_file_that_grows_while_it_is_read_waits(tmp_path: Path, monkeypatch) -> None:
    path = card(tmp_path / "in" / "a.png", 50)
    looks = os.fstat
    sizes = iter([path.stat().st_size])

    def growing(opened_file: int) -> os.stat_result:
        if next(sizes, None) is None:
            with path.open("ab") as file:
                file.write(b"more")
        return looks(opened_file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", growing)
        counts = night(tmp_path)
    assert (counts.unsettled, dict(counts.statuses)) == (1, {})
    assert night(tmp_path).statuses.total() == 1


def test_only_files_that_match_the_pattern_belong_to_the_line(tmp_path: Path) -> None:
    for name in ("cam1/a.png", "cam1/deep/b.png", "cam2/a.png"):
        card(tmp_path / "in" / name, 50)
    assert night(tmp_path, pattern="cam1/*").paths == ["cam1/a.png", "cam1/deep/b.png"]
    assert len(rows(tmp_path)) == 2


@pytest.mark.slow
def test_two_runs_at_once_are_refused_and_a_dead_one_holds_nothing(place: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from admodels.scoring.ledger import open_ledger\n"
        f"with open_ledger(Path({str(place / 'ledger')!r})):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"process {other.pid} on "):
        night(place)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert night(place).old == 7


def test_a_ledger_that_everybody_may_write_to_is_refused(place: Path) -> None:
    (place / "ledger").chmod(0o777)
    with pytest.raises(ConfigurationError, match="chmod o-w"):
        night(place)
    shutil.rmtree(place / "ledger")
    night(place)
    assert (place / "ledger").stat().st_mode & 0o027 == 0


@pytest.mark.parametrize("line", ["../../etc", "Linie 3", "\u65e5\u672c", "x" * 300, ".hidden"])
def test_a_line_s_name_cannot_leave_the_ledger_or_meet_another(tmp_path: Path, line: str) -> None:
    assert "/" not in folder_name(line)
    assert len(folder_name(line)) < 64
    assert folder_name(line)[0] != "."
    assert folder_name(line) not in (folder_name(line + "x"), "press")
    assert folder_name("press") == "press"


def test_the_number_of_a_run_never_comes_twice(place: Path) -> None:
    with open_ledger(place / "ledger") as ledger:
        assert ledger.run == "000002"
        ledger.finish({})
    shutil.rmtree(place / "ledger" / "scores" / "press")
    with open_ledger(place / "ledger") as ledger:
        assert ledger.run == "000003"


def test_a_device_that_is_full_loses_nothing(place: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    card(place / "in" / "new.png", 99)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            night(place)
    assert len(rows(place)) == 7
    assert not list((place / "ledger").rglob("*.partial"))
    assert night(place).statuses["scored"] == 1


def test_a_run_that_is_asked_to_stop_keeps_what_it_has_scored(tmp_path: Path) -> None:
    for at in range(100):
        card(tmp_path / "in" / f"{at:03d}.png", 50 + at)
    bundle, stop = make_bundle(), Stop()
    inner = bundle.detector.score

    def score_and_stop(images, inspected=None):
        stop.signal = signal.SIGTERM
        return inner(images, inspected)

    bundle.detector.score = score_and_stop
    with open_ledger(tmp_path / "ledger") as ledger:
        score_line(ledger, LineImages("press", tmp_path / "in"), Model.of(bundle), stop)
    kept = rows(tmp_path)
    assert len(kept) == 4  # the chunk that was at hand
    assert night(tmp_path).old == 4
    assert len(rows(tmp_path)) == 100


@pytest.mark.slow
def test_kills_at_random_moments_lose_double_and_halve_nothing() -> None:
    words = [sys.executable, "-m", "benchmarks.kills", "--files", "250", "--kills", "5"]
    start = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert (told["kills"], told["faults"]) == (5, []), f"{told}, {time.monotonic() - start} s"


def test_the_ledger_of_a_folder_with_mischief_has_a_row_for_every_file(tmp_path: Path) -> None:
    folder = cards.inbox(tmp_path)
    folder.rename(tmp_path / "in")
    night(tmp_path)
    night(tmp_path)
    found = rows(tmp_path)
    assert dict(zip(found["path"], found["status"], strict=True)) == cards.EXPECTED


def test_a_file_dated_beyond_64_bits_stops_no_line(place: Path) -> None:
    far = card(place / "in" / "far.png", 77)
    try:
        os.utime(far, (10_400_000_000, 10_400_000_000))
    except OSError as error:
        pytest.skip(f"this file system cannot hold the date: {error}")
    assert night(place).statuses == {"scored": 1}
    (seen,) = (place / "ledger" / "appearance").glob("*/000002/*.parquet")
    assert pd.read_parquet(seen)["mtime_ns"].tolist() == [min(far.stat().st_mtime_ns, 2**63 - 1)]


@pytest.mark.parametrize("table", ["scores", "appearance", "regions"])
def test_a_compaction_that_cannot_put_the_new_in_place_puts_the_old_back(
    place: Path, monkeypatch, table: str
) -> None:
    monkeypatch.setattr(engine, "ROWS_PER_PART", 2)
    night(place, line="weld")
    before, rename = rows(place), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if {"compacting", table} <= {*self.parts} and self.suffix != ".old":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with open_ledger(place / "ledger") as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", failing)
            with pytest.raises(OSError, match="Input"):
                ledger.compact("weld")
        assert rows(place).equals(before)
        assert len(pd.read_parquet(place / "ledger" / "appearance")) == 12
        ledger.compact("press")
        ledger.compact("weld")
        assert len(ledger.parts("weld")) == 1
    assert rows(place).reset_index(drop=True).equals(before.reset_index(drop=True))


def test_a_long_part_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    schema, rng = pa.schema([pa.field("x", pa.float64())]), np.random.default_rng(0)
    groups = (pa.table({"x": rng.random(tables.ROWS_PER_GROUP)}, schema) for _ in range(40))
    path = tmp_path / "long.parquet"
    tables.write(path, schema, groups)
    before, held = pa.total_allocated_bytes(), []
    with open_part(path, schema) as file:
        for _ in file.iter_batches(tables.ROWS_PER_GROUP):
            held.append(pa.total_allocated_bytes() - before)
    for _ in tables.read(path):
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 80
    assert max(held) < 0.2 * path.stat().st_size


def test_tables_take_their_memory_from_the_system() -> None:
    """Another allocator keeps several times what it used: see the comment in `admodels`."""
    code = (
        "from admodels import cli; import pyarrow as a; print(a.default_memory_pool().backend_name)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "system"
