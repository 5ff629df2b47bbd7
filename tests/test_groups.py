"""Images of one piece, and near copies: one split, one score each, and false alarms that hold."""

import re
from dataclasses import replace

import numpy as np
import pytest

from admodels.foundation import manifest
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.manifest import DatasetImage, Split
from admodels.foundation.params import parse
from admodels.images.describe import THUMBNAIL_PX
from admodels.sources.source import Task
from admodels.validation import groups, similarity
from admodels.validation.inspect import Facts, Inspected
from admodels.validation.splits import Rows, Shortage, share_out
from benchmarks import groups as simulation
from tests.test_manifest import row

SPLIT = Split(validation_share=0.15, calibration_share=0.2, min_normal_images=11)
TASK = {
    "dataset": "folder",
    "category": "",
    "kind": "object",
    "licence": "ours",
    "source": {"kind": "path", "location": "x", "sha256": "0" * 64},
}


def pieces(count: int, images: int, part: str = "learn", first: int = 0) -> list[DatasetImage]:
    paths = [f"{part}/p{i:03}_{k}.png" for i in range(first, first + count) for k in range(images)]
    return [DatasetImage(path, "normal", "", "", part, group=path[-10:-6]) for path in paths]  # type: ignore[arg-type]


def shared_out(images: list[DatasetImage], alpha: float = 0.05) -> tuple[Rows, Shortage]:
    rows = [(image, row(image.image_path, group=image.group)) for image in images]
    return share_out(rows, SPLIT, alpha, 7, "tiny")


def names(rows: list[manifest.ManifestRow]) -> set[str]:
    return {row.group for row in rows}


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_group_stands_in_one_split_and_calibration_takes_what_the_budget_needs(
    images: int,
) -> None:
    splits, shortage = shared_out(pieces(40, images) + pieces(2, images, "test", first=40))
    members = [names(rows) for rows in splits.values()]
    assert sum(map(len, members)) == len(set.union(*members)) == 42
    assert (len(members[2]), len(splits["calibration"])) == (19, 19 * images)
    assert shortage == Shortage("groups")


def test_the_number_of_missing_groups_is_said_and_that_many_are_enough() -> None:
    test = pieces(2, 5, "test", first=90)
    few, shortage = shared_out(pieces(12, 5) + test)
    assert len(names(few["calibration"])) == 2
    assert shortage == Shortage("groups", to_calibrate=10)  # 19 to calibrate, 11 images are 3 more
    assert shared_out(pieces(22, 5) + test)[1] == Shortage("groups")
    assert shared_out(pieces(21, 5) + test)[1] == Shortage("groups", to_calibrate=1)


def test_test_images_are_held_out_by_group() -> None:
    splits, shortage = shared_out(pieces(80, 2))
    assert shortage == Shortage("groups")
    assert [len(names(splits[name])) for name in manifest.SPLITS] == [34, 8, 19, 19]


def test_a_group_on_both_sides_of_the_own_split_is_refused_with_the_names() -> None:
    defect = DatasetImage("test/hole/p003.png", "anomalous", "hole", "", "test", group="p003")
    with pytest.raises(DataError, match=r"1 groups stand on both sides") as refusal:
        shared_out([*pieces(40, 2), defect])
    assert "p003: learn/p003_0.png (learn) and test/hole/p003.png (test)" in str(refusal.value)
    with pytest.raises(DataError, match=r"p039: .*learn.*calibration"):
        shared_out(pieces(40, 2) + pieces(3, 1, "calibration", first=39))
    shared_out([*pieces(40, 2), replace(defect, group="")])


def test_one_image_of_each_group_is_drawn_by_seed_and_images_without_a_group_stay() -> None:
    rows = [row(image.image_path, group=image.group) for image in pieces(10, 4)]
    alone = [row(f"alone/{i}.png") for i in range(3)]
    draws = {seed: manifest.one_of_each_group(rows + alone, seed) for seed in range(40)}
    for drawn in draws.values():
        assert [r.group for r in drawn] == [f"p{i:03}" for i in range(10)] + [""] * 3
    taken = [path for drawn in draws.values() for path in {r.image_path for r in drawn[:10]}]
    counts = {r.image_path: taken.count(r.image_path) for r in rows}
    assert min(counts.values()) > 0  # 40 draws of one in four: none is never drawn
    assert manifest.one_of_each_group(rows[::-1], 3)[::-1] == manifest.one_of_each_group(rows, 3)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(r"/([^/]*)_\d", ["a1", "b"]), (r"[ab]\d?(?=_)", ["a1", "b"]), ("(x)|normal", None)],
)
def test_the_group_is_the_first_capture_group_or_the_whole_match(
    pattern: str, expected: list[str] | None
) -> None:
    images = [
        DatasetImage(f"normal/{name}_1.png", "normal", "", "", "learn") for name in ("a1", "b")
    ]
    if expected is None:
        with pytest.raises(ConfigurationError, match=r"2 normal images[\s\S]*normal/a1_1\.png"):
            groups.name_groups(images, re.compile(pattern), "tiny")
    else:
        named = groups.name_groups(images, re.compile(pattern), "tiny")
        assert [image.group for image in named] == expected


