"""What is written is whole or not there, wherever a run is killed and whatever the disk refuses."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from admodels.foundation.files import durable_folder, whole_file, whole_folder, write_json

ROOT = Path(__file__).parents[1]


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text("utf-8")
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("write_folder", [whole_folder, durable_folder])
def test_a_folder_takes_the_place_of_the_one_before(write_folder, tmp_path: Path) -> None:
    for name in ("old", "new"):
        with write_folder(tmp_path / "deep/out") as folder:
            (folder / name).write_text(name, encoding="utf-8")
    assert tree(tmp_path) == {"deep/out/new": "new"}


def test_what_a_killed_run_left_is_not_taken_over(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), whole_folder(tmp_path / "out") as folder:
        raise SystemExit
    folder.mkdir()
    (folder / "half").write_text("half", encoding="utf-8")
    with whole_folder(tmp_path / "out") as again:
        (again / "whole").write_text("whole", encoding="utf-8")
    assert tree(tmp_path) == {"out/whole": "whole"}


def test_a_file_or_a_link_in_the_place_of_a_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("kept", encoding="utf-8")
    (tmp_path / "file").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling"):
        with whole_folder(tmp_path / name) as folder:
            (folder / "new").write_text("new", encoding="utf-8")
    assert tree(tmp_path) == {
        "elsewhere/kept": "kept",
        "file/new": "new",
        "link/new": "new",
        "dangling/new": "new",
    }


@pytest.mark.slow
def test_nobody_sees_half_of_the_folder_that_goes(tmp_path: Path) -> None:
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with suppress(FileNotFoundError):  # a list may end in another folder than it began
                before = (tmp_path / "out").stat().st_ino
                count = len(os.listdir(tmp_path / "out"))  # noqa: PTH208  one look
                if (tmp_path / "out").stat().st_ino == before:
                    seen.add(count)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        with whole_folder(tmp_path / "out") as folder:
            for number in range(1000):
                (folder / str(number)).touch()
    done.set()
    watcher.join()
    assert seen == {1000}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def interrupted_folder(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt


def interrupted_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "out/old") as file:
        file.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [interrupted_folder, interrupted_file])
def test_an_interruption_leaves_what_was_there_and_nothing_else(interrupted, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    assert tree(tmp_path) == {"out/old": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


class Killed(BaseException):
    """The process is dead: from here on no call changes the disk."""


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
fault: dict[str, object] = {"at": None, "kind": "", "calls": []}


def fail_at_a_call(event: str, arguments: tuple[object, ...]) -> None:
    """Python's audit hook: it runs before a call, which does not happen if this raises."""
    if fault["at"] is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY
    if event not in CHANGES and not writes:
        return
    fault["calls"].append(event)
    number = len(fault["calls"]) - 1
    if fault["kind"] == "kill" and number >= fault["at"]:
        raise Killed
    if fault["kind"] == "refusal" and number == fault["at"]:
        raise OSError(errno.ENOSPC, "No space left on device")


sys.addaudithook(fail_at_a_call)


@contextmanager
def fault_before_call(number: int, kind: str) -> Iterator[list[str]]:
    """The names of the calls that change the disk, up to the one with this number."""
    calls: list[str] = []
    fault.update(at=number, kind=kind, calls=calls)
    try:
        yield calls
    finally:
        fault.update(at=None)


FILES = ("0", "1")


def write_version(target: Path, version: str) -> None:
    """Write `version`; whatever was done to the runs before, a whole older one stands there."""
    older = {*fault["whole"]}
    with whole_folder(target) as folder:
        assert version_of(target) in older
        for name in FILES:
            (folder / name).write_text(version, encoding="utf-8")


def version_of(target: Path) -> str:
    """The version of a whole folder; "nothing" or "half" otherwise."""
    content = tree(target) if target.exists() else {}
    if not content:
        return "nothing"
    return content["0"] if set(content) == set(FILES) and len({*content.values()}) == 1 else "half"


