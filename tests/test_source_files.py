"""Every file of a source is counted once, whatever its name and its kind."""

import csv
import os
import socket
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from admodels.datasets import (
    LEFT_OUT_OF_COPY,
    Reason,
    layouts,
    list_files,
    read_layout,
    write_left_out,
)
from admodels.foundation.errors import DataError
from admodels.foundation.exclude import USUAL, is_excluded
from admodels.foundation.files import names_text, printable
from admodels.foundation.manifest import IMAGE_SUFFIXES
from admodels.images import decode, load
from admodels.sources.fetch import fetch, pin_source, tree_sha256


def plant(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def reasons(root: Path, *exclude: str) -> dict[str, str]:
    return {left.path: left.reason for left in list_files(root, exclude)[1]}


NAS = (
    *("@eaDir/0.png/SYNOPHOTO_THUMB_XL.jpg", "normal/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg"),
    *("$RECYCLE.BIN/0.png", "#recycle/normal/0.png", ".snapshot/hourly.0/normal/0.png"),
    *("System Volume Information/x", "lost+found/0.png", ".Trash-1000/files/0.png"),
    *("normal/Thumbs.db", "normal/.DS_Store", "normal/._0.png", "DESKTOP.INI", "normal/~$0.xlsx"),
)


def test_what_a_nas_or_a_desktop_leaves_behind_is_excluded_and_counted(tmp_path: Path) -> None:
    plant(tmp_path, "normal/0.png", *NAS)
    layout = read_layout("folder", "", tmp_path)
    assert [image.image_path for image in layout.images] == ["normal/0.png"]
    assert layout.sentence() == "used 1 of 6 files: 5 excluded, 8 folders excluded"
    assert {left.reason for left in layout.left_out} == {"excluded"}


def test_a_task_excludes_more_and_never_less(tmp_path: Path) -> None:
    plant(tmp_path, "normal/0.png", "normal/old/1.png", "#recycle/2.png", "OLD_A/x/3.png")
    layout = read_layout("folder", "", tmp_path, exclude=["old*", "normal/1*"])
    assert [image.image_path for image in layout.images] == ["normal/0.png"]
    assert layout.sentence() == "used 1 of 1 files: 3 folders excluded"
    plant(tmp_path, "normal/1.png", "x/normal/1.png")
    layout = read_layout("folder", "", tmp_path, exclude=["old*", "normal/1*"])
    assert [image.image_path for image in layout.images] == ["normal/0.png", "x/normal/1.png"]


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("a/b/c.png", "b", True),
        ("a/b/c.png", "B/", True),
        ("a/b/c.png", "*.PNG", True),
        ("a/b/c.png", "a/b", True),
        ("a/b/c.png", "/a", True),
        ("a/b/c.png", "/b", False),
        ("a/b/c.png", "b/c.png", False),
        ("a/b/c.png", "a/*.png", True),
        ("a/bb/c.png", "b", False),
        ("a/[x].png", "[[]x].png", True),
        ("a\nb/c.png", "a*b", True),
    ],
)
def test_a_pattern_without_a_slash_matches_a_name_and_one_with_a_slash_the_path(
    path: str, pattern: str, is_match: bool
) -> None:
    assert is_excluded(path, [pattern]) is is_match
    assert not is_excluded(path)


def test_every_usual_pattern_excludes_itself_and_what_stands_below_it() -> None:
    for pattern in USUAL:
        name = pattern.replace("*", "x")
        assert is_excluded(name)
        assert is_excluded(f"a/{name.upper()}/0.png")
    assert not is_excluded("normal/recycle/eaDir/trash/thumbs.png")


def test_a_texture_source_takes_no_thumbnail_of_a_nas(tmp_path: Path) -> None:
    for name in ("a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "b/._c.png"):
        decode.write_png(tmp_path / name, np.zeros((8, 8), np.uint8))
    assert load.texture_paths(tmp_path) == [tmp_path / "a.png"]


AWKWARD = (
    *("new\nline.png", "quo\"te's.png", "com,ma;semi.png", " blank .png", "-rf.png", "%41.png"),
    *("gr\u00fcn.png", "gru\u0308n.png", "\u202egnp.exe.png", "a\\xff.png", "\x1b[2Jclear.png"),
    *("\U0001f600.png", "CON.png", "x" * 251 + ".png", "<img src=x onerror=alert(1)>.png"),
)


def test_awkward_names_are_used_copied_and_pinned_one_to_one(tmp_path: Path) -> None:
    origin = plant(tmp_path / "origin", *(f"normal/{name}" for name in AWKWARD))
    fetch(pin_source(str(origin)), "", tmp_path / "raw")
    assert tree_sha256(tmp_path / "raw") == tree_sha256(origin)
    for root in (origin, tmp_path / "raw"):
        images = read_layout("folder", "", root).images
        assert sorted(i.image_path for i in images) == sorted(f"normal/{n}" for n in AWKWARD)


def test_awkward_names_are_left_out_one_row_each(tmp_path: Path) -> None:
    names = [f"{name[:240]}.xml" for name in AWKWARD]
    plant(tmp_path, "0.png", *names)
    left_out = read_layout("folder", "", tmp_path).left_out
    write_left_out(tmp_path / "table.csv", left_out)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason", "detail"]
    assert len({row[0] for row in rows}) == len(rows) == len(names)
    assert all(row[0].isprintable() and row[1] == "unknown_suffix" for row in rows)


def test_bytes_that_are_no_text_and_their_escape_are_two_names(tmp_path: Path) -> None:
    plant(tmp_path, "0.png", "._a\udcff.png", "._a\\xff.png", "._a\\udcff.png")
    left = [entry.path for entry in list_files(tmp_path)[1]]
    assert sorted(left) == ["._a\\\\udcff.png", "._a\\\\xff.png", "._a\\udcff.png"]
    for path in (tmp_path / name for name in ("a\udcff.png", "a\\xff.png")):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"1 files have names that are not UTF-8") as refusal:
        pin_source(str(tmp_path))
    assert "where:    a\\udcff.png\n" in str(refusal.value)


