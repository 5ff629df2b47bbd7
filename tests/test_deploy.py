"""Deployments: a bundle is tested and copied, the history says who and why, a night uses it."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from admodels.foundation.errors import BundleError, ConfigurationError, StorageError
from admodels.foundation.files import sha256_of
from admodels.nights import deploy
from admodels.nights.plant import Plant, read_plant
from admodels.nights.run import Options, nightly
from tests import cards, plants
from tests.test_nightly import draw

PLANT = Path("plant")


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """A line with three images, no deployment, and two bundles, `one` and `two`."""
    monkeypatch.chdir(tmp_path)
    for name, width in (("one", 4), ("two", 5)):
        cards.save_draem(Path(name), reconstructive_width=width)
    draw(Path("press"), 3)
    return plants.write_plant(PLANT, {"press": plants.line(Path("press").absolute())})


def press() -> dict[str, object]:
    report: dict[str, object] = nightly(PLANT, Options(0.0))["lines"]["press"]
    return report


def test_a_line_without_a_deployment_has_no_night_and_the_next_command_is_named(
    plant: Plant,
) -> None:
    report = press()
    step = "no bundle is deployed yet: `admodels deploy press BUNDLE`"
    assert (report["exit_code"], report["told"]) == (4, [step])
    with pytest.raises(BundleError, match="`admodels deploy press BUNDLE`"):
        deploy.Deployed(plant).of("press")


def test_a_bundle_is_copied_by_its_content_and_the_folder_it_came_from_is_never_read_again(
    plant: Plant,
) -> None:
    first = deploy.deploy(plant, "press", "one", why="the first")
    assert first.bundle == sha256_of(Path("one/bundle.json"))[:16]
    copy = PLANT / "models" / first.bundle
    names = sorted(p.relative_to("one") for p in Path("one").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(copy) for p in copy.rglob("*") if p.is_file())
    assert all((copy / name).read_bytes() == Path("one", name).read_bytes() for name in names)
    shutil.rmtree("one")
    report = press()
    assert (report["exit_code"], report["images"]) == (0, 3)
    assert report["bundle"] == str(Path("one").absolute())
    (entry,) = deploy.history(PLANT, "press")
    assert (entry["do"], entry["why"], entry["origin"]) == ("deploy", "the first", first.origin)
    assert entry["who"]


def test_undo_goes_back_by_one_deployment_and_is_in_the_history(plant: Plant) -> None:
    for name in ("one", "two", "one"):
        deploy.deploy(plant, "press", name)
    bundles = [deployed.bundle for deployed in deploy.deployments(PLANT)["press"]]
    assert deploy.undo(plant, "press", why="worse").bundle == bundles[1]
    assert deploy.undo(plant, "press").bundle == bundles[0]
    with pytest.raises(ConfigurationError, match="no deployment before"):
        deploy.undo(plant, "press")
    assert [entry["do"] for entry in deploy.history(PLANT, "press")] == ["deploy"] * 3 + [
        "undo"
    ] * 2
    assert deploy.Deployed(plant).bundle("press") == bundles[0]
    assert len(list((PLANT / "models").iterdir())) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "golden/00.png", "bundle.json"])
def test_a_bundle_that_was_changed_is_not_deployed(plant: Plant, name: str) -> None:
    with Path("one", name).open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff")
    with pytest.raises(BundleError):
        deploy.deploy(plant, "press", "one")
    assert not (PLANT / "deployments.jsonl").exists()


def test_a_bundle_that_scores_its_golden_images_otherwise_is_not_deployed(plant: Plant) -> None:
    content = json.loads(Path("one/bundle.json").read_bytes())
    del content["sha256"]
    content["golden"][0]["anomaly_score"] += 1
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    sealed = content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    Path("one/bundle.json").write_text(json.dumps(sealed), encoding="utf-8")
    with pytest.raises(BundleError, match="golden"):
        deploy.deploy(plant, "press", "one")
    assert not list(PLANT.glob("models/*"))
    assert not (PLANT / "deployments.jsonl").exists()


def test_a_budget_that_the_calibration_cannot_hold_needs_a_reason_or_no_verdicts(
    plant: Plant,
) -> None:
    line = plants.line(Path("press").absolute(), alpha=0.01)
    greedy = plants.write_plant(PLANT, {"press": line})
    with pytest.raises(ConfigurationError, match="90 more normal images"):
        deploy.deploy(greedy, "press", "one")
    with pytest.raises(ConfigurationError, match="needs a reason"):
        deploy.deploy(greedy, "press", "one", force=True, why=" ")
    assert not list(PLANT.glob("models/*"))
    deploy.deploy(greedy, "press", "one", force=True, why="calibrated next week")
    assert deploy.history(PLANT, "press")[0]["why"] == "calibrated next week"
    silent = plants.write_plant(PLANT, {"press": line | {"verdicts": "none"}})
    deploy.deploy(silent, "press", "two")


@pytest.mark.parametrize("harm", ["a byte", "another bundle", "gone"])
def test_a_deployed_bundle_that_was_changed_costs_its_line_the_night_and_can_be_deployed_again(
    plant: Plant, harm: str
) -> None:
    copy = PLANT / "models" / deploy.deploy(plant, "press", "one").bundle
    if harm == "a byte":
        with (copy / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
    else:
        shutil.rmtree(copy)
        if harm == "another bundle":
            shutil.copytree("two", copy)
    report = press()
    assert (report["exit_code"], report["images"]) == (4, 0)
    deploy.deploy(plant, "press", "one")
    assert press()["exit_code"] == 0


def test_a_history_that_was_changed_is_not_believed(plant: Plant) -> None:
    deploy.deploy(plant, "press", "one")
    deploy.deploy(plant, "press", "two")
    path = PLANT / "deployments.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    entry = json.loads(lines[1])
    for text in ("".join(lines[1:]), lines[0] + json.dumps(entry | {"bundle": "0" * 16}) + "\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(StorageError, match=r"of deployments\.jsonl is not as it was written"):
            nightly(PLANT, Options(0.0))


def test_a_plant_that_moved_scores_as_before(plant: Plant) -> None:
    deploy.deploy(plant, "press", "one")
    press()
    backup = Path(shutil.copytree(PLANT, "restored"))
    shutil.rmtree(PLANT)
    report = nightly(backup, Options(0.0))["lines"]["press"]
    assert (report["exit_code"], report["old"], report["images"]) == (0, 3, 0)
    assert read_plant(backup).ledger == backup / "ledger"