def test_an_expression_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SECONDS", 0.5)
    images = [DatasetImage(f"{'a' * 60}.png", "normal", "", "", "learn")]
    with pytest.raises(ConfigurationError, match="does not end within") as refusal:
        groups.name_groups(images, re.compile("(a+)+$"), "tiny")
    assert "tasks.tiny.group" in str(refusal.value)


def test_a_group_is_found_in_a_path_that_is_no_text() -> None:
    images = [DatasetImage("p1/\udcff\u00e4.png", "normal", "", "", "learn")]
    named = groups.name_groups(images, re.compile("/(.+)[.]"), "tiny")
    assert [image.group for image in named] == ["\udcff\u00e4"]


def test_a_group_of_the_table_stays_and_a_defect_needs_none() -> None:
    images = [
        DatasetImage("a.png", "normal", "", "", "learn", group="shift 1"),
        DatasetImage("b.png", "normal", "", "", "learn"),
        DatasetImage("dent/1.png", "anomalous", "dent", "", "test"),
    ]
    named = groups.name_groups(images, re.compile(r"^[ab]"), "tiny")
    assert [image.group for image in named] == ["shift 1", "b", ""]
    assert groups.name_groups(images, None, "tiny") == images


def test_a_pattern_that_cannot_be_read_is_refused_with_its_key() -> None:
    assert parse(TASK, Task, "tasks.a").group is None
    assert parse(TASK | {"group": "(p[0-9]+)"}, Task, "tasks.a").group == re.compile("(p[0-9]+)")
    with pytest.raises(ConfigurationError, match=r"tasks\.a\.group"):
        parse(TASK | {"group": "(p[0-9]+"}, Task, "tasks.a")


def inspected(thumbnails: np.ndarray) -> list[Inspected]:
    """Images to learn from with the given thumbnails."""
    images = []
    for index, thumbnail in enumerate(thumbnails):
        path = f"good/{index:03}.png"
        facts = Facts(100, 30, 1, is_grey=True, thumbnail=thumbnail.astype(np.uint16).tobytes())
        images.append((DatasetImage(path, "normal", "", "", "learn"), row(path), facts))
    return images


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60_000, (count, THUMBNAIL_PX**2))


def test_near_copies_stand_in_one_split_and_a_chain_of_them_is_only_a_warning() -> None:
    thumbnails = noise(100)
    thumbnails[10:15] = thumbnails[10] + noise(5, 1) // 100  # five of 100: a cluster
    thumbnails[40:46] = thumbnails[40] + noise(6, 2) // 100  # six: too many
    images = inspected(thumbnails)
    copies = groups.near_copies(images, 10)
    paths = [image.image_path for image, _, _ in images]
    assert copies == groups.NearCopies([paths[10:15]], [paths[40:46]])
    assert "6 images are near copies" in groups.chain_sentence(copies.chains[0], "tiny")
    rows = [(image, row) for image, row, _ in images]
    for seed in range(20):
        splits, _ = share_out(rows, SPLIT, 0.05, seed, "tiny", copies.clusters)
        homes = [{r.image_path for r in rows} & {*paths[10:15]} for rows in splits.values()]
        assert sorted(map(len, homes)) == [0, 0, 0, 5]


def test_groups_that_are_known_are_not_joined_by_near_copies() -> None:
    images = inspected(np.repeat(noise(1), 40, axis=0))
    named = [(replace(image, group=str(i)), r, f) for i, (image, r, f) in enumerate(images)]
    assert len(groups.near_copies(images, 10).chains[0]) == 40
    assert groups.near_copies(named, 10) == groups.NearCopies([], [])


def test_clusters_are_those_of_all_pairs_compared_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(similarity, "CHUNK_IMAGES", 16)
    rng = np.random.default_rng(5)
    hashes = rng.integers(0, 256, (6, 32), dtype=np.uint8)[rng.integers(0, 6, 60)]
    hashes[:, :2] ^= rng.integers(0, 256, (60, 2), dtype=np.uint8)
    bits = np.unpackbits(hashes, axis=1).astype(int)
    near = (bits[:, None] != bits).sum(axis=2) <= 6
    for _ in range(6):
        near = near @ near > 0  # what can be reached
    expected = {tuple(np.flatnonzero(line)) for line in near if line.sum() > 1}
    clusters = similarity.near_clusters(hashes, 6)
    assert {tuple(members) for members in clusters} == expected
    assert 6 < len(expected) < 60


def test_an_image_and_its_negative_are_as_far_apart_as_images_can_be() -> None:
    hashes = np.array([[0] * 32, [255] * 32], np.uint8)
    assert similarity.near_clusters(hashes, similarity.HASH_BITS - 1) == []
    assert similarity.near_clusters(hashes, similarity.HASH_BITS) == [[0, 1]]


@pytest.mark.slow
def test_without_groups_new_pieces_raise_too_many_alarms_and_with_them_the_budget_holds() -> None:
    repeats = 500
    spread = simulation.false_alarms(0.7, repeats, "images")["nearest"]
    assert spread.mean() > 0.15
    for icc in simulation.CORRELATIONS:
        for rates in simulation.false_alarms(icc, repeats, "groups").values():
            error = rates.std(ddof=1) / repeats**0.5
            assert abs(rates.mean() - 0.05) < 3.5 * error  # 19 scores: the level is 0.05 exactly
