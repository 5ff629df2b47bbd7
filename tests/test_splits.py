"""How images fall into four splits, and how many more a promise would take."""

import hashlib
from dataclasses import replace

import pytest
from pydantic import ValidationError

from admodels.foundation import manifest
from admodels.foundation.errors import DataError
from admodels.foundation.manifest import DatasetImage, ManifestRow, Split
from admodels.inference.conformal import images_needed
from admodels.validation.splits import Shortage, share_out

SPLIT = Split(validation_share=0.25, calibration_share=0.2, min_normal_images=11)
USUAL = Split(validation_share=0.15, calibration_share=0.2, min_normal_images=11)


def pair(name, part="learn", label="normal", content=None):
    found = DatasetImage(name, label, "" if label == "normal" else "scratch", "", part)
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    image_id = name.rsplit(".", 1)[0]
    row = ManifestRow(
        image_id, name, digest, 8, 9, "RGB", 8, label, found.defect_type, "", "", "", ""
    )
    return found, row


def learnable(count):
    return [pair(f"train/good/{i:03}.png") for i in range(count)]


def paths(rows):
    return {row.image_path for row in rows}


TESTED = pair("test/good/normal.png", "test")  # with it, nothing is held out to test with


def splits(images, split=SPLIT, seed=7):
    """The splits of images with a normal test image, at a budget that one image can promise."""
    return share_out([*images, TESTED], split, 0.5, seed, "tiny")[0]


def sizes(images, split=USUAL, alpha=0.05):
    """The counts of train, validation, calibration and test, and what is missing."""
    shared_out, shortage = share_out(images, split, alpha, 7, "tiny")
    assert tuple(shared_out) == manifest.SPLITS
    return [len(rows) for rows in shared_out.values()], shortage


@pytest.mark.parametrize(
    ("count", "calibration", "validation"), [(11, 2, 3), (12, 2, 3), (20, 4, 5), (209, 42, 52)]
)
def test_counts_are_rounded_half_up_and_every_image_is_in_one_split(count, calibration, validation):
    test = [pair("test/scratch/0.png", "test", "anomalous"), TESTED]
    shared_out = splits(learnable(count) + test[:1])
    assert tuple(shared_out) == manifest.SPLITS
    assert len(shared_out["calibration"]) == calibration
    assert len(shared_out["validation"]) == validation
    assert len(shared_out["train"]) == count - calibration - validation
    assert paths(shared_out["test"]) == {"test/good/normal.png", "test/scratch/0.png"}
    assert set.union(*map(paths, shared_out.values())) == paths(
        row for _, row in learnable(count) + test
    )


def test_a_tiny_share_still_gives_one_image():
    split = Split(validation_share=0.001, calibration_share=0.001, min_normal_images=11)
    assert [len(rows) for rows in splits(learnable(11), split).values()] == [9, 1, 1, 1]


def test_the_order_is_the_documented_hash_of_seed_and_content():
    rows = [row for _, row in learnable(20)]
    ordered = sorted(rows, key=lambda r: hashlib.sha256(f"7:{r.image_sha256}".encode()).digest())
    shared_out = splits(learnable(20))
    assert shared_out["calibration"] == ordered[:4]
    assert shared_out["train"] == ordered[4:15]
    assert shared_out["validation"] == ordered[15:]


def test_the_split_depends_on_content_and_seed_and_not_on_order_or_names():
    first = splits(learnable(40))
    assert splits(learnable(40)[::-1]) == first
    assert splits(learnable(40), seed=8) != first
    renamed = [pair(f"r/{i:03}.png", content=f"train/good/{i:03}.png") for i in range(40)]
    hashes = {row.image_sha256 for row in splits(renamed)["train"]}
    assert hashes == {row.image_sha256 for row in first["train"]}


def test_changing_the_test_part_leaves_the_other_splits_as_they_were():
    before = splits([*learnable(20), pair("test/good/0.png", "test")])
    after = splits([*learnable(20), pair("test/good/1.png", "test")])
    assert {k: v for k, v in before.items() if k != "test"} == {
        k: v for k, v in after.items() if k != "test"
    }


