"""Readers of dataset layouts, and the sample that is drawn."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import ValidationError

from admodels import datasets
from admodels.datasets import sample
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.manifest import DatasetImage, Split
from admodels.images import decode
from admodels.sources.fetch import fetch, pin_source, tree_sha256
from admodels.sources.source import Source, Task
from admodels.validation import inspect
from admodels.validation.splits import share_out

SHARED = Path(os.environ.get("ADMODELS_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))
SPLIT = Split(validation_share=0.25, calibration_share=0.2, min_normal_images=11)
SOURCE = Source(kind="path", location="x", sha256="0" * 64)


def task(dataset, category="bottle"):
    block = {"dataset": dataset, "category": category, "kind": "object", "licence": "ours"}
    return Task(**block, source=SOURCE)


def category_of(dataset, category="bottle"):
    return dataset, category


def images_of(dataset, category, root):
    return datasets.read_layout(dataset, category, root).images


def refuse_untrainable(dataset, category, root):
    datasets.check_trainable(datasets.read_layout(dataset, category, root), SPLIT)


def planted(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


MVTEC = (
    "train/good/000.png",
    "train/good/001.JPG",
    "train/good/._000.png",
    "train/good/notes.txt",
    "calibration/good/000.png",
    "test/good/000.png",
    "test/crack/a.TIFF",
    "test/crack/.hidden.png",
    "ground_truth/crack/a_mask.PNG",
    "ground_truth/crack/._a_mask.png",
    "license.txt",
)


@pytest.mark.parametrize("base", ["", "bottle/"])
def test_mvtec_ad_is_read_from_the_category_and_from_above_it(tmp_path, base):
    planted(tmp_path, *(base + name for name in MVTEC))
    assert images_of(*category_of("mvtec_ad"), tmp_path) == [
        DatasetImage(f"{base}calibration/good/000.png", "normal", "", "", "calibration"),
        DatasetImage(
            f"{base}test/crack/a.TIFF",
            "anomalous",
            "crack",
            f"{base}ground_truth/crack/a_mask.PNG",
            "test",
        ),
        DatasetImage(f"{base}test/good/000.png", "normal", "", "", "test"),
        DatasetImage(f"{base}train/good/000.png", "normal", "", "", "learn"),
        DatasetImage(f"{base}train/good/001.JPG", "normal", "", "", "learn"),
    ]


def test_without_any_masks_anomalies_have_none(tmp_path):
    planted(tmp_path, "train/good/0.png", "test/crack/a.png")
    assert images_of(*category_of("mvtec_ad"), tmp_path)[0].mask_path == ""


@pytest.mark.parametrize("others", [["ground_truth/crack/b_mask.png"], ["ground_truth/x/y.png"]])
def test_a_missing_mask_among_masks_is_named_as_it_should_be_called(tmp_path, others):
    planted(tmp_path, "train/good/0.png", "test/crack/a.png", *others)
    images = images_of(*category_of("mvtec_ad"), tmp_path)
    assert images[0].mask_path == "ground_truth/crack/a_mask.png"
    assert not (tmp_path / images[0].mask_path).exists()


@pytest.mark.parametrize("part", ["train", "calibration"])
def test_defects_among_the_images_to_learn_from_are_told_as_anomalous(tmp_path, part):
    planted(tmp_path, "train/good/0.png", f"{part}/crack/a.png", "ground_truth/x/y.png")
    given = {"train": "learn", "calibration": "calibration"}[part]
    expected = DatasetImage(f"{part}/crack/a.png", "anomalous", "crack", "", given)
    assert expected in images_of(*category_of("mvtec_ad"), tmp_path)


FOLDER = ("crack/a.png", "crack/b.JPEG", "test_normal/0.bmp", "masks/crack/a.png")


@pytest.mark.parametrize(
    "learn",
    [
        ["normal/0.png", "normal/1.Webp"],
        ["good/0.png", "good/1.Webp"],
        ["0.png", "1.Webp"],
    ],
)
def test_a_plain_folder_is_read(tmp_path, learn):
    planted(tmp_path, *learn, *FOLDER, "masks/crack/b_mask.png")
    planted(tmp_path, "masks/overview.png", ".cache/x.png", "._0.png")
    images = images_of(*category_of("folder"), tmp_path)
    assert {f for f in images if f.part == "learn"} == {
        DatasetImage(name, "normal", "", "", "learn") for name in learn
    }
    assert {f for f in images if f.part == "test"} == {
        DatasetImage("crack/a.png", "anomalous", "crack", "masks/crack/a.png", "test"),
        DatasetImage("crack/b.JPEG", "anomalous", "crack", "masks/crack/b_mask.png", "test"),
        DatasetImage("test_normal/0.bmp", "normal", "", "", "test"),
    }
    assert images == sorted(images, key=lambda f: f.image_path)


def test_a_plain_folder_promises_all_masks_or_none(tmp_path):
    planted(tmp_path, "0.png", *FOLDER)
    masks = {f.image_path: f.mask_path for f in images_of(*category_of("folder"), tmp_path)}
    assert masks["crack/b.JPEG"] == "masks/crack/b.png"
    for path in (tmp_path / "masks/crack/a.png", tmp_path / "masks/crack", tmp_path / "masks"):
        path.unlink() if path.is_file() else path.rmdir()
    images = images_of(*category_of("folder"), tmp_path)
    assert {f.mask_path for f in images} == {""}


def pictured(root, *names, value=None):
    """Small real pictures, each another crop of gravel; with a value, masks of a square of it."""
    photo = photograph("gravel")
    for at, name in enumerate(names):
        crop = photo[at * 8 : at * 8 + 24, at * 8 : at * 8 + 32]
        if value is not None:
            crop = np.zeros_like(crop)
            crop[4:12, 6:16] = value
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(crop).save(root / name, format="JPEG" if "JPG" in name else "PNG")
    return root


def parts(images):
    """How many images each part has of each label."""
    counted = {}
    for image in images:
        counted[image.part, image.label] = counted.get((image.part, image.label), 0) + 1
    return counted


def masks_of(images, root):
    """By image, the share of its pixels that its mask marks."""
    inspected, unreadable = inspect.inspect_images(images, root, decode.STORED)
    assert not unreadable
    assert {facts.mask_problem for _, _, facts in inspected} <= {""}
    return {row.image_path: facts.mask_area_share for _, row, facts in inspected if row.mask_path}


def visa(root):
    """The release as it is: two categories, a split table, masks of class ids."""
    names = [f"candle/Data/Images/Normal/{i:04}.JPG" for i in range(5)]
    pictured(root, *names, "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Images/Anomaly/1.JPG")
    pictured(root, "candle/Data/Masks/Anomaly/000.png", value=3)
    pictured(root, "candle/Data/Masks/Anomaly/1.png", value=[[1, 1, 1, 1, 1, 9, 9, 9, 9, 9]])
    pictured(root, "pcb1/Data/Images/Normal/0000.JPG")
    lines = ["object,split,label,image,mask"]
    lines += [f"candle,{'test' if i > 3 else 'train'},normal,{n}," for i, n in enumerate(names)]
    bad = "candle/Data/Images/Anomaly/{0}.JPG,candle/Data/Masks/Anomaly/{0}.png"
    lines += ["candle,test,anomaly," + bad.format(name) for name in ("000", "1")]
    lines += ["pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,"]
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def test_visa_as_released_is_split_by_its_table_and_class_ids_are_a_mask(tmp_path):
    root = visa(tmp_path)
    images = images_of(*category_of("visa", "candle"), root)
    assert parts(images) == {
        ("learn", "normal"): 4,
        ("test", "normal"): 1,
        ("test", "anomalous"): 2,
    }
    assert {image.defect_type for image in images} == {"", "bad"}
    share = round(8 * 10 / (24 * 32), 6)
    bad = "candle/Data/Images/Anomaly/"
    assert masks_of(images, root) == {f"{bad}000.JPG": share, f"{bad}1.JPG": share}


def test_visas_split_table_comes_along_with_its_category_and_no_other(tmp_path):
    root = visa(tmp_path / "VisA")
    archive = shutil.make_archive(str(tmp_path / "visa"), "tar", tmp_path, "VisA")
    for location in (root, archive):
        fetch(pin_source(str(location), "candle"), "candle", tmp_path / "raw")
        assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["candle", "split_csv"]
        assert len(images_of(*category_of("visa", "candle"), tmp_path / "raw")) == 7
    assert pin_source(str(root), "candle").sha256 == tree_sha256(tmp_path / "raw")


def test_visa_as_released_without_its_table_is_refused(tmp_path):
    root = visa(tmp_path)
    with pytest.raises(DataError, match=r"table of splits is missing[\s\S]*1cls\.csv"):
        images_of(*category_of("visa", "candle"), root / "candle")
    text = "object,split,label,image,mask\ncandle,dev,normal,a,\n"
    (root / "split_csv/1cls.csv").write_text(text)
    with pytest.raises(DataError, match="part `dev`"):
        images_of(*category_of("visa", "candle"), root)


@pytest.mark.parametrize("base", ["", "candle/"])
def test_visa_as_converted_is_read(tmp_path, base):
    pictured(tmp_path, *(base + n for n in ("train/good/0.JPG", "test/good/1.jpg")))
    pictured(tmp_path, f"{base}test/bad/000.JPG")
    pictured(tmp_path, f"{base}ground_truth/bad/000.png", value=255)
    images = images_of(*category_of("visa", "candle"), tmp_path)
    assert parts(images) == dict.fromkeys(
        [("learn", "normal"), ("test", "normal"), ("test", "anomalous")], 1
    )
    assert masks_of(images, tmp_path) == {f"{base}test/bad/000.JPG": round(80 / 768, 6)}


def dagm(root):
    """One class of the release: a defect among four training images, one among three others."""
    for part, count, bad in (("Train", 4, "0002"), ("Test", 3, "0001")):
        pictured(root, *(f"Class1/{part}/{i:04}.PNG" for i in range(count)))
        pictured(root, f"Class1/{part}/Label/{bad}_label.PNG", value=255)
        lines = ["1"] + [
            f"{i}\t{int(f'{i:04}' == bad)}\t{i:04}.PNG\t0\t"
            + (f"{bad}_label.PNG" if f"{i:04}" == bad else "0")
            for i in range(count)
        ]
        (root / f"Class1/{part}/Label/Labels.txt").write_text("\r\n".join(lines))
    return root


@pytest.mark.parametrize("base", ["", "Class1"])
def test_the_defects_that_dagm_trains_with_are_tested_with(tmp_path, base):
    root = dagm(tmp_path) / base
    images = images_of(*category_of("dagm", "Class1"), root)
    assert parts(images) == {
        ("learn", "normal"): 3,
        ("test", "normal"): 2,
        ("test", "anomalous"): 2,
    }
    above = "" if base else "Class1/"
    assert [image.image_path for image in images if image.moved] == [f"{above}Train/0002.PNG"]
    share = round(80 / 768, 6)
    bad = [f"{above}Test/0001.PNG", f"{above}Train/0002.PNG"]
    assert masks_of(images, root) == dict.fromkeys(bad, share)


def test_a_defect_that_only_dagms_list_knows_is_no_normal_image(tmp_path):
    root = dagm(tmp_path)
    (root / "Class1/Train/Label/0002_label.PNG").unlink()
    images = {image.image_path: image for image in images_of(*category_of("dagm", "Class1"), root)}
    image = images["Class1/Train/0002.PNG"]
    assert (image.label, image.mask_path) == ("anomalous", "Class1/Train/Label/0002_label.PNG")
    (root / "Class1/Train/Label/Labels.txt").unlink()
    images = {image.image_path: image for image in images_of(*category_of("dagm", "Class1"), root)}
    assert images["Class1/Train/0002.PNG"].label == "normal"


def test_mpdd_is_read_as_mvtec_ad_is(tmp_path):
    pictured(tmp_path, "tubes/train/good/000.png", "tubes/test/good/000.PNG")
    pictured(tmp_path, "tubes/test/anomalous/000.png")
    pictured(tmp_path, "tubes/ground_truth/anomalous/000_mask.png", value=255)
    images = images_of(*category_of("mpdd", "tubes"), tmp_path)
    assert images == images_of(*category_of("mvtec_ad", "tubes"), tmp_path)
    assert masks_of(images, tmp_path) == {"tubes/test/anomalous/000.png": round(80 / 768, 6)}


def test_a_table_describes_any_layout_without_moving_a_file(tmp_path):
    pictured(tmp_path, "shift 1/cam/ok_1.png", "shift 1/cam/ok_2.JPG", "nok/1.png", "nok/2.png")
    pictured(tmp_path, "truth/1.png", value=1)
    (tmp_path / "manifest.csv").write_text(
        "\ufefflabel,image_path,mask_path,part,defect_type,group\r\n"
        "normal,shift 1/cam/ok_1.png,,,,shift 1\r\n"
        "normal,shift 1/cam/ok_2.JPG,,calibration,,\r\n"
        'anomalous,nok/1.png,truth/1.png,,"dent, deep",\r\n'
        "anomalous,nok/2.png,,test,,\r\n",
        encoding="utf-8",
        newline="",
    )
    assert images_of(*category_of("folder"), tmp_path) == [
        DatasetImage("nok/1.png", "anomalous", "dent, deep", "truth/1.png", "test"),
        DatasetImage("nok/2.png", "anomalous", "defect", "", "test"),
        DatasetImage("shift 1/cam/ok_1.png", "normal", "", "", "learn", group="shift 1"),
        DatasetImage("shift 1/cam/ok_2.JPG", "normal", "", "", "calibration"),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("image_path\na.png\n", "columns"),
        ("image_path,label,colour\na.png,normal,red\n", "colour"),
        ("image_path,label\na.png,good\n", "label `good`"),
        ("image_path,label,part\na.png,normal,train\n", "part `train`"),
        ("image_path,label\na.png,normal,1\n", "line 2"),
        ("image_path,label\ngone.png,normal\n", "not there.*\\n.*gone.png"),
        ("image_path,label\n../a.png,normal\n", "`../a.png` stands outside[\\s\\S]*line 2"),
        (
            "image_path,label,mask_path\na.png,anomalous,/etc/x.png\n",
            "`/etc/x.png` stands outside",
        ),
        ("image_path,label\na.png,normal\na.png,anomalous\n", "twice.*\\n.*a.png"),
        ("image_path,label\n", "0 normal images to learn from"),
        ("", "columns"),
        ("image_path,label\n\x81\udcff,normal\n", "cp1252"),
    ],
)
def test_an_unclear_table_is_refused(tmp_path, text, named):
    pictured(tmp_path, "in/a.png", "a.png")
    (tmp_path / "in/manifest.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=named):
        refuse_untrainable(*category_of("folder", "in"), tmp_path)


@pytest.mark.parametrize("dataset", ["mvtec_ad", "folder", "sample", "visa", "dagm", "mpdd"])
def test_an_empty_or_missing_folder_is_refused(tmp_path, dataset):
    planted(tmp_path, "notes.txt", "train/good/notes.txt")
    layout = datasets.read_layout(*category_of(dataset), tmp_path)
    assert layout.sentence() == "used 0 of 2 files: 2 unknown suffix"
    with pytest.raises(DataError, match=f"0 normal images[\\s\\S]*`{dataset}`"):
        datasets.check_trainable(layout, SPLIT)
    with pytest.raises(DataError, match="dvc repro fetch"):
        images_of(*category_of(dataset), tmp_path / "gone")


def test_an_unknown_layout_is_refused_with_those_that_exist(tmp_path):
    assert datasets.layouts() == ["dagm", "folder", "mpdd", "mvtec_ad", "sample", "visa"]
    with pytest.raises(ConfigurationError, match=r"mvtec`[\s\S]*dagm, folder, .*, visa"):
        images_of(*category_of("mvtec"), tmp_path)


def test_a_task_has_exactly_its_keys_and_the_others_may_be_absent():
    needed = {name for name, field in Task.model_fields.items() if field.is_required()}
    assert needed == {"dataset", "category", "kind", "licence", "source"}
    block = task("folder").model_dump()
    with pytest.raises(ValidationError):
        Task(**{**block, "kind": "thing"})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    for category in sample.CATEGORIES:
        sample.draw(category, root / category)
    return root


def grey(path):
    with Pillow.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def photograph(category):
    return decode.decode_image(sample.photograph(category), category).rgb[:, :, 0]


def columns_of(crop, photo):
    """The left columns at which the crop stands in the photograph."""
    windows = np.lib.stride_tricks.sliding_window_view(photo, (1, crop.shape[1]))[:, :, 0]
    for y, x in np.argwhere((windows[: -crop.shape[0] + 1, :, :8] == crop[0, :8]).all(axis=-1)):
        if np.array_equal(photo[y : y + crop.shape[0], x : x + crop.shape[1]], crop):
            yield x


@pytest.mark.parametrize("category", sample.CATEGORIES)
def test_the_sample_has_its_parts_and_splits_as_promised(drawn, category):
    root = drawn / category
    images = images_of(*category_of("sample", category), root)
    inspected, unreadable = inspect.inspect_images(images, root, decode.STORED)
    pairs = [(one, row) for one, row, _ in inspected]
    split = Split(validation_share=0.25, calibration_share=0.2, min_normal_images=11)
    shared_out = share_out(pairs, split, 0.05, 7, "tiny")[0]
    assert not unreadable
    assert {k: len(v) for k, v in shared_out.items()} == {
        "train": 60,
        "validation": 20,
        "calibration": 40,
        "test": 44,
    }
    assert {(r.width, r.height, r.mode, r.bit_depth) for _, r in pairs} == {(96, 96, "L", 8)}
    defects = [r.defect_type for r in shared_out["test"] if r.label == "anomalous"]
    assert {d: defects.count(d) for d in defects} == sample.DEFECTS
    assert len({r.image_sha256 for _, r in pairs}) == len(pairs)
    assert "CC0" in (root / "LICENCE.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "left", "right"),
    [("train", 0, 208), ("calibration", 224, 360), ("test", 376, 512)],
)
def test_every_normal_crop_comes_from_its_own_zone(drawn, part, left, right):
    photo = photograph("gravel")
    for path in sorted((drawn / "gravel" / part / "good").iterdir()):
        columns = list(columns_of(grey(path), photo))
        assert columns
        assert all(left <= x and x + 96 <= right for x in columns)


def clean_crop(drawn_image, mask, photo):
    """The crop of the test zone that equals the image outside the mask, bit for bit."""
    for x in range(376, 417, 8):
        for y in range(0, 417, 8):
            crop = photo[y : y + 96, x : x + 96]
            if np.array_equal(crop[~mask], drawn_image[~mask]):
                return crop
    raise AssertionError("no clean crop agrees outside the mask")


@pytest.mark.parametrize("category", sample.CATEGORIES)
def test_masks_are_exact_and_every_defect_is_visible(drawn, category):
    root = drawn / category
    photo = photograph(category)
    areas = []
    for path in sorted(root.glob("test/[!g]*/*.png")):
        image = grey(path)
        mask_values = grey(root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png")
        assert set(np.unique(mask_values)) == {0, 255}
        mask = mask_values > 0
        clean = clean_crop(image, mask, photo)
        np.testing.assert_array_equal(image != clean, mask)
        change = np.abs(image.astype(int) - clean)[mask]
        assert change.mean() >= sample.LEAST_CONTRAST
        areas.append(mask.mean())
    assert len(areas) == 24
    assert min(areas) >= 30 / 96**2
    assert max(areas) <= 0.25
    assert max(areas) / min(areas) > 10  # small and large


@pytest.mark.parametrize("defect", sample.DEFECTS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_defect_changes_every_pixel_of_its_mask_even_at_the_ends_of_the_range(defect, level):
    clean = np.full((96, 96), level, dtype=np.uint8)
    clean[::3] ^= 24  # some texture, for `missing` to remove
    others = [photograph("brick"), photograph("grass")]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, mask = sample.defective(defect, clean, 0.1, rng, others)
        np.testing.assert_array_equal(image != clean, mask)
        assert np.abs(image.astype(int) - clean)[mask].mean() >= sample.LEAST_CONTRAST
        assert mask.sum() >= 30


def test_the_sample_is_drawn_the_same_twice_and_differs_by_category(drawn, tmp_path):
    sample.draw("brick", tmp_path)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 80 + 40 + 20 + 24 + 24 + 1
    for path in files:
        assert path.read_bytes() == (drawn / "brick" / path.relative_to(tmp_path)).read_bytes()
    masks = [(drawn / c / "ground_truth/hole/000_mask.png").read_bytes() for c in drawn.iterdir()]
    assert len(set(masks)) == 3


def test_an_unknown_sample_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="brick, gravel, grass"):
        sample.draw("moon", tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")
@pytest.mark.parametrize(
    ("folder", "category", "learn", "normal", "anomalous"),
    [("mvtec_ad", "bottle", 209, 20, 63), ("magnetic_tile", "tile", 400, 80, 192)],
)
def test_real_datasets_are_found_whole(folder, category, learn, normal, anomalous):
    images = images_of(*category_of("mvtec_ad", category), SHARED / folder)
    assert sum(f.part == "learn" for f in images) == learn
    assert sum(f.part == "test" and f.label == "normal" for f in images) == normal
    assert sum(f.label == "anomalous" and f.mask_path != "" for f in images) == anomalous
    assert len(images) == learn + normal + anomalous
