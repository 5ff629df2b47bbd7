"""What is seen of long work, and that short work is not seen."""

import os
import pty
import re
import subprocess
import sys
import termios
import zipfile
from pathlib import Path

import numpy as np
import pytest

from admodels.foundation import progress as progresses
from admodels.foundation.logs import log_as
from admodels.foundation.progress import Progress, progress
from admodels.images import decode
from admodels.images.load import load_textures
from admodels.sources import download, fetch

Told = pytest.CaptureFixture[str]
LARGE = np.random.default_rng(0).bytes(3 * download.MIB // 2)  # does not compress


@pytest.fixture(autouse=True)
def plain_messages() -> None:
    log_as("plain")


@pytest.fixture
def nothing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "SHORT_SECONDS", 0.0)


@pytest.mark.usefixtures("nothing_is_short")
def test_off_a_terminal_it_is_about_ten_lines_and_ends_with_the_total(capsys: Told) -> None:
    assert list(progress(range(1000), 1000, "count")) == list(range(1000))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"count: 1000/1000 after 0 s, [\d.e+]+/s, 0 s left", lines[-1])


@pytest.mark.usefixtures("nothing_is_short")
def test_chunked_work_off_a_terminal_is_told_too(capsys: Told) -> None:
    shown = Progress(70, "count")
    for done in (16, 32, 48, 64, 70):
        shown.at(done)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        *("16/70", "32/70", "48/70", "64/70", "70/70")
    ]


def test_short_work_says_nothing(capsys: Told) -> None:
    assert list(progress(range(1000), 1000, "count")) == list(range(1000))
    assert capsys.readouterr() == ("", "")


def test_work_becomes_visible_once_it_is_long(
    capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for done in progress(range(1, 101), 100, "count"):
        if done == 73:
            monkeypatch.setattr(progresses, "SHORT_SECONDS", 0.0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["73/100", "80/100", "90/100", "100/100"]


@pytest.mark.usefixtures("nothing_is_short")
def test_nothing_to_do_and_an_unknown_total_are_no_fault(capsys: Told) -> None:
    assert list(progress([], 0, "count")) == []
    Progress(0, "download").at(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "seen"), [(0.0, True), (2.0, False)])
def test_a_terminal_gets_a_bar_unless_the_work_is_short(seconds: float, seen: bool) -> None:
    code = (
        "from admodels.foundation import logs, progress as p; logs.log_as('plain')\n"
        f"p.SHORT_SECONDS = {seconds}\n"
        "list(p.progress(range(50), 50, 'count'))"
    )
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    os.write(terminal, b"end")
    shown = ""
    while not shown.endswith("end"):
        shown += os.read(ours, 1000).decode()
    os.close(ours)
    os.close(terminal)
    assert ("count: 100%" in shown) is seen
    assert (shown == "end") is not seen


def fetched(archive: Path, tmp_path: Path) -> None:
    fetch.fetch(fetch.pin_source(str(archive)), "", tmp_path / "raw/task")


@pytest.mark.usefixtures("nothing_is_short")
def test_fetching_shows_how_far_it_is(
    tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # downloads are kept there
    folder = tmp_path / "origin"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(LARGE)
    fetched(folder, tmp_path)
    told = capsys.readouterr().err
    assert told.count("hash files: 2/2 ") == 2  # to pin it, and what has come
    assert told.count("copy files: 2/2 ") == 1
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    fetched(tmp_path / "a.zip", tmp_path)
    assert "extract files: 2/2 " in capsys.readouterr().err
    subprocess.run(["tar", "czf", "a.tar.gz", "origin"], cwd=tmp_path, check=True)
    fetched(tmp_path / "a.tar.gz", tmp_path)
    assert "extract, MiB read: 1/3 " in capsys.readouterr().err
    assert fetch.pin_source((tmp_path / "a.zip").as_uri()).kind == "url"
    assert "download, MiB: 3/3 " in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_short")
def test_decoding_shows_how_far_it_is(tmp_path: Path, capsys: Told) -> None:
    for name in ("a.png", "b.png"):
        decode.write_png(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    load_textures(tmp_path, (4, 4))
    assert "read textures: 2/2 " in capsys.readouterr().err
