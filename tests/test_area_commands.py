"""`admodels area`, a task whose images do not fit its area, a line with an area of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from admodels.foundation.arrays import UInt8
from admodels.foundation.errors import ConfigurationError, DataError
from admodels.foundation.files import sha256_of
from admodels.images import area as areas
from admodels.nights import readiness
from admodels.nights.plant import read_plant
from admodels.nights.run import Options, nightly
from stages import validate
from tests import cards, plants
from tests.test_nightly import draw
from tests.test_validate_stage import MANIFESTS, PARAMS, write_tiny

Run = Callable[..., tuple[int, str, str]]
PLANT = Path("plant")


def half(width: int, height: int, name: str = "half.png") -> Path:
    levels = np.zeros((height, width), np.uint8)
    levels[:, width // 2 :] = 255
    levels[: height // 2, width // 2 :] = 128
    Image.fromarray(levels).save(name)
    return Path(name)


def pinned_area() -> dict[str, object]:
    content = yaml.safe_load(Path("params.yaml").read_text())
    block: dict[str, object] = content["tasks"]["sample_brick"]["area"]
    return block


def pixels_of(path: str | Path) -> UInt8:
    with Image.open(path) as image:
        return np.array(image)


def test_an_area_is_pinned_with_its_zones_and_removed(command: Run) -> None:
    file, before = half(8, 6), Path("params.yaml").read_text()
    words = ("area", "set", "sample_brick", str(file))
    code, out, _ = command(*words, "--zone", "128=upper rim", "--zone", "255=face")
    assert code == 0
    assert "50.0 % of 8 x 6 px are inspected; upper rim (level 128): 25.0 %" in out
    block = pinned_area()
    assert (block["file"], block["zones"]) == ("half.png", {"128": "upper rim", "255": "face"})
    assert command(*words)[0] == 0  # another time, without names
    assert "zones" not in pinned_area()
    assert command("area", "remove", "sample_brick")[0] == 0
    assert Path("params.yaml").read_text() == before
    assert command("area", "remove", "sample_brick")[0] == 2


@pytest.mark.parametrize(
    ("words", "fault", "code"),
    [
        (("sample_brick", "gone.png"), "the file is missing", 2),
        (("nobody", "half.png"), "no task named `nobody`", 2),
        (("sample_brick", "half.png", "--zone", "rim"), "`--zone rim`", 2),
        (("sample_brick", "half.png", "--zone", "7=rim"), "no pixel has the level 7", 3),
        (("sample_brick", "half.png", "--zone", "128=a", "--zone", "255=a"), "several levels", 2),
        (("sample_brick", "half.jpg"), "a JPEG file", 3),
    ],
)
def test_what_is_no_area_is_refused_and_params_stay(
    command: Run, words: tuple[str, ...], fault: str, code: int
) -> None:
    Image.fromarray(pixels_of(half(8, 6))).save("half.jpg")
    before = Path("params.yaml").read_text()
    ended, _, err = command("area", "set", *words)
    assert (ended, fault in err) == (code, True)
    assert Path("params.yaml").read_text() == before


def with_area(file: Path) -> str:
    area = f"area: {{file: {file}, sha256: {sha256_of(file)}}}"
    return PARAMS.replace("kind: texture,", f"kind: texture, {area},")


@pytest.mark.slow
def test_validate_writes_the_area_and_the_preview_draws_it(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny()
    validate.main("tiny")
    assert areas.read_written(MANIFESTS / "area.png") is None
    assert pixels_of(MANIFESTS / "area.png").shape == (40, 48)
    write_tiny(with_area(half(48, 40)))
    validate.main("tiny")
    area = areas.read_written(MANIFESTS / "area.png")
    assert area is not None
    np.testing.assert_array_equal(area.levels, pixels_of("half.png"))
    assert cli("area", "preview", "tiny", "--out", "seen.png")[0] == 0
    picture = pixels_of("seen.png")
    assert picture.shape[0] > 2 * 384  # two rows of five
    cell = picture[18 : 18 + 40, 4 : 4 + 48]
    assert cell[:, :20].mean() < 0.4 * cell[:, 28:].mean()
    write_tiny(with_area(half(40, 48, "turned.png")))
    with pytest.raises(DataError, match="area: 40 x 48 px, and 22 of 22 images have another size"):
        validate.main("tiny")
    assert not (MANIFESTS / "train.csv").exists()


@pytest.mark.slow
def test_a_line_with_its_own_area_calibrates_first_and_then_gives_verdicts(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADMODELS_PLANT", str(PLANT))
    cards.save_draem(Path("models/draem/stripes"))
    draw(Path("press"), 3)
    draw(Path("good"), 12, seed=9)
    plants.write_plant(PLANT, {"press": plants.line(Path("press").absolute())}, Path("models"))
    height, width = pixels_of("press/0000.png").shape[:2]
    code, out, _ = cli("area", "set", "press", str(half(width, height)), "--line")
    assert (code, "admodels calibrate press FOLDER" in out) == (0, True)
    assert cli("area", "preview", "press", "--line")[0] == 0
    faults = list(readiness.warnings(read_plant(PLANT)))
    assert any("press: no verdicts: 4 more normal images are needed" in text for text in faults)
    report = nightly(PLANT, Options(0.0))["lines"]["press"]
    assert (report["exit_code"], report["images"]) == (5, 3)
    assert any("4 more" in text for text in report["told"])
    assert cli("calibrate", "press", "good")[0] == 0
    draw(Path("press/later"), 2, seed=4)
    report = nightly(PLANT, Options(0.0))["lines"]["press"]
    assert report["exit_code"] == 0
    half(width, height + 1)  # the file is changed, and its pin is not
    report = nightly(PLANT, Options(0.0))["lines"]["press"]
    assert (report["exit_code"], "area: the file has sha256" in str(report["told"])) == (3, True)
    assert any(
        "area: the file has sha256" in text for text in readiness.warnings(read_plant(PLANT))
    )


def test_an_area_of_an_unknown_key_is_refused_by_its_path(tmp_path: Path) -> None:
    block = {"folder": "in", "alpha": 0.1, "area": {"file": "a.png", "zones": {"0": "rim"}}}
    with pytest.raises(ConfigurationError) as refusal:
        plants.write_plant(tmp_path, {"a": block | {"bundle": "none"}})
    assert "lines.a.area.sha256" in str(refusal.value)
    assert "lines.a.area.zones" in str(refusal.value)
