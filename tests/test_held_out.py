import csv
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from admodels.foundation import manifest, progress
from admodels.foundation.errors import DataError
from admodels.foundation.files import write_json
from admodels.foundation.logs import log_as
from admodels.foundation.manifest import DatasetImage, ManifestRow
from admodels.images import area as areas
from admodels.images import decode, sheets
from admodels.methods.parts.training_data import training_data
from admodels.synthesis import held_out
from admodels.synthesis.foreground import foreground
from admodels.synthesis.params import Anomaly, Synthesize
from admodels.validation.inspect import describe_image
from stages import synthesize
from tests import cards, tiny

PX = 64
ANOMALY = Anomaly(
    lattice_exponent_max=5,
    noise_rotation_degrees=90.0,
    mask_threshold=0.5,
    image_opacity_min=0.0,
    image_opacity_max=0.8,
    augmenters_per_texture=3,
)
PARAMS = Synthesize(image_px=PX, resize="bilinear", per_image=3, generator=ANOMALY)


def row(name, content):
    return ManifestRow(
        image_id=f"train/good/{name}",
        image_path=f"train/good/{name}.png",
        image_sha256=f"{content:064x}",
        width=PX,
        height=PX,
        mode="RGB",
        bit_depth=8,
        label="normal",
        defect_type="",
        mask_path="",
        mask_sha256="",
        foreground_path="",
        foreground_sha256="",
    )


ROWS = [row(f"{i:03d}", 7**40 + i * 16**48) for i in range(4)]
NORMAL = np.random.default_rng(0).integers(0, 256, (4, 3, PX, PX), dtype=np.uint8)
TEXTURES = {
    f"kind/{name}.jpg": np.random.default_rng(ord(name)).integers(0, 256, (3, PX, PX), np.uint8)
    for name in "abcdef"
}


def drawn(rows=ROWS, normal=NORMAL, params=PARAMS, seed=5):
    whole = foreground(normal, None, "texture")
    return held_out.draw(rows, normal, TEXTURES, whole, params, seed)


def test_drawing_shows_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    log_as("plain")
    drawn()
    assert "draw held-out anomalies: 4/4 " in capsys.readouterr().err


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_image_gets_its_anomalies_none_of_them_empty():
    samples = drawn()
    assert [s.image_id for s in samples] == [r.image_id for r in ROWS for _ in range(3)]
    assert all(s.mask.any() for s in samples)
    assert len({s.mask.tobytes() for s in samples}) == 12
    assert {s.texture for s in samples} <= set(TEXTURES)
    assert len({s.texture for s in samples}) > 2


