"""The audit of a night: which images, and the pictures that are kept of them."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from admodels.scoring.candidates import SIDE_PX_MAX, Candidates, picture, picture_path, rank
from admodels.scoring.engine import LineImages, Model, score_line
from admodels.scoring.ledger import open_ledger
from admodels.scoring.lines import Tile
from admodels.scoring.stopping import Stop
from admodels.scoring.tables import ScoreRow
from tests.cards import card, make_bundle

NIGHT = "2026-11-30"


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def smallest(shas, night: str = NIGHT, count: int = 5) -> list[str]:
    """By the definition, without our code."""
    own = {s: hashlib.sha256(f"press\n{night}\n{s}".encode()).hexdigest() for s in shas}
    return sorted(own, key=own.__getitem__)[:count]


def test_the_rank_is_the_hash_of_line_night_and_image() -> None:
    expected = hashlib.sha256(b"press\n2026-11-30\n" + b"a" * 64).digest()
    assert rank("press", NIGHT, "a" * 64) == expected
    ranks = {rank(*names) for names in [("a", "b", "c"), ("b", "a", "c"), ("a\nb", "c", "")]}
    assert len(ranks) == 3


def test_the_candidates_end_with_the_smallest_ranks_whatever_the_order() -> None:
    shas = [sha(number) for number in range(300)]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(shas)
        candidates = Candidates("press", NIGHT, 5)
        for each in order:
            if candidates.is_candidate(each):
                candidates.add(each)
        assert [s for s in shas if candidates.is_candidate(s)] == [
            s for s in shas if s in smallest(shas)
        ]


def test_of_a_hundred_thousand_images_about_55_are_candidates() -> None:
    """The image number n is one with probability 5/n: 5 (1 + ln(N / 5)) in all, about."""
    counts = []
    for start in range(0, 400_000, 100_000):
        candidates = Candidates("press", NIGHT, 5)
        count = 0
        for number in range(start, start + 20_000):
            if candidates.is_candidate(sha(number)):
                candidates.add(sha(number))
                count += 1
        counts.append(count)
    expected = 5 * (1 + np.log(20_000 / 5))
    assert np.mean(counts) == pytest.approx(expected, abs=3 * expected**0.5 / 2)


def test_an_image_that_is_added_twice_takes_one_place() -> None:
    candidates = Candidates("press", NIGHT, 2, [sha(1), sha(1), sha(1)])
    assert candidates.is_candidate(sha(2))
    assert all(candidates.is_candidate(sha(number)) for number in range(9))


def test_a_night_without_an_audit_has_no_candidate() -> None:
    assert not Candidates("press", NIGHT, 0).is_candidate(sha(1))


def test_a_picture_shows_the_image_and_is_no_larger_than_a_screen() -> None:
    rgb = np.zeros((30, 2 * SIDE_PX_MAX, 3), np.uint8)
    rgb[:, :SIDE_PX_MAX] = (200, 30, 30)
    with Image.open(BytesIO(picture(rgb))) as image:
        assert (image.format, image.size) == ("WEBP", (SIDE_PX_MAX, 15))
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert abs(shown[7, 100] - (200, 30, 30)).max() < 12
    assert shown[7, -100].max() < 12


def look(place: Path, night: str = NIGHT, shown: int = 5) -> list[ScoreRow]:
    """One look at the line; the pictures that stand are those that it starts from."""
    folder = picture_path(place / "ledger", "press", night, "x").parent
    kept = [path.stem for path in folder.glob("*.webp")]
    candidates = Candidates("press", night, shown, kept)
    source = LineImages("press", place / "in", candidates=candidates)
    with open_ledger(place / "ledger") as ledger:
        score_line(ledger, source, Model.of(make_bundle()), Stop())
    return kept


def pictures(place: Path, night: str = NIGHT) -> set[str]:
    folder = picture_path(place / "ledger", "press", night, "x").parent
    return {path.stem for path in folder.glob("*.webp")}


def test_after_many_looks_the_audit_set_has_its_pictures_though_the_files_are_gone(
    tmp_path: Path,
) -> None:
    scored = set()
    for start in range(0, 200, 40):
        for level in range(start, start + 40):
            path = card(tmp_path / "in" / f"{level}.png", level)
            scored.add(hashlib.sha256(path.read_bytes()).hexdigest())
        look(tmp_path)
        for path in (tmp_path / "in").iterdir():
            path.unlink()
    assert set(smallest(scored)) <= pictures(tmp_path) <= scored
    assert len(pictures(tmp_path)) < 35


def test_what_has_no_score_or_is_no_news_takes_no_place(tmp_path: Path) -> None:
    """White breaks the detector down; the cards of the first night have their rows."""
    for level in range(0, 200, 10):
        card(tmp_path / "in" / f"{level}.png", level)
    look(tmp_path, "2026-11-29")
    news = {card(tmp_path / "in" / f"late{level}.png", level) for level in range(205, 241, 5)}
    news |= {card(tmp_path / "in" / f"white{side}.png", 255, side=side) for side in range(20, 40)}
    for path in (tmp_path / "in").iterdir():
        path.touch()
    look(tmp_path)
    late = {path for path in news if path.name.startswith("late")}
    scored = {hashlib.sha256(path.read_bytes()).hexdigest() for path in late}
    assert set(smallest(scored)) <= pictures(tmp_path) <= scored


def test_images_in_tiles_get_a_picture_of_the_whole(tmp_path: Path) -> None:
    path = card(tmp_path / "in" / "a.png", 90, side=100)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    tile = Tile(tile_px=32, overlap_px=0)
    candidates = Candidates("press", NIGHT, 5)
    source = LineImages("press", tmp_path / "in", tile=tile, candidates=candidates)
    with open_ledger(tmp_path / "ledger") as ledger:
        score_line(ledger, source, Model.of(make_bundle()).with_tiles(tile), Stop())
    with Image.open(picture_path(tmp_path / "ledger", "press", NIGHT, sha256)) as image:
        assert image.size == (102, 100)