@settings(max_examples=300, deadline=None)
@example(["a\n", "a\\n", "a\udcff", "a\\udcff"])
@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), unique=True))
def test_two_names_never_look_alike_and_none_moves_the_cursor(names: list[str]) -> None:
    shown = [printable(name) for name in names]
    assert len({*shown}) == len(names)
    assert all(text.isprintable() for text in shown)
    assert names_text(names).isprintable()


def test_links_are_followed_to_files_of_the_source_only(tmp_path: Path) -> None:
    plant(tmp_path, "secret/passwd.png", "all/normal/0.png", "all/more/1.png")
    for name, target in (
        ("normal/inside.png", "../more/1.png"),
        ("normal/outside.png", "../../secret/passwd.png"),
        ("normal/absolute.png", str(tmp_path / "secret/passwd.png")),
        ("normal/nothing.png", "gone.png"),
        ("normal/itself.png", "itself.png"),
        ("folder_inside", "more"),
        ("folder_outside", "../secret"),
        ("back", "."),
    ):
        (tmp_path / "all" / name).symlink_to(target)
    paths, left_out = list_files(tmp_path / "all")
    assert paths == ["more/1.png", "normal/0.png", "normal/inside.png"]
    assert {entry.path: (entry.reason, entry.detail) for entry in left_out} == {
        "back": ("link_to_folder", "."),
        "folder_inside": ("link_to_folder", "more"),
        "folder_outside": ("link_outside", str(tmp_path / "secret")),
        "normal/absolute.png": ("link_outside", str(tmp_path / "secret/passwd.png")),
        "normal/itself.png": ("link_to_nothing", str(tmp_path / "all/normal/itself.png")),
        "normal/nothing.png": ("link_to_nothing", str(tmp_path / "all/normal/gone.png")),
        "normal/outside.png": ("link_outside", str(tmp_path / "secret/passwd.png")),
    }


def test_nothing_that_a_link_leads_to_outside_is_copied_and_the_stage_says_so(
    tmp_path: Path,
) -> None:
    plant(tmp_path, "secret/a.png", "origin/normal/0.png")
    (tmp_path / "origin/normal/a.png").symlink_to(tmp_path / "secret/a.png")
    (tmp_path / "origin/broken").symlink_to(tmp_path / "secret", target_is_directory=True)
    fetch(pin_source(str(tmp_path / "origin")), "", tmp_path / "raw")
    assert sorted(p.name for p in (tmp_path / "raw").rglob("*.png")) == ["0.png"]
    layout = read_layout("folder", "", tmp_path / "raw", is_copy=True)
    assert layout.sentence() == "used 1 of 3 files: 2 link outside"
    assert LEFT_OUT_OF_COPY not in [entry.path for entry in layout.left_out]


def test_the_source_itself_may_be_a_link_and_so_may_its_category(tmp_path: Path) -> None:
    plant(tmp_path, "disk/bottle/normal/0.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bottle").symlink_to(tmp_path / "disk/bottle", target_is_directory=True)
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    assert len(read_layout("folder", "bottle", tmp_path / "link").images) == 1
    fetch(pin_source(str(tmp_path / "link"), "bottle"), "bottle", tmp_path / "raw")
    assert (tmp_path / "raw/normal/0.png").is_file()


def test_a_copy_whose_files_dvc_keeps_as_links_to_its_cache_is_read(tmp_path: Path) -> None:
    plant(tmp_path, "cache/ab/cd")
    (tmp_path / "raw/normal").mkdir(parents=True)
    (tmp_path / "raw/normal/0.png").symlink_to(tmp_path / "cache/ab/cd")
    assert len(read_layout("folder", "", tmp_path / "raw", is_copy=True).images) == 1


