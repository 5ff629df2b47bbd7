"""What is written is whole or not there."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from admodels.foundation.files import whole_file, whole_folder, write_json


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text("utf-8")
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with whole_folder(tmp_path / "deep/out") as folder:
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


def test_nobody_sees_half_of_the_folder_that_goes(tmp_path: Path) -> None:
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with suppress(FileNotFoundError):
                seen.add(len(os.listdir(tmp_path / "out")))  # noqa: PTH208  one look

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


def test_json_has_sorted_keys_and_readable_names(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"b": 1, "a": "Riss \u00e4"})
    text = (tmp_path / "new/a.json").read_bytes().decode("utf-8")
    assert text == '{\n  "a": "Riss \u00e4",\n  "b": 1\n}\n'