def test_outside_the_mask_the_image_is_the_normal_one():
    for number, sample in enumerate(drawn()):
        assert np.array_equal(sample.normal, NORMAL[number // 3].transpose(1, 2, 0))
        assert np.array_equal(sample.image[~sample.mask], sample.normal[~sample.mask])
        assert (sample.image[sample.mask] != sample.normal[sample.mask]).mean() > 0.5


def test_the_anomalies_of_an_image_depend_on_its_content_and_the_seed_alone():
    alone = drawn(ROWS[2:3], NORMAL[2:3])
    among_others = drawn()[6:9]
    other_seed = drawn(ROWS[2:3], NORMAL[2:3], seed=6)
    assert [s.image.tobytes() for s in alone] == [s.image.tobytes() for s in among_others]
    assert not {s.mask.tobytes() for s in alone} & {s.mask.tobytes() for s in other_seed}


def test_empty_masks_are_redrawn_and_counted():
    coarse = ANOMALY.model_copy(update={"lattice_exponent_max": 0})
    samples = drawn(params=PARAMS.model_copy(update={"generator": coarse, "per_image": 100}))
    assert all(s.mask.any() for s in samples)
    assert held_out.statistics(samples)["empty_draw_share"] == pytest.approx(0.61, abs=0.08)


def test_a_generator_that_paints_nothing_is_refused():
    blind = ANOMALY.model_copy(update={"lattice_exponent_max": 0, "mask_threshold": 0.999})
    with pytest.raises(DataError, match="came out empty") as refusal:
        drawn(params=PARAMS.model_copy(update={"generator": blind}))
    assert "mask_threshold" in str(refusal.value)


def test_the_written_set_is_read_back_exactly_at_its_own_size(tmp_path):
    samples = drawn()
    held_out.write(tmp_path / "task", samples)
    found, masks = held_out.read(tmp_path / "task", (PX, PX), "bilinear")
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.stack([s.image.transpose(2, 0, 1) for s in samples]))
    assert np.array_equal(masks, np.stack([s.mask for s in samples]))


def test_the_written_set_is_read_back_at_another_size(tmp_path):
    samples = drawn()
    held_out.write(tmp_path / "task", samples)
    found, masks = held_out.read(tmp_path / "task", (16, 16), "area")
    averaged = decode.resize_image(samples[5].image, (16, 16), "area")
    assert np.array_equal(found[5], averaged.transpose(2, 0, 1))
    assert found.shape == (12, 3, 16, 16)
    assert masks.shape == (12, 16, 16)
    assert masks.dtype == np.bool_
    assert masks.any()


def test_the_index_names_every_file_its_source_and_its_area(tmp_path):
    samples = drawn()
    held_out.write(tmp_path / "task", samples)
    with (tmp_path / "task/index.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == held_out.COLUMNS
    assert [line["image_id"] for line in lines] == [s.image_id for s in samples]
    for line, sample in zip(lines, samples, strict=True):
        assert float(line["area_share"]) == pytest.approx(sample.mask.mean(), abs=1e-6)
        assert line["texture"] == sample.texture
        image, mask = (pixels(tmp_path / "task" / line[k]) for k in ("image_path", "mask_path"))
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(mask == 255, sample.mask)
        assert np.array_equal(image, sample.image)


def test_coverage_is_what_some_mask_is_on():
    one, two = drawn()[:2]
    left, right = (np.zeros(one.mask.shape, bool) for _ in range(2))
    left[:, :4] = right[:, 2:6] = True
    samples = [replace(one, mask=left), replace(two, mask=right)]
    assert held_out.statistics(samples)["coverage"] == round(6 / left.shape[1], 6)


def test_statistics_count_images_areas_and_empty_draws(tmp_path):
    samples = drawn()
    held_out.write(tmp_path / "task", samples)
    found = json.loads((tmp_path / "task/statistics.json").read_text(encoding="utf-8"))
    empty = sum(s.empty_draws for s in samples)
    assert found == {
        "images": 12,
        "mean_area_share": pytest.approx(np.mean([s.mask for s in samples]), abs=1e-6),
        "coverage": round(float(np.any([s.mask for s in samples], axis=0).mean()), 6),
        "empty_draw_share": pytest.approx(empty / (empty + 12), abs=1e-6),
        "foreground_share": 1.0,
        "foreground": {"whole": 12},
    }


@pytest.mark.slow
def test_writing_twice_gives_the_same_bytes_and_nothing_else(tmp_path):
    for _ in range(2):
        held_out.write(tmp_path / "first", drawn())
    held_out.write(tmp_path / "second", drawn())
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "second"]


def test_a_smaller_set_leaves_nothing_of_a_larger_one(tmp_path):
    held_out.write(tmp_path / "task", drawn())
    held_out.write(tmp_path / "task", drawn(ROWS[:1], NORMAL[:1]))
    assert len(list((tmp_path / "task/images").iterdir())) == 3
    assert len(list((tmp_path / "task/masks").iterdir())) == 3


def test_a_missing_set_names_the_stage_to_run(tmp_path):
    with pytest.raises(DataError, match="dvc repro synthesize"):
        held_out.read(tmp_path / "task", (PX, PX), "area")


@pytest.mark.parametrize("count", [1, 4, 12, 30])
def test_the_contact_sheet_shows_up_to_24_samples_and_outlines_their_masks(count):
    samples = (drawn() * 3)[:count]
    sheet = held_out.contact_sheet(samples)
    rows = -(-min(count, 24) // held_out.SHEET_COLUMNS)
    tile = sheets.TILE_PX
    assert rows * tile < sheet.shape[0] < rows * (tile + 30) + 30
    yellow = (sheet == [255, 255, 0]).all(axis=2)
    assert yellow.sum() > 50 * min(count, 24)


def test_the_contact_sheet_says_where_the_foreground_comes_from():
    drawings = [
        held_out.contact_sheet([replace(sample, part_source=source) for sample in drawn()[:3]])
        for source in ("manifest", "estimated", "whole")
    ]
    for a, b in combinations(drawings, 2):
        rows = np.flatnonzero((a != b).any(axis=(1, 2)))
        assert 0 < len(rows) < sheets.CAPTION_PX + sheets.GAP_PX  # one line of captions


def test_an_outline_follows_the_border_of_the_mask():
    mask = np.zeros((PX, PX), dtype=bool)
    mask[16:48, 16:48] = True
    black = np.zeros((PX, PX, 3), dtype=np.uint8)
    part = 255 * mask[:, ::-1].astype(np.uint8)
    sample = held_out.Sample("a", "b", black, black, mask, part, "estimated", 0)
    sheet = held_out.contact_sheet([sample])
    rows, columns = np.nonzero((sheet == [255, 255, 0]).all(axis=2))
    side = sheets.TILE_PX // 2
    assert np.ptp(rows) == side - 1
    assert np.ptp(columns) == side - 1
    assert len(rows) == 4 * side - 4


def test_paths_in_the_index_are_relative_and_posix(tmp_path):
    held_out.write(tmp_path / "task", drawn())
    text = Path(tmp_path / "task/index.csv").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "images/00000.png,masks/00000.png,train/good/000," in text


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which the stage `synthesize` can run on task `t`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    found = [DatasetImage(f"train/good/{i}.png", "normal", "", "", "learn") for i in range(3)]
    for one in found:
        decode.write_png(
            Path("data/raw/t", one.image_path), rng.integers(0, 256, (90, 70, 3), np.uint8)
        )
    rows = [describe_image(one, Path("data/raw/t"), decode.STORED)[0] for one in found]
    manifest.write(Path("data/manifests/t/validation.csv"), rows)
    write_json(Path("data/manifests/t/image_rules.json"), tiny.CONTRACT.model_dump(mode="json"))
    areas.write_area(Path("data/manifests/t/area.png"), areas.everywhere(70, 90))
    for name in ("a/1.png", "a/2.png", "b.png"):
        path = Path("data/textures", name)
        decode.write_png(path, rng.integers(0, 256, (40, 80, 3), np.uint8))
    tasks = {"t": {"kind": "texture"}}
    values = {"seed": 7, "synthesize": PARAMS.model_dump(), "tasks": tasks}
    Path("params.yaml").write_text(json.dumps(values), encoding="utf-8")
    return tmp_path


def test_the_stage_paints_every_validation_image_and_repeats_itself_to_the_byte(project):
    synthesize.main("t")
    first = tree(project / "data/synthetic/t")
    synthesize.main("t")
    assert tree(project / "data/synthetic/t") == first
    assert len([name for name in first if name.startswith("images/")]) == 9
    index = (project / "data/synthetic/t/index.csv").read_text(encoding="utf-8")
    assert {PurePosixPath(line.split(",")[2]).name for line in index.splitlines()[1:]} == {
        *("0", "1", "2")
    }
    assert any(",a/1.png," in line or ",b.png," in line for line in index.splitlines())


def test_the_stage_paints_inside_the_area_alone(project):
    levels = np.zeros((90, 70), np.uint8)
    levels[30:, 20:60] = 200
    areas.write_area(Path("data/manifests/t/area.png"), areas.Area(levels))
    synthesize.main("t")
    _, masks = held_out.read(Path("data/synthetic/t"), (PX, PX), "area")
    inside = areas.Area(levels).seen((PX, PX))
    assert masks.any(axis=(1, 2)).all()
    assert not masks[:, ~inside].any()


def test_the_stage_paints_on_12_bits_through_the_window_of_the_contract(project):
    raw, found = Path("data/raw/t"), DatasetImage("train/good/0.png", "normal", "", "", "learn")
    cards.deep_card(raw / found.image_path, 70 << 4)
    row = describe_image(found, raw, decode.STORED)[0]
    manifest.write(Path("data/manifests/t/validation.csv"), [row])
    learnt = cards.windowed((0, 4095)).contract.learnt
    write_json(Path("data/manifests/t/image_rules.json"), learnt.model_dump(mode="json"))
    synthesize.main("t")
    painted, masks = held_out.read(Path("data/synthetic/t"), (PX, PX), "area")
    assert (painted.transpose(0, 2, 3, 1)[~masks] == 70).all()


def test_the_stage_refuses_an_image_that_is_not_the_one_of_the_manifest(project):
    decode.write_png(project / "data/raw/t/train/good/1.png", np.zeros((90, 70, 3), np.uint8))
    with pytest.raises(DataError, match="sha256"):
        synthesize.main("t")
    assert not (project / "data/synthetic/t").exists()


def test_the_stage_refuses_to_run_without_textures(project):
    shutil.rmtree(project / "data/textures")
    with pytest.raises(DataError, match="no texture source"):
        synthesize.main("t")


@pytest.mark.slow
def test_the_stage_records_which_foreground_it_found_and_shows_it(project):
    def found():
        synthesize.main("t")
        facts = json.loads(Path("data/synthetic/t/statistics.json").read_bytes())
        with Image.open("data/synthetic/t/contact_sheet.png") as sheet:
            cyan = (np.asarray(sheet) == [0, 255, 255]).all(axis=2).sum()
        return facts["foreground"], facts["foreground_share"], cyan

    assert found()[:2] == ({"whole": 9}, 1.0)
    values = json.loads(Path("params.yaml").read_text(encoding="utf-8"))
    values["tasks"]["t"]["kind"] = "object"
    Path("params.yaml").write_text(json.dumps(values), encoding="utf-8")
    assert found()[0] == {"whole": 9}  # noise has no part
    planes = tiny.discs(1, seed=1)[0][0].transpose(1, 2, 0)
    decode.write_png(Path("data/raw/t/train/good/0.png"), planes)
    rows = [DatasetImage(f"train/good/{i}.png", "normal", "", "", "learn") for i in range(3)]
    listed = [describe_image(row, Path("data/raw/t"), decode.STORED)[0] for row in rows]
    manifest.write(Path("data/manifests/t/validation.csv"), listed)
    assert found()[0] == {"estimated": 3, "whole": 6}
    decode.write_png(Path("data/raw/t/train/good/0.png"), np.full((90, 70, 3), 60, dtype=np.uint8))
    matte = np.zeros((90, 70), dtype=np.uint8)
    matte[:45] = 255
    for i in range(3):
        decode.write_png(Path(f"data/raw/t/foreground/train/good/{i}.png"), matte)
    listed = [describe_image(row, Path("data/raw/t"), decode.STORED)[0] for row in rows]
    for split in ("validation", "train"):
        manifest.write(Path(f"data/manifests/t/{split}.csv"), listed)
    source, share, cyan = found()
    assert source == {"manifest": 9}
    assert share == pytest.approx(0.5, abs=0.02)
    assert cyan > 9 * 300  # around half of each of 9 tiles of 160 px

    detector = tiny.detector("diffusionad").params
    learnt = manifest.read(Path("data/manifests/t/train.csv"))
    data = training_data(detector, "t", learnt, decode.STORED, {})
    assert data.foreground is not None
    assert data.foreground.shape == (3, 1, tiny.PX, tiny.PX)
    assert (data.foreground[:, :, : tiny.PX // 2 - 1] == 255).all()
    assert not data.foreground[:, :, tiny.PX // 2 + 1 :].any()
