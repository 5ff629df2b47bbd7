"""Hostile archives: each is refused whole, and nothing is written outside the target."""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile

import pytest

from admodels.foundation.errors import DataError
from admodels.sources import archive as extraction
from admodels.sources.archive import extract
from admodels.sources.outline import source_outline

SECRET = b"must stay as it is"


def tar_of(path, *members):
    """Members: (name, bytes) of a plain file, or a TarInfo as it is."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if info is member else member[1]
            info.size = info.size if info is member else len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def zip_of(path, *members, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def both(folder, *members):
    yield tar_of(folder / "x.tar.gz", *members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # zipfile warns of a double name
        yield zip_of(folder / "x.zip", *members)


def surroundings(root):
    """Every path outside the target, and when a file was last written."""
    paths = (p for p in root.rglob("*") if "target" not in p.parts)
    return {p: 0 if p.is_dir() else p.lstat().st_mtime_ns for p in paths}


def assert_refused(archive, match="archive cannot be read"):
    """The target is below three folders, so that a climb out of it ends where it is seen."""
    root = archive.parent
    (root / "a/b/c").mkdir(parents=True, exist_ok=True)
    (root / "a/secret.txt").write_bytes(SECRET)
    before = surroundings(root)
    with pytest.raises(DataError, match=match) as refusal:
        extract(archive, root / "a/b/c/target" / archive.suffix, archive, "pack it anew")
    assert surroundings(root) == before
    assert (root / "a/secret.txt").read_bytes() == SECRET
    return refusal


LEAVING = ["../../../secret.txt", "x/../../../../secret.txt", "..\\..\\secret.txt", "C:secret.txt"]


@pytest.mark.parametrize("name", [*LEAVING, "//host/share", "\\\\host\\share", ".."])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, name):
    for archive in both(tmp_path, ("fine.png", b"1"), (name, b"evil")):
        assert_refused(archive, "link or leaves")
    for archive in both(tmp_path, (str(tmp_path / "a/secret.txt"), b"evil")):
        assert_refused(archive, "link or leaves")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE],
)
def test_a_link_or_device_is_refused_before_anything_goes_through_it(tmp_path, kind):
    link = special("out", kind, str(tmp_path / "a"))
    assert_refused(tar_of(tmp_path / "x.tar", link, ("out/secret.txt", b"evil")), "link or leaves")


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644, 0o140777])
def test_a_link_or_device_in_a_zip_is_refused(tmp_path, mode):
    assert_refused(zip_of(tmp_path / "x.zip", ("out", b"/etc/passwd"), mode=mode), "link or leaves")


@pytest.mark.parametrize(
    "names",
    [
        ("a/0.png", "a/0.png"),
        ("a/0.png", "a/0.PNG"),
        ("a/0.png", "A/1.png"),
        ("stra\u00dfe.png", "STRASSE.png"),
        ("\u00fc.png", "u\u0308.png"),
        ("a", "a/0.png"),
        ("a/0.png", "a"),
    ],
)
def test_members_that_some_file_system_takes_for_one_are_refused(tmp_path, names):
    for archive in both(tmp_path, *((name, b"1") for name in names)):
        assert_refused(archive, "one to some systems")


def test_members_of_like_names_are_unpacked(tmp_path):
    names = ("a/0.png", "a/00.png", "b/0.png", "b/c/0.png", "0.png", "\u00fc/\u3000.png")
    for archive in both(tmp_path, *((name, name.encode()) for name in names)):
        target = tmp_path / archive.suffix / "target"
        extract(archive, target, archive, "")
        for name in names:
            assert (target / name).read_bytes() == name.encode()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SMALL_BYTES", 1 << 20)
    zeros = bytes(3 << 20)
    for archive in both(tmp_path, ("0.bmp", zeros), ("1.bmp", zeros)):
        assert archive.stat().st_size * extraction.LARGEST_RATIO < len(zeros)
        assert_refused(archive, "a bomb")
    noise = random.Random(1).randbytes(3 << 20)
    for archive in both(tmp_path, ("0.bmp", noise)):
        extract(archive, tmp_path / archive.suffix / "target", archive, "")


def test_a_zip_bomb_is_refused_before_a_byte_of_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SMALL_BYTES", 1 << 20)
    assert_refused(
        zip_of(tmp_path / "x.zip", ("first.png", b"1"), ("0.bmp", bytes(3 << 20))), "a bomb"
    )
    assert list((tmp_path / "a/b/c/target/.zip").iterdir()) == []


def test_a_flood_of_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "MOST_MEMBERS", 50)
    for archive in both(tmp_path, *((f"{i}.png", b"") for i in range(51))):
        assert_refused(archive, "a bomb")


def put(folder, name, data):
    """A file in a folder of its own, so that each is unpacked to an empty target."""
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    return folder / name


def test_a_second_archive_or_junk_behind_an_archive_is_refused(tmp_path):
    (tmp_path / "1").mkdir()
    archives = zip(
        both(tmp_path, ("a.png", b"1")), both(tmp_path / "1", ("b.png", b"2")), strict=True
    )
    for whole, second in archives:
        for junk in (second.read_bytes(), b"junk", b"\0junk"):
            folder = tmp_path / f"{whole.name} {len(junk)}"
            assert_refused(put(folder, whole.name, whole.read_bytes() + junk))


@pytest.mark.slow
@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
@pytest.mark.parametrize("behind", ["tar", "byte", "zeros"])
def test_packed_data_behind_the_end_of_a_tar_is_refused(tmp_path, packer, behind):
    """A second tar, which nobody would read; zeros without end, which would unpack for hours."""
    tar = tar_of(tmp_path / "x.tar", ("a.png", b"1")).read_bytes()
    data = {"tar": tar, "byte": bytes(1 << 20) + b"1", "zeros": bytes(20 << 20)}[behind]
    (tmp_path / "x.tar").write_bytes(packer.compress(tar) + packer.compress(data))
    assert_refused(tmp_path / "x.tar", "behind the end")


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_junk_behind_a_compressed_tar_is_refused(tmp_path, packer):
    tar = tar_of(tmp_path / "x.tar", ("a.png", b"1")).read_bytes()
    junk = random.Random(3).randbytes(100_000)
    (tmp_path / "x.tar").write_bytes(packer.compress(tar) + junk)
    assert_refused(tmp_path / "x.tar")


def test_data_before_the_beginning_of_a_zip_is_refused(tmp_path):
    nothing = zip_of(tmp_path / "nothing.zip").read_bytes()
    whole = zip_of(tmp_path / "x.zip", ("a.png", b"1")).read_bytes()
    for before, behind in ((b"PK\x03\x04 runs", whole), (nothing, whole), (whole, nothing)):
        (tmp_path / "x.zip").write_bytes(before + behind)
        assert_refused(tmp_path / "x.zip", "before the beginning or behind the end")


def test_padding_and_a_comment_are_part_of_an_archive(tmp_path):
    tar = tar_of(tmp_path / "x.tar", ("a.png", b"1"))
    tar.write_bytes(tar.read_bytes() + bytes(1 << 20))
    zipped = zip_of(tmp_path / "x.zip", ("a.png", b"1"))
    with zipfile.ZipFile(zipped, "a") as content:
        content.comment = b"from the camera"
    for archive in (tar, zipped):
        extract(archive, tmp_path / archive.suffix / "target", archive, "")
        assert (tmp_path / archive.suffix / "target/a.png").read_bytes() == b"1"


def test_a_tar_that_stops_between_two_members_is_refused(tmp_path):
    whole = tar_of(tmp_path / "x.tar", ("a.png", b"1"), ("b.png", b"2")).read_bytes()
    for name, data in (("y.tar", whole[:1024]), ("y.tar.gz", gzip.compress(whole[:2048]))):
        (tmp_path / name).write_bytes(data)
        assert_refused(tmp_path / name, "end mark is missing")


LONG = [
    "x" * 256 + ".png",
    "\u00e9" * 126 + ".png",  # 256 bytes in UTF-8
    f"{'x' * 256}/a.png",
    "/".join("x" * 200 for _ in range(6)),
]


@pytest.mark.parametrize("name", LONG)
def test_a_name_that_is_longer_than_file_systems_take_is_refused(tmp_path, name):
    for archive in both(tmp_path, ("fine.png", b"1"), (name, b"1")):
        assert_refused(archive, "longer name than file systems take")


def test_a_name_of_255_bytes_is_a_name(tmp_path):
    names = ("x" * 251 + ".png", "\u00e9" * 125 + "x.png")
    for archive in both(tmp_path, *((name, b"1") for name in names)):
        target = tmp_path / archive.suffix / "target"
        extract(archive, target, archive, "")
        assert {p.name for p in target.iterdir()} == {*names}


@pytest.mark.slow
def test_a_hundred_thousand_empty_members_are_refused(tmp_path):
    headers = [tarfile.TarInfo(f"{number}.png").tobuf() for number in range(2_000)]
    data = b"".join([*headers, headers[0] * 98_000, bytes(1024)])
    assert_refused(put(tmp_path / "tar", "x.tar.gz", gzip.compress(data, 1)), "a bomb")
    assert len(list((tmp_path / "tar/a").rglob("*.png"))) == extraction.MOST_EMPTY_FILES
    names = [(f"{number}.png", b"") for number in range(1_001)]
    assert_refused(zip_of(tmp_path / "x.zip", *names), "a bomb")
    extract(zip_of(tmp_path / "y.zip", *names[:1_000]), tmp_path / "target", "y.zip", "")


def test_a_flood_of_tiny_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "FEW_MEMBERS", 100)
    members = [(f"{number}.png", b"1") for number in range(1_000)]
    assert_refused(tar_of(tmp_path / "x.tar.gz", *members), "a bomb")
    extract(zip_of(tmp_path / "x.zip", *members), tmp_path / "target", "x.zip", "")


def test_a_flood_of_folders_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "FEW_MEMBERS", 100)
    folders = [special(f"{number}/", tarfile.DIRTYPE) for number in range(2_000)]
    assert_refused(tar_of(tmp_path / "x.tar.gz", *folders), "a bomb")


def test_a_sparse_file_of_terabytes_is_refused(tmp_path):
    name = b"huge.png"
    block = bytearray(tar_of(tmp_path / "x.tar", ("huge.png", b"")).read_bytes())
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:398], block[398:410] = b"00000000000\0", b"00000000000\0"
    block[483:495] = b"77777777777\0"  # of 8 GiB less one
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    assert name in block
    (tmp_path / "x.tar").write_bytes(block)
    assert_refused(tmp_path / "x.tar", "a bomb")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_refused_before_it_is_read(tmp_path, kind):
    header = special("x", kind)
    header.size = 5 << 30
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert_refused(tmp_path / "x.tar", "a header of 5368709120 bytes")


@pytest.mark.parametrize("name", ["a\n.png", "a\x1b[2J.png", "a\x7f.png"])
def test_a_name_with_control_characters_is_refused(tmp_path, name):
    for archive in both(tmp_path, (name, b"1")):
        assert_refused(archive, "no text")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    info = tarfile.TarInfo("\udcff.png")
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as archive:
        archive.addfile(info)
    assert_refused(tmp_path / "x.tar", "no text")


def test_a_zip_that_lies_about_sizes_or_is_encrypted_is_refused(tmp_path):
    data = bytearray(zip_of(tmp_path / "x.zip", ("a.png", bytes(100_000))).read_bytes())
    entry = data.index(b"PK\x01\x02")
    short = bytearray(data)
    struct.pack_into("<I", short, entry + 24, 10)  # the size it claims to unpack to
    (tmp_path / "x.zip").write_bytes(short)
    assert_refused(tmp_path / "x.zip")
    for at in (entry + 8, data.index(b"PK\x03\x04") + 6):
        data[at] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    assert_refused(tmp_path / "x.zip", "encrypted")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = zip_of(tmp_path / "in.zip", ("evil.png", b"1")).read_bytes()
    archive = tar_of(tmp_path / "x.tar", ("a.png", b"2"), ("in.zip", inner))
    extract(archive, tmp_path / "target", archive, "")
    assert sorted(p.name for p in (tmp_path / "target").iterdir()) == ["a.png", "in.zip"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_damage_anywhere_is_a_refusal_or_harmless(tmp_path, name):
    rng = random.Random(name)
    pack = zip_of if name == "x.zip" else tar_of
    whole = pack(tmp_path / name, ("a/0.png", rng.randbytes(300)), ("a/1.png", bytes(900)))
    data = whole.read_bytes()
    refusals = 0
    for number in range(120):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        whole.write_bytes(damaged[: rng.randrange(len(data)) if number % 5 == 0 else None])
        try:
            extract(whole, tmp_path / f"target/{number}", whole, "")
        except DataError:
            refusals += 1
    assert refusals > 10
    assert set(surroundings(tmp_path)) == {whole}


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_outline_has_every_name_and_only_tables_have_content(tmp_path, suffix):
    members = [("a/1.png", b"pixels"), ("a/.DS_Store", b"x"), ("manifest.CSV", b"image_path,label")]
    members += [("a/Label/Labels.txt", b"1"), ("weights.bin", b"much")]
    archive = next(file for file in both(tmp_path, *members) if file.name.endswith(suffix))
    with source_outline(str(archive)) as folder:
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        content = {name: path.read_bytes() for name, path in files.items()}
    tables = ("manifest.CSV", "a/Label/Labels.txt")
    assert content == {name: data if name in tables else b"" for name, data in members}
    assert not folder.exists()
    assert_refused(tar_of(tmp_path / "y.tar", ("../../x", b"evil")), "link or leaves")
    with pytest.raises(DataError, match="link or leaves"), source_outline(str(tmp_path / "y.tar")):
        pass
