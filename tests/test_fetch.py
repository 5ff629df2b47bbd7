"""Sources: their pins, their safe and atomic arrival."""

import hashlib
import io
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from admodels.datasets import LEFT_OUT_OF_COPY, read_left_out
from admodels.foundation.errors import ConfigurationError, DataError, SourceError
from admodels.sources import download
from admodels.sources.fetch import fetch, pin_source, tree_sha256
from admodels.sources.source import Source
from benchmarks import fetch_kills
from stages import fetch as fetch_stage

REPO = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def workplace(tmp_path_factory, monkeypatch):
    """Downloads are kept below the working directory."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    return folder


FILES = {"train/good/a.png": b"a", "test/good/b.PNG": b"b", "license.txt": b"free"}


def planted(root, files=FILES):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tree(root):
    files = [p for p in root.rglob("*") if p.is_file() and p.name != LEFT_OUT_OF_COPY]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def left_out(root):
    return {entry.path: entry.reason for entry in read_left_out(root / LEFT_OUT_OF_COPY)}


def archived(path, files=FILES, prefix=""):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(prefix + name, data)
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(prefix + name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_hash_of_a_tree_sees_content_and_names_and_nothing_else(tmp_path):
    first = tree_sha256(planted(tmp_path / "a"))
    assert tree_sha256(planted(tmp_path / "b", dict(reversed(FILES.items())))) == first
    os.utime(tmp_path / "b/license.txt", (0, 0))
    (tmp_path / "b/empty").mkdir()
    planted(tmp_path / "b", {".DS_Store": b"x", "train/._a.png": b"x", ".git/config": b"x"})
    assert tree_sha256(tmp_path / "b") == first
    assert tree_sha256(planted(tmp_path / "c", {**FILES, "license.txt": b"Free"})) != first
    moved = {("train/good/c.png" if k == "train/good/a.png" else k): v for k, v in FILES.items()}
    assert tree_sha256(planted(tmp_path / "d", moved)) != first
    assert len(first) == 64


def test_the_hash_of_a_tree_is_as_documented(tmp_path):
    files = {"b/a.png": b"1", "b/c.png": b"2", "a/z.png": b"3", "c.png": b"4", "0.png": b"5"}
    lines = [f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert tree_sha256(planted(tmp_path, files)) == expected


def test_a_folder_is_copied_without_hidden_files(tmp_path):
    origin = planted(tmp_path / "origin", {**FILES, ".DS_Store": b"x", "train/.a.png": b"x"})
    source = pin_source(str(origin))
    assert source == Source(kind="path", location=str(origin), sha256=tree_sha256(origin))
    fetch(source, "bottle", tmp_path / "raw/task")
    assert tree(tmp_path / "raw/task") == FILES
    assert left_out(tmp_path / "raw/task") == {".DS_Store": "excluded", "train/.a.png": "hidden"}
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["task"]


def test_of_a_whole_dataset_only_the_category_is_pinned_and_copied(tmp_path):
    planted(tmp_path / "all/bottle")
    planted(tmp_path / "all/cable", {"train/good/z.png": b"z"})
    source = pin_source(str(tmp_path / "all"), "bottle")
    assert source.sha256 == tree_sha256(tmp_path / "all/bottle")
    fetch(source, "bottle", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES
    planted(tmp_path / "all/cable", {"train/good/z.png": b"other"})
    fetch(source, "bottle", tmp_path / "raw")


def test_a_relative_location_is_relative_to_where_the_stage_runs(tmp_path, monkeypatch):
    planted(tmp_path / "here/origin")
    monkeypatch.chdir(tmp_path / "here")
    source = pin_source("origin")
    assert source.location == "origin"
    fetch(source, "", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES


def test_a_changed_source_is_refused_and_what_was_there_stays(tmp_path):
    source = pin_source(str(planted(tmp_path / "origin")))
    fetch(source, "", tmp_path / "raw/brick")
    planted(tmp_path / "origin", {"license.txt": b"mine"})
    with pytest.raises(DataError, match=r"differs from its pin[\s\S]*task refresh brick"):
        fetch(source, "", tmp_path / "raw/brick")
    assert tree(tmp_path / "raw/brick") == FILES
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["brick"]


def test_a_refetch_leaves_nothing_of_before(tmp_path):
    planted(tmp_path / "raw", {"old.png": b"old"})
    fetch(pin_source(str(planted(tmp_path / "origin"))), "", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES


def test_a_missing_source_is_named(tmp_path):
    gone = str(tmp_path / "gone")
    with pytest.raises(SourceError, match="gone"):
        pin_source(gone)
    for kind in ("path", "archive"):
        with pytest.raises(SourceError, match="gone"):
            fetch(Source(kind=kind, location=gone, sha256="0" * 64), "", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_file_is_no_path_source(tmp_path):
    archive = archived(tmp_path / "a.zip")
    with pytest.raises(SourceError, match="not a folder"):
        fetch(Source(kind="path", location=str(archive), sha256="0" * 64), "", tmp_path / "raw")


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file/"):
        fetch(pin_source(str(planted(tmp_path / "origin"))), "", tmp_path / "file/raw")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
@pytest.mark.parametrize("prefix", ["", "bottle/", "mvtec/bottle/", "./"])
def test_an_archive_is_unpacked_to_its_category(tmp_path, name, prefix):
    files = {**FILES, "train/._a": b"x", ".b": b"x"}
    archive = archived(tmp_path / name, files, prefix)
    source = pin_source(str(archive))
    assert source.kind == "archive"
    assert source.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    fetch(source, "bottle", tmp_path / "raw/task")
    assert tree(tmp_path / "raw/task") == FILES
    assert left_out(tmp_path / "raw/task") == {"train/._a": "excluded", ".b": "hidden"}
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["task"]


def test_a_changed_archive_is_refused(tmp_path):
    source = pin_source(str(archived(tmp_path / "x.zip")))
    archived(tmp_path / "x.zip", {"a.png": b"other"})
    with pytest.raises(DataError, match="differs from its pin"):
        fetch(source, "", tmp_path / "raw")


def test_a_broken_archive_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"not an archive")
    whole = archived(tmp_path / "whole.tar.xz", {"a": os.urandom(9000)}).read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[:-2000])
    flipped = bytearray(archived(tmp_path / "flipped.zip", {"a": b"a" * 99}).read_bytes())
    flipped[40] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(flipped)
    for name in ("x.tar.gz", "cut.tar.xz", "flipped.zip"):
        with pytest.raises(DataError, match="archive cannot be read") as refusal:
            fetch(pin_source(str(tmp_path / name)), "", tmp_path / "raw/nuts")
        assert f"where:    {tmp_path / name}" in str(refusal.value)
        assert "`admodels task refresh nuts`" in str(refusal.value)


def test_what_the_disk_refuses_is_not_blamed_on_the_archive(tmp_path):
    source = pin_source(str(archived(tmp_path / "x.tar.gz", {"a.png": bytes(50_000)})))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            fetch(source, "", tmp_path / "raw")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2"])
@pytest.mark.parametrize("place", [0.3, 0.9, 0.999])
def test_noise_in_a_compressed_tar_is_noticed(tmp_path, suffix, place):
    archive = archived(tmp_path / f"x.tar.{suffix}", {"a": os.urandom(300_000)})
    data = bytearray(archive.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DataError, match="archive cannot be read"):
        fetch(pin_source(str(archive)), "", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_list_of_bytes_that_are_no_text_is_refused(tmp_path):
    (tmp_path / "x.urls").write_bytes(b"\xff\xfe\x00 http://x/1.zip\n")
    with pytest.raises(DataError, match="line 1 of the list is"):
        fetch(pin_source(str(tmp_path / "x.urls")), "", tmp_path / "raw")


def test_a_url_is_downloaded_checked_and_unpacked(tmp_path, served):
    folder, url = served
    archive = archived(folder / "x.tar.gz", prefix="bottle/")
    source = pin_source(f"{url}/x.tar.gz")
    assert source.kind == "url"
    assert source.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    fetch(source, "bottle", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES
    archived(folder / "x.tar.gz", {"a.png": b"other"})
    fetch(source, "bottle", tmp_path / "raw")  # the pinned bytes have been kept
    shutil.rmtree(download.DOWNLOADS)
    with pytest.raises(DataError, match=r"differs from its pin[\s\S]*task refresh raw"):
        fetch(source, "bottle", tmp_path / "raw")


def test_a_url_that_cannot_be_reached_is_a_source_error(tmp_path, served):
    with pytest.raises(SourceError, match=r"gone\.zip: .*404"):
        pin_source(f"{served[1]}/gone.zip")
    source = Source(kind="url", location=f"{served[1]}/gone.zip", sha256="0" * 64)
    with pytest.raises(SourceError, match=r"gone\.zip"):
        fetch(source, "", tmp_path / "raw")


def test_a_file_url_works_as_well(tmp_path):
    source = pin_source(archived(tmp_path / "x.zip").as_uri())
    assert source.kind == "url"
    fetch(source, "", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES


def test_a_sample_is_pinned_by_its_photograph(tmp_path):
    source = pin_source("scikit-image/brick.png")
    assert source == Source(
        kind="sample",
        location="scikit-image/brick.png",
        sha256="7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    )
    fetch(source, "brick", tmp_path / "raw")
    assert (tmp_path / "raw/train/good/000.png").is_file()
    other = source.model_copy(update={"location": "scikit-image/gravel.png"})
    with pytest.raises(DataError, match="differs from its pin"):
        fetch(other, "gravel", tmp_path / "raw")
    with pytest.raises(ConfigurationError, match="brick, gravel, grass"):
        pin_source("scikit-image/camera.png")


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64])
def test_a_pin_is_64_lower_case_hex_digits(sha256):
    with pytest.raises(ValidationError):
        Source(kind="path", location="x", sha256=sha256)


def test_the_stage_writes_the_raw_folder_of_its_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    origin = planted(tmp_path / "origin")
    (tmp_path / "params.yaml").write_text(
        "tasks:\n  screws:\n    dataset: mvtec_ad\n    category: screw\n    kind: object\n"
        "    licence: CC BY-NC 4.0\n"
        f"    source: {{kind: path, location: origin, sha256: {tree_sha256(origin)}}}\n"
    )
    fetch_stage.main("screws")
    assert tree(tmp_path / "data/raw/screws") == FILES
    told = "screws: licence of the images: CC BY-NC 4.0 (NON-COMMERCIAL use only)\n"
    assert capsys.readouterr().err == told


def test_a_link_to_a_folder_is_not_entered_even_if_it_leads_back_up(tmp_path):
    planted(tmp_path / "data", FILES)
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    fetch(pin_source(str(tmp_path / "data")), "", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES
    assert left_out(tmp_path / "raw") == {"again": "link_to_folder"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a b.zip", "http://[::1/a.zip"])
def test_a_url_that_is_none_is_a_source_error(url):
    with pytest.raises(SourceError):
        pin_source(url)


def listed(folder, *lines):
    (folder / "parts.urls").write_text("\n".join(lines) + "\n")
    return pin_source(str(folder / "parts.urls"))


def pin_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_list_brings_archives_and_single_files_each_checked(tmp_path, served):
    folder, url = served
    one = archived(folder / "1.zip", {"train/good/a.png": b"a"})
    two = archived(folder / "2.tar.gz", {"test/good/b.PNG": b"b"})
    planted(folder, {"license.txt": b"free"})
    source = listed(
        tmp_path,
        f"{pin_of(one)}  {url}/gone.zip {url}/1.zip",
        "",
        f"{pin_of(two)}\t{two.as_uri()}",
        f"{pin_of(folder / 'license.txt')} {url}/license.txt",
    )
    assert (source.kind, source.sha256) == ("urls", pin_of(tmp_path / "parts.urls"))
    fetch(source, "", tmp_path / "raw/task")
    assert tree(tmp_path / "raw/task") == FILES
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["task"]


def test_a_list_that_is_wrong_brings_nothing(tmp_path, served):
    folder, url = served
    one = archived(folder / "1.zip")
    two = archived(folder / "2.zip", {"license.txt": b"another"})
    good = f"{pin_of(one)} {url}/1.zip"
    for lines, named in (
        ((good, "abc http://x/1.zip"), r"line 2 of the list is `abc http"),
        ((good, pin_of(one)), "line 2 of the list"),
        ((good, f"{'0' * 64} {url}/2.zip"), r"differs from its pin[\s\S]*correct the list"),
        ((good, f"{pin_of(two)} {url}/2.zip"), "came with another archive"),
        (("<html>" * 100_000,), r"line 1 of the list is `(<html>){33}<h`"),
        (("\n" * (17 << 20),), "the list has 178"),
    ):
        with pytest.raises(DataError, match=named):
            fetch(listed(tmp_path, *lines), "", tmp_path / "raw")
        assert not (tmp_path / "raw").exists()
    source = listed(tmp_path, good)
    (tmp_path / "parts.urls").write_text(good + " ")
    with pytest.raises(DataError, match="differs from its pin"):
        fetch(source, "", tmp_path / "raw")


def test_a_source_may_name_mirrors(tmp_path, served):
    folder, url = served
    archived(folder / "x.tar.gz")
    mirrors = (f"{url}/x.tar.gz",)
    source = pin_source(f"{url}/gone.tar.gz", mirrors=mirrors)
    assert (source.location, source.mirrors) == (f"{url}/gone.tar.gz", mirrors)
    shutil.rmtree(download.DOWNLOADS)
    fetch(source, "", tmp_path / "raw")
    assert tree(tmp_path / "raw") == FILES


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    planted(tmp_path / "data", {"\udcfcber.png": b"1", "\u00fcber.png": b"2"})
    with pytest.raises(DataError, match=r"1 files have names that are not UTF-8[\s\S]*udcfcber"):
        pin_source(str(tmp_path / "data"))


@pytest.mark.slow
def test_a_fetch_killed_at_random_ends_the_same_when_it_is_run_again(tmp_path):
    told = fetch_kills.rounds(tmp_path, kills=3, images=150, rng=random.Random(4))
    assert (told["kills"], told["faults"]) == (3, [])


CODE = """
import sys
from pathlib import Path
from admodels.sources import fetch
from admodels.sources.source import Source
fetch.fetch(Source.model_validate_json(sys.argv[1]), "", Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_fetch_that_is_killed_leaves_nothing_under_the_final_name(tmp_path):
    files = {f"train/good/{i}.png": os.urandom(20_000) for i in range(400)}
    source = pin_source(str(archived(tmp_path / "x.tar.gz", files)))
    words = [sys.executable, "-c", CODE, source.model_dump_json(), str(tmp_path / "raw/task")]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen(words, env=environment)
    while len(list((tmp_path / "raw").rglob("*.png"))) < 50:
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0
    assert not (tmp_path / "raw/task").exists()
    subprocess.run(words, env=environment, check=True)
    assert tree(tmp_path / "raw/task") == files
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["task"]