def runs_with_a_fault(target: Path, version: str, kind: str) -> Iterator[list[str]]:
    """One run for each of its calls: that one fails; the folder is as it was before each run."""
    stored = target.parent.with_name("stored")
    shutil.rmtree(stored, ignore_errors=True)
    shutil.copytree(target.parent, stored)
    for number in range(100):
        shutil.rmtree(target.parent)
        shutil.copytree(stored, target.parent)
        with fault_before_call(number, kind) as calls, suppress(Killed, OSError):
            write_version(target, version)
        reached_its_end = len(calls) <= number
        assert not reached_its_end or version_of(target) == version
        yield calls
        if reached_its_end:
            return
    raise AssertionError("a run has fewer calls")


def place_with_a_version(tmp_path: Path) -> Path:
    target = tmp_path / "place/out"
    fault["whole"] = {"nothing"}
    write_version(target, "old")
    fault["whole"] = {"old"}
    return target


@pytest.mark.slow
def test_no_kill_loses_both_versions_nor_does_another_one_in_the_next_run(tmp_path: Path) -> None:
    target = place_with_a_version(tmp_path)
    pairs, calls = 0, []
    for calls in runs_with_a_fault(target, "new", "kill"):  # noqa: B007
        first = tmp_path / "first"
        shutil.rmtree(first, ignore_errors=True)
        shutil.copytree(target.parent, first / "place")
        fault["whole"] = {"old", "new"}
        for _ in runs_with_a_fault(first / "place/out", "newer", "kill"):
            fault["whole"] = {"old", "new", "newer"}
            write_version(first / "place/out", "newest")
            assert tree(first / "place") == {f"out/{name}": "newest" for name in FILES}
            fault["whole"] = {"old", "new"}
            pairs += 1
        fault["whole"] = {"old"}
    begin, write, exchange = ["os.remove", "os.mkdir"], ["open", "open"], ["os.rename"] * 2
    clean_up = ["os.remove", "os.rename", "os.remove", "os.remove", "os.rmdir"]
    assert calls == [*begin, *write, *exchange, *clean_up]
    assert pairs > len(calls) ** 2


def test_a_version_that_only_half_went_never_comes_back(tmp_path: Path) -> None:
    target = place_with_a_version(tmp_path)
    versions = []
    for _ in runs_with_a_fault(target, "new", "kill"):
        shutil.rmtree(target, ignore_errors=True)  # as DVC does before it runs a stage again
        with suppress(KeyboardInterrupt), whole_folder(target):
            raise KeyboardInterrupt
        versions.append(version_of(target))
    assert set(versions) == {"nothing", "old"}
    assert len(versions) > 10


def test_whatever_the_disk_refuses_the_old_or_the_new_version_stands_at_once(tmp_path) -> None:
    target = place_with_a_version(tmp_path)
    versions = [version_of(target) for _ in runs_with_a_fault(target, "new", "refusal")]
    assert set(versions) == {"old", "new"}
    assert len(versions) > 10


CODE = """
import os, sys
from pathlib import Path
from admodels.foundation.files import whole_folder

left = int(sys.argv[1])

def die(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        left -= 1
        if left < 0:
            os._exit(9)

sys.addaudithook(die)
with whole_folder(Path("out")) as folder:
    Path(folder, "file").write_text("new")
"""


@pytest.mark.slow
def test_a_process_that_dies_between_two_calls_leaves_a_version_for_the_next(tmp_path) -> None:
    codes = []
    for number in range(10):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        (tmp_path / "out/file").write_text("old", encoding="utf-8")
        words = [sys.executable, "-c", CODE, str(number)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        codes.append(subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode)
        with suppress(KeyboardInterrupt), whole_folder(tmp_path / "out"):
            raise KeyboardInterrupt
        assert tree(tmp_path) == {"out/file": "old" if number < 4 else "new"}
    assert codes == [9] * 8 + [0] * 2


def test_json_has_sorted_keys_and_readable_names(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"b": 1, "a": "Riss \u00e4"})
    text = (tmp_path / "new/a.json").read_bytes().decode("utf-8")
    assert text == '{\n  "a": "Riss \u00e4",\n  "b": 1\n}\n'
