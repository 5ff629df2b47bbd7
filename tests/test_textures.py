"""Textures to paint anomalies with, and what a method needs beside images."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from admodels.foundation.errors import DataError, SourceError
from admodels.images import decode
from admodels.images.load import load_textures
from admodels.sources import textures
from admodels.sources.source import Source
from stages import textures as textures_stage

SHARED = Path(os.environ.get("ADMODELS_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "textures"
    textures.fetch_textures(textures.pin_textures("packaged"), folder)
    return folder


def flat(value):
    return np.full((10, 14, 3), value, dtype=np.uint8)


def listing(folder):
    return json.loads((folder / "textures.json").read_text())


def test_the_packaged_textures_are_many_distinct_and_none_is_blank(packaged):
    loaded = load_textures(packaged, (64, 64))
    assert loaded.dtype == np.uint8
    assert loaded.shape == (38, 3, 64, 64)
    assert len({texture.tobytes() for texture in loaded}) == 38
    assert loaded.std(axis=(1, 2, 3)).min() > 5


def test_the_packaged_textures_hold_no_photograph_of_a_sample_task(packaged):
    names = {p.name.rsplit("_", 1)[0] for p in packaged.glob("photographs/*")}
    assert len(names) == 12
    assert not names & {"brick", "gravel", "grass"}


@pytest.mark.slow
def test_the_packaged_textures_are_the_same_bytes_twice(packaged, tmp_path):
    textures.fetch_textures(textures.pin_textures("packaged"), tmp_path / "again")
    for path in sorted(p for p in packaged.rglob("*") if p.is_file()):
        again = tmp_path / "again" / path.relative_to(packaged)
        assert again.read_bytes() == path.read_bytes()


def test_the_listing_names_hashes_source_and_licence(packaged):
    found = listing(packaged)
    assert (found["count"], found["skipped"]) == (38, 0)
    assert found["source"] == {"kind": "sample", "name": "packaged"}
    assert found["source_sha256"] == textures.pin_textures("packaged").sha256
    assert "CC BY 2.0" in found["licence"]
    for name, sha256 in found["images"].items():
        assert hashlib.sha256((packaged / name).read_bytes()).hexdigest() == sha256
    assert len(found["images"]) == 38


def test_another_pin_of_the_packaged_textures_is_refused(tmp_path):
    source = Source(kind="sample", location="packaged", sha256="0" * 64)
    with pytest.raises(DataError, match=r"differs from its pin[\s\S]*admodels textures"):
        textures.fetch_textures(source, tmp_path / "textures")
    assert list(tmp_path.iterdir()) == []


def test_the_pin_changes_with_the_version_of_what_is_drawn(monkeypatch):
    before = textures.pin_textures("packaged")
    monkeypatch.setattr(textures, "PACKAGED_VERSION", 2)
    assert textures.pin_textures("packaged").sha256 != before.sha256


def test_a_folder_brings_its_images_by_name_and_counts_what_it_skips(tmp_path):
    origin = tmp_path / "dtd"
    decode.write_png(origin / "images/dotted/b.png", flat(20))
    decode.write_png(origin / "a.png", flat(10))
    (origin / "notes.txt").write_text("x")
    (origin / "images/labels.csv").write_text("x")
    (origin / "images/._b.png").write_text("hidden, neither copied nor counted")
    target = tmp_path / "textures"
    textures.fetch_textures(textures.pin_textures(str(origin)), target)
    found = listing(target)
    assert (found["count"], found["skipped"]) == (2, 2)
    assert list(found["images"]) == ["a.png", "images/dotted/b.png"]
    assert found["source"] == {"kind": "path", "name": "dtd"}
    assert str(tmp_path) not in (target / "textures.json").read_text()
    assert {p.name for p in target.rglob("*") if p.is_file()} == {"a.png", "b.png", "textures.json"}
    loaded = load_textures(target, (8, 8))
    assert loaded.shape == (2, 3, 8, 8)
    assert loaded[:, 0, 0, 0].tolist() == [10, 20]


def test_textures_are_resized_bilinear_as_rgb(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    decode.write_png(tmp_path / "a.png", array)
    expected = decode.resize_image(array, (12, 12), "bilinear").transpose(2, 0, 1)
    np.testing.assert_array_equal(load_textures(tmp_path, (12, 12))[0], expected)


def test_a_source_without_an_image_is_no_texture_source(tmp_path):
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin/notes.txt").write_text("x")
    with pytest.raises(DataError, match="no texture source"):
        textures.fetch_textures(
            textures.pin_textures(str(tmp_path / "origin")), tmp_path / "textures"
        )
    assert not (tmp_path / "textures").exists()
    with pytest.raises(DataError, match="no texture source"):
        load_textures(tmp_path / "gone", (8, 8))


def test_a_missing_texture_source_is_named(tmp_path):
    with pytest.raises(SourceError, match="gone"):
        textures.pin_textures(str(tmp_path / "gone"))


def test_unreadable_textures_are_refused_all_at_once(tmp_path):
    origin = tmp_path / "origin"
    decode.write_png(origin / "good.png", flat(1))
    (origin / "empty.png").write_bytes(b"")
    (origin / "noise.jpg").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"empty\.png \(empty\), noise\.jpg \(undecodable\)"):
        textures.fetch_textures(textures.pin_textures(str(origin)), tmp_path / "textures")


def test_the_stage_writes_the_textures_of_the_params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decode.write_png(tmp_path / "origin/a.png", flat(1))
    pin = textures.pin_textures("origin").sha256
    (tmp_path / "params.yaml").write_text(
        f"textures: {{kind: path, location: origin, sha256: {pin}}}\n"
    )
    textures_stage.main()
    assert listing(tmp_path / "data/textures")["count"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
def test_the_describable_textures_are_brought_whole(tmp_path):
    textures.fetch_textures(textures.pin_textures(str(SHARED / "dtd")), tmp_path / "textures")
    assert listing(tmp_path / "textures")["count"] == 80
    assert load_textures(tmp_path / "textures", (32, 32)).shape == (80, 3, 32, 32)
