"""A folder that is written to while it is read: nothing outside is read, nothing blocks."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admodels.foundation.errors import ConfigurationError
from admodels.scoring.discover import (
    LOCK_SUFFIXES,
    Refused,
    State,
    Status,
    file_name,
    is_settled,
    path_text,
)
from admodels.scoring.engine import LineImages, Model
from admodels.scoring.inbox import Folder, same_contents
from admodels.scoring.single import score_folder
from tests.cards import card, make_bundle, table


def status_of(folder: Path, name: str) -> Status | None:
    try:
        Folder(folder).read(name)
    except Refused as refusal:
        return refusal.status
    return None


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("b.png", None),
        ("deep/../deep/./b.png", None),
        ("{root}/deep/b.png", None),
        ("inner/b.png", None),  # over a link to a folder
        ("inner/../b.png", None),  # the folder above what the link leads to
        ("../secret/plan.png", Status.OUTSIDE_FOLDER),
        ("deep/../../secret/plan.png", Status.OUTSIDE_FOLDER),
        ("{root}/../secret/plan.png", Status.OUTSIDE_FOLDER),
        ("{root}-2/plan.png", Status.OUTSIDE_FOLDER),  # a name that begins alike
        ("/etc/hostname", Status.OUTSIDE_FOLDER),
        ("out/plan.png", Status.OUTSIDE_FOLDER),
        ("deep", Status.NOT_AN_IMAGE),
        (".", Status.NOT_AN_IMAGE),
    ],
)
def test_a_link_is_followed_below_the_folder_and_never_out_of_it(
    tmp_path: Path, target: str, status: Status | None
) -> None:
    root = tmp_path / "in"
    for file in (root / "b.png", root / "deep/b.png", tmp_path / "secret/plan.png"):
        card(file, 60)
    card(tmp_path / "in-2/plan.png", 60)
    (root / "inner").symlink_to("deep")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "link.png").symlink_to(target.format(root=root))
    assert status_of(root, "link.png") == status
    (tmp_path / "entry").symlink_to(root)  # the inbox itself may be a link
    assert status_of(tmp_path / "entry", "link.png") == status


def test_a_link_in_the_middle_of_a_path_is_resolved_as_well(tmp_path: Path) -> None:
    card(tmp_path / "in/deep/er/b.png", 60)
    card(tmp_path / "secret/b.png", 60)
    (tmp_path / "in/short").symlink_to("deep/er")
    (tmp_path / "in/out").symlink_to("../secret")
    assert status_of(tmp_path / "in", "short/b.png") is None
    assert status_of(tmp_path / "in", "out/b.png") == Status.OUTSIDE_FOLDER
    assert status_of(tmp_path / "in", "../secret/b.png") == Status.OUTSIDE_FOLDER


def test_no_pipe_socket_or_device_blocks_or_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket.png")
        os.close(here)
        for name in ("pipe.png", "link.png", "socket.png"):
            assert status_of(tmp_path, name) == Status.NOT_AN_IMAGE
    assert status_of(Path("/dev"), "zero") == Status.NOT_AN_IMAGE


def test_a_file_that_becomes_a_pipe_between_two_looks_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = card(tmp_path / "a.png", 60)
    look = os.stat

    def exchange(*words: object, **options: object) -> os.stat_result:
        status = look(*words, **options)
        if "dir_fd" in options:
            path.unlink()
            os.mkfifo(path)
        return status

    monkeypatch.setattr(os, "stat", exchange)
    assert status_of(tmp_path, "a.png") == Status.NOT_AN_IMAGE


def test_a_folder_that_becomes_a_link_between_two_looks_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(tmp_path / "in/cam/a.png", 60)
    card(tmp_path / "secret/a.png", 61)
    look = os.readlink

    def exchange(name: str, **options: int) -> str:
        try:
            return look(name, **options)
        finally:
            if name == "cam" and not (tmp_path / "in/old").exists():
                (tmp_path / "in/cam").rename(tmp_path / "in/old")
                (tmp_path / "in/cam").symlink_to("../secret")

    monkeypatch.setattr(os, "readlink", exchange)
    with pytest.raises(OSError, match="Not a directory"):
        Folder(tmp_path / "in").read("cam/a.png")


def test_a_folder_that_is_exchanged_with_a_link_is_never_read_through_it(tmp_path: Path) -> None:
    inside = card(tmp_path / "in/cam/a.png", 60).read_bytes()
    card(tmp_path / "secret/a.png", 61)
    (tmp_path / "in/other").symlink_to("../secret")
    cam, other, spare = (tmp_path / "in" / name for name in ("cam", "other", "spare"))
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for source, target in ((cam, spare), (other, cam), (cam, other), (spare, cam)):
                source.rename(target)

    thread = threading.Thread(target=exchange)
    thread.start()
    seen = set()
    try:
        for reads in range(20_000):
            if reads > 500 and seen == {inside, b""}:
                break
            try:
                seen.add(Folder(tmp_path / "in").read("cam/a.png"))
            except (Refused, OSError):
                seen.add(b"")
    finally:
        stop.set()
        thread.join()
    assert seen == {inside, b""}


def test_a_read_asks_for_the_size_of_its_file_and_no_more(tmp_path: Path) -> None:
    path = card(tmp_path / "a.png", 60)
    data = path.read_bytes()
    assert Folder(tmp_path).read("a.png", len(data)) == data
    with pytest.raises(Refused, match="bytes, more than") as refusal:
        Folder(tmp_path).read("a.png", len(data) - 1)
    assert refusal.value.status == Status.TOO_LARGE


def test_one_descriptor_is_open_whatever_the_depth(tmp_path: Path) -> None:
    name = "/".join(["d"] * 200) + "/a.png"
    card(tmp_path / name, 60)
    before = open_descriptors()
    with Folder(tmp_path)._find(name):
        assert open_descriptors() == before + 1
    assert open_descriptors() == before
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path).read("d/d/gone.png")
    assert open_descriptors() == before


@pytest.fixture
def cellar(tmp_path: Path) -> Iterator[Path]:
    """A folder that is taken away as no function of Python, nor pytest, can."""
    yield tmp_path / "cellar"
    subprocess.run(["rm", "-r", tmp_path / "cellar"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "folder"), [(1_100, "d"), (60, "a long name" * 20)])
def test_folders_may_be_nested_deeper_than_a_call_stack_or_a_path(
    cellar: Path, depth: int, folder: str
) -> None:
    cellar.mkdir()
    place = os.open(cellar, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(folder, dir_fd=place)
        inner = os.open(folder, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    data = card(cellar / "a.png", 60).read_bytes()
    descriptor = os.open("b.png", os.O_WRONLY | os.O_CREAT, dir_fd=place)
    os.write(descriptor, data)
    os.close(descriptor)
    os.close(place)
    inbox, deep = Folder(cellar), f"{folder}/" * depth + "b.png"
    assert inbox.files().names == sorted(["a.png", deep])
    assert inbox.read(deep) == data
    assert inbox.state(deep).stamp.startswith(f"{len(data)}:")


def test_listing_opens_each_nested_folder_a_few_times_whatever_the_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{'f/' * depth}{depth}.png" for depth in range(200)]
    (tmp_path / names[-1]).parent.mkdir(parents=True)
    for name in names:
        (tmp_path / name).touch()
    opened: list[object] = []
    whole = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a) or whole(*a, **k))
    assert Folder(tmp_path).files().names == sorted(names)
    assert len(opened) <= 2 * 200 + 1


def test_two_files_never_have_one_name(tmp_path: Path) -> None:
    names = [b"a\xff.png", rb"a\xff.png", rb"a\x5cxff.png", rb"a\x41.png", b"a\\.png", b"a\\\xff"]
    printed = [path_text(os.fsdecode(name)) for name in names]
    assert len(set(printed)) == len(names)
    assert printed[0] == r"a\xff.png"  # as in older ledgers
    assert printed[3:5] == [r"a\x41.png", "a\\.png"]
    assert [os.fsencode(file_name(name)) for name in printed] == names
    for level, name in enumerate(names[:2]):
        path = Path(os.fsdecode(bytes(tmp_path / "in") + b"/" + name))
        card(tmp_path / "in/x.png", 70 + level).rename(path)
    images = LineImages("press", tmp_path / "in")
    score_folder(images, Model.of(make_bundle()), tmp_path / "out", alpha=0.2)
    rows = table(tmp_path / "out")
    assert rows["anomaly_score"].to_dict() == {r"a\x5cxff.png": 71.0, r"a\xff.png": 70.0}
    for path, sha256 in rows["image_sha256"].items():
        assert same_contents(images.inbox, path, sha256) is not None


@given(st.lists(st.sampled_from([b"\\", b"x", b"5", b"c", b"f", b"\xff", b"\xc3\xa4", b"\x80"])))
@settings(max_examples=300, deadline=None)
def test_every_name_has_a_way_back(letters: list[bytes]) -> None:
    name = os.fsdecode(b"".join(letters))
    path_text(name).encode("utf-8")
    assert file_name(path_text(name)) == name


def test_a_rename_or_a_copy_of_an_old_file_is_unsettled_for_as_long(tmp_path: Path) -> None:
    path = card(tmp_path / "a.png", 60)
    os.utime(path, (1, 1))  # as `cp -p` and rsync leave it, the moment that it arrives
    now = path.stat().st_ctime
    state = Folder(tmp_path).state("a.png")
    assert not is_settled("a.png", state, now + 59, 60)
    assert is_settled("a.png", state, now + 61, 60)
    assert is_settled("a.png", State("s", 0, 0), now, 60)
    assert not is_settled(f"a.png{LOCK_SUFFIXES[0]}", state, now + 61, 60)


def test_what_a_network_store_leaves_is_counted_and_neither_entered_nor_read(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    card(folder / "a.png", 60)
    card(folder / "Proof" / "b.png", 70)
    for name in ("@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png", "$Recycle.bin/a.png"):
        card(folder / name, 1)
    card(folder / "cam/@eaDir/b.png", 1)
    card(folder / "cam/c.png", 80)
    (folder / "Thumbs.db").write_bytes(b"x")
    source = LineImages("press", folder, exclude=("proof/*",))
    summary = score_folder(source, Model.of(make_bundle()), tmp_path / "out", alpha=0.2)
    assert sorted(table(tmp_path / "out")["path"]) == ["a.png", "cam/c.png"]
    assert (summary.found, summary.excluded, summary.statuses["scored"]) == (2, 6, 2)


def test_an_excluded_folder_is_not_even_listed(tmp_path: Path) -> None:
    card(tmp_path / "a.png", 60)
    (tmp_path / ".snapshot").symlink_to("nowhere")
    locked = tmp_path / "@eaDir"
    locked.mkdir(mode=0)
    listing = Folder(tmp_path).files()
    assert (listing.names, listing.excluded) == (["a.png"], 2)


@pytest.mark.parametrize("kind", ["missing", "file", "pipe"])
def test_what_is_no_folder_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "inbox").touch()
    if kind == "pipe":
        os.mkfifo(tmp_path / "inbox")
    with pytest.raises(ConfigurationError, match="inbox"):
        Folder(tmp_path / "inbox").files()