def test_pipes_and_sockets_are_left_out_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = plant(tmp_path / "origin", "normal/0.png")
    os.mkfifo(origin / "normal/1.png")
    monkeypatch.chdir(origin)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("normal/2.png")
        fetch(pin_source(str(origin)), "", tmp_path / "raw")
        assert reasons(origin) == {"normal/1.png": "not_a_file", "normal/2.png": "not_a_file"}
    layout = read_layout("folder", "", tmp_path / "raw", is_copy=True)
    assert layout.sentence() == "used 1 of 3 files: 2 not a file"


def test_a_folder_that_cannot_be_listed_is_an_error_unless_it_is_excluded(tmp_path: Path) -> None:
    plant(tmp_path, "normal/0.png", "lost+found/1.png")
    (tmp_path / "lost+found").chmod(0)
    assert reasons(tmp_path) == {"lost+found/": "excluded"}
    (tmp_path / "lost+found").chmod(0o700)


def test_mattes_masks_licences_and_tables_are_used_and_only_strays_are_left_out(
    tmp_path: Path,
) -> None:
    plant(tmp_path, "train/good/0.png", "test/hole/1.png", "ground_truth/hole/1_mask.png")
    plant(tmp_path, "foreground/train/good/0.png", "license.txt", "Readme.md", "LICENCE")
    plant(tmp_path, "SOURCE_README.md", "bottle-license.pdf")
    layout = read_layout("mvtec_ad", "", tmp_path)
    assert layout.left_out == []
    assert (layout.masks, layout.mattes) == (
        ["ground_truth/hole/1_mask.png"],
        ["foreground/train/good/0.png"],
    )
    assert layout.companions == [
        *("LICENCE", "Readme.md", "SOURCE_README.md", "bottle-license.pdf", "license.txt"),
    ]
    plant(
        tmp_path, "ground_truth/hole/9_mask.png", "foreground/test/hole/9.png", "train/good/n.txt"
    )
    plant(tmp_path, "overview.png", "train/3.png", "readme.png")
    assert {e.path: e.reason for e in read_layout("mvtec_ad", "", tmp_path).left_out} == {
        "foreground/test/hole/9.png": "matte_without_image",
        "ground_truth/hole/9_mask.png": "mask_without_image",
        "overview.png": "unknown_folder",
        "readme.png": "unknown_folder",
        "train/3.png": "unknown_folder",
        "train/good/n.txt": "unknown_suffix",
    }


def test_a_table_is_a_companion_of_the_layout_that_reads_it_and_of_no_other(
    tmp_path: Path,
) -> None:
    plant(tmp_path, "0.png", "labels.csv", "sub/manifest.csv")
    left_out = {e.path: e.reason for e in read_layout("folder", "", tmp_path).left_out}
    assert left_out == {"labels.csv": "unknown_suffix", "sub/manifest.csv": "unknown_suffix"}
    (tmp_path / "manifest.csv").write_text("image_path,label\n0.png,normal\n")
    plant(tmp_path, "1.png")
    layout = read_layout("folder", "", tmp_path)
    assert layout.companions == ["manifest.csv"]
    assert {e.path: e.reason for e in layout.left_out} == {
        **left_out,
        "1.png": "not_in_manifest",
    }


def test_the_page_on_layouts_names_every_layout_reason_and_suffix() -> None:
    text = (Path(__file__).parents[1] / "docs/layouts.md").read_text(encoding="utf-8")
    words = (*get_args(Reason), *(name for name in layouts() if name != "sample"))
    assert [word for word in words if f"`{word}`" not in text] == []
    assert [suffix for suffix in IMAGE_SUFFIXES if suffix not in text] == []


WORDS = ("normal", "good", "Train", "test", "broken", "masks", "ground_truth", "foreground", "Data")
NAMES = ("0.png", "0_mask.png", "1.JPG", "._0.png", ".x", "Thumbs.db", "a.txt", "license.txt")


@settings(max_examples=60, deadline=None)
@given(
    st.sets(
        st.tuples(
            st.lists(st.sampled_from((*WORDS, "@eaDir", ".git")), max_size=4).map(tuple),
            st.sampled_from(NAMES),
        ),
        max_size=20,
    ),
    st.sampled_from(["folder", "mvtec_ad", "dagm", "visa", "mpdd"]),
)
def test_every_file_of_any_tree_is_counted_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    files: set[tuple[tuple[str, ...], str]],
    dataset: str,
) -> None:
    root = tmp_path_factory.mktemp("tree")
    paths = ["/".join((*folders, name)) for folders, name in files]
    plant(root, *paths)
    try:
        layout = read_layout(dataset, "", root)
    except DataError:  # a release of VisA without its table
        assert dataset == "visa"
        return
    used = [image.image_path for image in layout.images]
    counted = [*used, *layout.masks, *layout.mattes, *layout.companions]
    counted += [entry.path for entry in layout.left_out]
    assert len({*counted}) == len(counted)
    folders = tuple(path for path in counted if path.endswith("/"))
    assert {*paths} - {*counted} == {path for path in paths if path.startswith(folders)}