def test_a_calibration_part_of_the_dataset_is_used_instead_of_a_share():
    brought = [pair(f"calibration/good/{i}.png", "calibration") for i in range(3)]
    shared_out = splits(learnable(20) + brought)
    assert paths(shared_out["calibration"]) == paths(row for _, row in brought)
    assert len(shared_out["train"]) == 15
    assert len(shared_out["validation"]) == 5


def test_fewer_than_eleven_normal_images_are_refused_and_eleven_are_not():
    with pytest.raises(DataError, match=r"10 normal images[\s\S]*at least 11[\s\S]*refresh tiny`"):
        splits(learnable(10))
    splits(learnable(11))


@pytest.mark.parametrize("part", ["learn", "calibration"])
def test_an_anomalous_image_outside_test_is_refused_by_name(part):
    wrong = pair("train/good/bad.png", part, "anomalous")
    with pytest.raises(DataError, match=r"anomalous[\s\S]*train/good/bad\.png"):
        splits([*learnable(20), wrong])


def test_the_same_image_in_two_splits_is_refused_and_both_are_named():
    copy = pair("test/good/copy.png", "test", content="train/good/003.png")
    with pytest.raises(DataError, match="same image in two splits") as refusal:
        splits([*learnable(20), copy])
    assert "train/good/003.png" in str(refusal.value)
    assert "test/good/copy.png (test)" in str(refusal.value)


def test_the_same_image_twice_in_one_split_is_allowed():
    copies = [pair(f"test/good/{i}.png", "test", content="same") for i in range(2)]
    assert len(splits(learnable(20) + copies)["test"]) == 3


def test_two_images_that_differ_in_their_extension_are_refused():
    twins = [pair("test/good/a.png", "test"), pair("test/good/a.jpg", "test")]
    with pytest.raises(DataError, match=r"test/good/a\.png and test/good/a\.jpg"):
        splits(learnable(20) + twins)


@pytest.mark.parametrize(
    "block",
    [
        {"validation_share": 0.0, "calibration_share": 0.2, "min_normal_images": 11},
        {"validation_share": 0.5, "calibration_share": 0.2, "min_normal_images": 11},
        {"validation_share": 0.2, "calibration_share": 0.8, "min_normal_images": 11},
        {"validation_share": 0.2, "calibration_share": 0.2, "min_normal_images": 10},
        {"validation_share": 0.4, "calibration_share": 0.55, "min_normal_images": 11},
    ],
)
def test_shares_out_of_bounds_are_refused(block):
    with pytest.raises(ValidationError):
        Split(**block)


def test_the_widest_shares_leave_something_to_train_at_every_count():
    split = Split(validation_share=0.45, calibration_share=0.45, min_normal_images=11)
    for count in range(11, 60):
        assert splits(learnable(count), split)["train"]


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_image_never_stand_on_both_sides_of_a_boundary(seed):
    rows = []
    for i in range(12):
        found, row = pair(f"train/good/{i:02}.png")
        for k in range(5):
            copy = replace(row, image_path=f"{i}_{k}.png", image_id=f"{i}_{k}")
            rows.append((replace(found, image_path=copy.image_path), copy))
    split = Split(validation_share=0.31, calibration_share=0.29, min_normal_images=11)
    shared_out = splits(rows, split, seed)
    hashes = [{row.image_sha256 for row in shared_out[name]} for name in manifest.SPLITS[:-1]]
    assert sum(map(len, hashes)) == len(set.union(*hashes)) == 12


def test_copies_of_one_image_cannot_be_shared_out():
    found, row = pair("a.png")
    copies = [replace(row, image_path=f"{k}.png", image_id=str(k)) for k in range(15)]
    rows = [(replace(found, image_path=copy.image_path), copy) for copy in copies]
    with pytest.raises(DataError, match=r"no images are left for train[\s\S]*14\.png"):
        splits(rows)


