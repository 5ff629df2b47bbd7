"""Sources as people bring them: every file is used, or left out with a reason, or refused."""

import shlex
from collections import Counter
from pathlib import Path

import pytest

from admodels.datasets import Layout, check_trainable, read_layout
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.manifest import Split

SPLIT = Split(validation_share=0.15, calibration_share=0.2, min_normal_images=11)


def plant(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def many(folder: str, count: int, suffix: str = ".png") -> list[str]:
    return [f"{folder}/{index:03}{suffix}" for index in range(count)]


def counts(layout: Layout) -> Counter[tuple[str, str, str]]:
    return Counter((image.label, image.part, image.defect_type) for image in layout.images)


def reasons(layout: Layout) -> dict[str, str]:
    return {left.path: left.reason for left in layout.left_out}


NORMAL_LEARN, NORMAL_TEST = ("normal", "learn", ""), ("normal", "test", "")


@pytest.mark.parametrize(
    ("dataset", "normal", "defect", "mask"),
    [
        ("folder", "normal", "broken", "masks/broken"),
        ("mvtec_ad", "train/good", "test/broken", "ground_truth/broken"),
    ],
)
def test_sub_folders_of_normal_and_of_defects_are_read_with_their_masks(
    tmp_path: Path, dataset: str, normal: str, defect: str, mask: str
) -> None:
    plant(tmp_path, *many(normal, 14), *many(f"{normal}/2026-11-01", 46))
    plant(tmp_path, *many(f"{defect}/line1/night", 3))
    plant(tmp_path, *(f"{mask}/line1/night/{index:03}_mask.png" for index in range(3)))
    layout = read_layout(dataset, "", tmp_path)
    assert counts(layout) == {NORMAL_LEARN: 60, ("anomalous", "test", "broken"): 3}
    assert len(layout.masks) == 3
    assert layout.sentence() == "used 66 of 66 files"


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JP2", ".j2k", ".JFIF"])
def test_seldom_suffixes_of_images_are_images(tmp_path: Path, suffix: str) -> None:
    plant(tmp_path, *many("normal", 2), *many("normal/x", 4, suffix))
    assert counts(read_layout("folder", "", tmp_path)) == {NORMAL_LEARN: 6}


@pytest.mark.parametrize(
    "names",
    [
        ("train/good", "test/Good", "test/broken", "ground_truth/broken"),
        ("Train/GOOD", "TEST/Normal", "TEST/Broken", "Ground_Truth/broken"),
        ("train/normal", "test/good", "Test/broken", "GROUND_TRUTH/BROKEN"),
    ],
)
def test_the_case_of_the_layouts_folders_does_not_matter(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    learn, test, broken, masks = names
    plant(tmp_path, f"{learn}/0.png", f"{test}/1.png", f"{broken}/2.png", f"{masks}/2_mask.png")
    layout = read_layout("mvtec_ad", "", tmp_path)
    defect = broken.rpartition("/")[2]
    assert counts(layout) == {NORMAL_LEARN: 1, NORMAL_TEST: 1, ("anomalous", "test", defect): 1}
    assert (layout.masks, layout.left_out) == ([f"{masks}/2_mask.png"], [])


def test_the_case_of_a_plain_folders_words_does_not_matter(tmp_path: Path) -> None:
    plant(tmp_path, "Normal/0.png", "GOOD/1.png", "Test_Normal/2.png", "x/3.png", "MASKS/x/3.png")
    layout = read_layout("folder", "", tmp_path)
    assert counts(layout) == {NORMAL_LEARN: 2, NORMAL_TEST: 1, ("anomalous", "test", "x"): 1}
    assert (layout.masks, layout.left_out) == (["MASKS/x/3.png"], [])


@pytest.mark.parametrize(
    ("dataset", "normal", "defect"),
    [
        ("folder", "OK", "NG"),
        ("folder", "pass", "fail"),
        ("folder", "n.i.O.", "x"),
        ("folder", "defect_free", "x"),
        ("folder", "good", "1"),
        ("mvtec_ad", "train/OK", "test/NG"),
        ("mvtec_ad", "test/0", "test/1"),
        ("mvtec_ad", "train/good", "test/positive"),
    ],
)
def test_a_folder_that_could_be_normal_or_a_defect_is_refused_with_the_answer(
    tmp_path: Path, dataset: str, normal: str, defect: str
) -> None:
    plant(tmp_path, *many(normal, 12), *many(defect, 2))
    with pytest.raises(ConfigurationError, match="could be normal or defects") as refusal:
        read_layout(dataset, "", tmp_path)
    assert "--normal " in str(refusal.value)
    assert "normal_folders: [" in str(refusal.value)


@pytest.mark.parametrize(
    "word",
    [
        *("Gut", "i.O.", "iO", "in Ordnung", "Gutteile", "fehlerfrei"),
        *("bon", "bonnes", "conforme", "conformes", "sans_d\u00e9faut"),
        *("buono", "buone", "conformi", "senza difetti", "normale"),
        *("bueno", "buenas", "bien", "sin_defecto"),
    ],
)
def test_a_word_for_normal_of_another_language_is_no_defect_in_silence(
    tmp_path: Path, word: str
) -> None:
    plant(tmp_path, *many(word, 12), *many("x", 2))
    with pytest.raises(ConfigurationError, match="could be normal or defects") as refusal:
        read_layout("folder", "", tmp_path)
    assert f"`--normal {shlex.quote(word)}`" in str(refusal.value)


@pytest.mark.parametrize("word", ["bonding", "gutter", "nonconforme", "malo", "schlecht"])
def test_a_word_that_begins_like_normal_is_a_defect(tmp_path: Path, word: str) -> None:
    plant(tmp_path, *many("good", 12), *many(word, 2))
    assert read_layout("folder", "", tmp_path).defect_types == {word: 2}


@pytest.mark.parametrize("word", ["OK", "ok"])
def test_the_answer_says_which_folders_are_normal_and_the_others_are_defects(
    tmp_path: Path, word: str
) -> None:
    plant(tmp_path, *many("OK", 12), *many("NG", 2), *many("test_normal", 1))
    layout = read_layout("folder", "", tmp_path, normal_folders=[word])
    assert counts(layout) == {NORMAL_LEARN: 12, NORMAL_TEST: 1, ("anomalous", "test", "NG"): 2}
    plant(tmp_path, *many("train/OK", 12), *many("test/OK", 3), *many("test/NG", 2))
    layout = read_layout("mvtec_ad", "", tmp_path, normal_folders=[word])
    assert counts(layout) == {NORMAL_LEARN: 12, NORMAL_TEST: 3, ("anomalous", "test", "NG"): 2}


def test_numbers_are_types_of_defects_once_good_is_named_as_the_normal_folder(
    tmp_path: Path,
) -> None:
    plant(tmp_path, *many("train/good", 12), *many("test/0", 2), *many("test/1", 3))
    layout = read_layout("mvtec_ad", "", tmp_path, normal_folders=["good"])
    assert layout.defect_types == {"0": 2, "1": 3}


def test_an_answer_that_names_no_folder_is_refused_with_the_nearest(tmp_path: Path) -> None:
    plant(tmp_path, *many("okay_parts", 12), *many("NG", 2))
    with pytest.raises(ConfigurationError, match="did you mean `okay_parts`"):
        read_layout("folder", "", tmp_path, normal_folders=["okey_parts"])


def refused(dataset: str, category: str, root: Path) -> str:
    layout = read_layout(dataset, category, root)
    with pytest.raises(DataError) as refusal:
        check_trainable(layout, SPLIT)
    return str(refusal.value)


def test_a_typo_in_the_category_is_answered_with_the_categories_that_are_there(
    tmp_path: Path,
) -> None:
    for category in ("bottle", "cable", "capsule"):
        plant(tmp_path, *many(f"{category}/train/good", 12), *many(f"{category}/test/bad", 2))
    text = refused("mvtec_ad", "botle", tmp_path)
    assert "did you mean `bottle`?" in text
    assert "bottle, cable, capsule" in text
    assert "did you mean `capsule`?" in refused("mvtec_ad", "CAPSULE", tmp_path)
    assert "did you mean" not in refused("mvtec_ad", "zipper", tmp_path)


def test_a_typo_in_the_dataset_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean `mvtec_ad`\?"):
        read_layout("mvtec-ad", "", tmp_path)
    with pytest.raises(ConfigurationError, match=r"did you mean `folder`\?"):
        read_layout("Folders", "", tmp_path)


@pytest.fixture(scope="module")
def elpv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the ELPV set of solar cells: images in one folder, and a table beside it."""
    return plant(tmp_path_factory.mktemp("elpv"), *many("images", 60), "labels.csv")


@pytest.mark.parametrize("dataset", ["mvtec_ad", "folder", "visa", "dagm"])
def test_unlabelled_images_in_one_folder_beside_a_table_are_refused_with_what_is_there(
    elpv: Path, dataset: str
) -> None:
    text = refused(dataset, "elpv", elpv)
    assert "0 normal images to learn from, at least 11 are needed" in text
    assert "60 images in images" in text
    assert f"the layout `{dataset}`: " in text
    assert "manifest.csv" in text


@pytest.mark.parametrize(
    "names",
    [
        (*many("NEU/DET/train/images", 30, ".jpg"), *many("NEU/DET/train/annotations", 30, ".xml")),
        (*many("data/set/images/train", 30, ".jpg"), *many("data/set/labels/train", 30, ".txt")),
    ],
)
@pytest.mark.parametrize("dataset", ["mvtec_ad", "folder"])
def test_a_detection_data_set_two_folders_deeper_is_refused_with_what_is_there(
    tmp_path: Path, names: tuple[str, ...], dataset: str
) -> None:
    plant(tmp_path, *names)
    text = refused(dataset, "steel", tmp_path)
    assert "0 normal images to learn from" in text
    assert f"30 images in {names[0].rpartition('/')[0]}" in text


def test_a_category_two_folders_deeper_is_refused_with_its_folder(tmp_path: Path) -> None:
    plant(tmp_path, *many("a/b/bottle/train/good", 12))
    assert f"`{tmp_path}/a/b/bottle`" in refused("mvtec_ad", "bottle", tmp_path)
    assert f"`{tmp_path}/a/b/bottle`" in refused("mvtec_ad", "screw", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "names", "other"),
    [
        ("mvtec_ad", many("normal", 12), "folder"),
        ("folder", many("Train", 12), "dagm"),
    ],
)
def test_the_layout_that_fits_is_named(
    tmp_path: Path, dataset: str, names: list[str], other: str
) -> None:
    plant(tmp_path, *names)
    assert f"`--dataset {other}`" in refused(dataset, "", tmp_path)


def test_a_flat_folder_is_normal_only_if_its_owner_says_so(tmp_path: Path) -> None:
    plant(tmp_path, *many(".", 12))
    assert "if all images right in the folder are normal: `--dataset folder`" in refused(
        "mvtec_ad", "", tmp_path
    )
    check_trainable(read_layout("folder", "", tmp_path), SPLIT)


def test_too_few_normal_images_are_refused_with_how_many_are_missing(tmp_path: Path) -> None:
    plant(tmp_path, *many("normal", 8), *many("broken", 20))
    text = refused("folder", "", tmp_path)
    assert "8 normal images to learn from, at least 11 are needed" in text
    assert "add 3 normal images" in text
    assert "add 1 normal image\n" in refused("folder", "", plant(tmp_path, *many("good", 2))) + "\n"
    check_trainable(read_layout("folder", "", plant(tmp_path, *many("good", 3))), SPLIT)


def test_anomalous_images_to_learn_from_are_refused_before_anything_is_copied(
    tmp_path: Path,
) -> None:
    plant(tmp_path, *many("train/good", 12), *many("train/broken", 2))
    text = refused("mvtec_ad", "", tmp_path)
    assert "2 anomalous images outside the test part" in text
    assert "train/broken/000.png, train/broken/001.png" in text