@pytest.mark.parametrize(
    ("images", "expected", "missing"),
    [
        (11, [7, 2, 2, 1], 19),  # of 30: 19 to calibrate and 11 to learn from
        (29, [19, 4, 6, 1], 1),
        (30, [9, 2, 19, 1], 0),
        (31, [10, 2, 19, 1], 0),
        (95, [62, 14, 19, 1], 0),  # a fifth of 95 is what the budget needs
        (209, [136, 31, 42, 1], 0),  # the bottles of MVTec AD, as they always were
    ],
)
def test_calibration_gets_first_what_the_budget_needs_if_enough_is_left(images, expected, missing):
    found, shortage = sizes([*learnable(images), TESTED])
    assert found == expected
    assert shortage == Shortage("images", to_calibrate=missing)


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.05, 0.02])
@pytest.mark.parametrize("calibration_share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("tested", [True, False])
def test_adding_the_missing_images_is_enough_and_one_less_is_not(alpha, calibration_share, tested):
    split = replace_share(calibration_share)
    more = [TESTED] if tested else []
    for count in (11, 14, 29, 60):
        _, shortage = sizes(learnable(count) + more, split, alpha)
        for name in ("to_calibrate", "to_test"):
            missing = getattr(shortage, name)
            if missing:
                enough = sizes(learnable(count + missing) + more, split, alpha)[1]
                less = sizes(learnable(count + missing - 1) + more, split, alpha)[1]
                assert (getattr(enough, name), getattr(less, name)) == (0, 1)


def replace_share(calibration_share):
    return USUAL.model_copy(update={"calibration_share": calibration_share})


def test_however_many_images_there_are_the_parts_keep_to_their_bounds():
    for count in range(11, 260):
        (train, validation, calibration, test), shortage = sizes(learnable(count))
        assert train + validation + calibration + test == count
        assert (calibration >= images_needed(0.05)) == (shortage.to_calibrate == 0)
        assert train + validation >= 11 or shortage.to_calibrate
        assert train >= 2 * validation >= 2
        assert test in (0, calibration)
        assert (test > 0) == (shortage.to_test == 0)
        assert test <= (count - calibration) / 3


def test_normal_images_are_held_out_to_test_with_only_where_the_data_set_has_none():
    assert sizes(learnable(75)) == ([46, 10, 19, 0], Shortage("images", to_test=1))
    assert sizes(learnable(76)) == ([31, 7, 19, 19], Shortage("images"))
    assert sizes(learnable(209)) == ([102, 23, 42, 42], Shortage("images"))
    defect = pair("test/scratch/0.png", "test", "anomalous")
    assert sizes([*learnable(209), defect])[0] == [102, 23, 42, 43]
    assert sizes([*learnable(209), defect, TESTED])[0] == [136, 31, 42, 2]


def test_holding_out_test_images_leaves_the_calibration_images_as_they_were():
    alone = splits(learnable(209))
    held_out = share_out(learnable(209), SPLIT, 0.5, 7, "tiny")[0]
    assert held_out["calibration"] == alone["calibration"]
    assert paths(held_out["test"]) <= paths(alone["train"])


def test_a_calibration_part_that_is_too_small_says_how_many_are_missing():
    own = [pair(f"calibration/good/{i}.png", "calibration") for i in range(3)]
    found, shortage = sizes([*learnable(60), *own])
    assert found == [35, 6, 3, 19]
    assert shortage == Shortage("images", to_calibrate=16)


@pytest.mark.parametrize("seed", range(5))
def test_what_collect_copied_neither_calibrates_nor_tests(seed):
    """People chose these images by what they looked at, often by a score."""
    copied = []
    for number in range(12):
        image, row = pair(f"copy {number}")
        path = f"normal/{row.image_sha256}.png"
        copied.append(
            (replace(image, image_path=path), replace(row, image_path=path, image_id=path))
        )
    shared_out, _ = share_out([*copied, *learnable(108)], USUAL, 0.05, seed, "tiny")
    names = paths(row for _, row in copied)
    assert shared_out["test"]
    assert not names & paths(shared_out["calibration"] + shared_out["test"])
    assert names <= paths(shared_out["train"] + shared_out["validation"])
