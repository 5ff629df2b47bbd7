"""MLflow's registry: bundles as versions, aliases that move, nights that use what they name."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from admodels.cli import app
from admodels.foundation.errors import BundleError, ConfigurationError, SourceError
from admodels.foundation.params import parse
from admodels.images import decode
from admodels.nights.run import Options, nightly
from admodels.scoring.lines import Line
from admodels.tracking import registry
from tests import cards, tiny

pytestmark = pytest.mark.slow  # MLflow's database is made anew

ADDRESS = "models:/admodels-stripes@champion"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry and two bundles of one task, `one` and `two`."""
    from admodels.tracking import sync

    folder = tmp_path_factory.mktemp("plant")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        sync.migrate(folder)
    for name, width in (("one", 4), ("two", 5)):
        cards.save_draem(folder / name, reconstructive_width=width)
    for at, pixels in enumerate(tiny.stripes(3, 3)):
        decode.write_png(folder / "press" / f"{at}.png", pixels.transpose(1, 2, 0))
    return folder


@pytest.fixture
def plant(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def promote(name: str) -> registry.AliasMove:
    return registry.promote(Path(), Path(name), "champion")


def night(**changes: object) -> dict[str, object]:
    block = {"folder": "press", "task": "stripes", "model": ADDRESS, "alpha": 0.2} | changes
    return nightly({"press": Line(**block)}, Path("ledger"), Options(Path("models"), 0.0))


def fingerprints() -> list[str]:
    found = pd.read_parquet("ledger/scores").sort_values(["model_fingerprint"])
    return list(found["model_fingerprint"].unique())


def of(name: str) -> str:
    return registry.bundles.fingerprints(registry.bundles.read_card(Path(name)))[0]


@pytest.mark.slow
def test_a_night_uses_the_champion_of_its_start_and_the_one_before_after_a_rollback(
    plant: Path,
) -> None:
    assert promote("one").before is None
    told = night()["lines"]["press"]
    assert (told["exit_code"], told["bundle"]) == (0, f"{ADDRESS} version 1")
    assert fingerprints() == [of("one")]
    move = promote("two")
    assert (int(move.now.version), int(move.before.version)) == (2, 1)
    assert night()["lines"]["press"]["model_fingerprint"] == of("two")
    move = registry.rollback(Path(), "stripes", "champion")
    assert (int(move.now.version), int(move.before.version)) == (1, 2)
    press = night()["lines"]["press"]
    assert (press["model_fingerprint"], press["old"]) == (of("one"), 3)  # its rows are there yet
    assert len(list((plant / "ledger/bundles").glob("*/bundle"))) == 1  # and no other's files
    assert night(model="models:/admodels-stripes/2")["lines"]["press"]["old"] == 3
    assert fingerprints() == sorted([of("one"), of("two")])


@pytest.mark.slow
def test_a_bundle_is_registered_once_as_it_is_with_what_it_is_and_how_it_measured(
    plant: Path,
) -> None:
    promote("one")
    costs = {"model_fingerprint": of("one")}
    found = {"image_auroc": 0.9, "false_alarm_rate": None}  # nothing was promised
    for path, content in (("costs/evaluate", costs), ("evaluation", found)):
        name = "draem/stripes.json" if path[0] == "c" else "draem/stripes/metrics.json"
        file = plant / "data" / path / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    again = promote("one")
    assert int(again.now.version) == int(again.before.version) == 1
    assert again.now.tags["admodels.model_fingerprint"] == of("one")
    assert "version 1, draem: image_auroc 0.9, false_alarm_rate not measured\nbefore" in str(again)
    assert "version 2, draem: image_auroc not measured" in str(promote("two"))
    kept = registry.fetch_version(ADDRESS, Path(), plant / "cache").folder
    names = [p.relative_to(kept).as_posix() for p in sorted(kept.rglob("*")) if p.is_file()]
    assert names == ["bundle.json", "golden/00.png", "golden/01.png", "model.safetensors"]
    for name in names:
        assert (kept / name).read_bytes() == (plant / "two" / name).read_bytes()


def test_a_bundle_that_fails_its_own_test_is_not_promoted(plant: Path) -> None:
    promote("one")
    with (plant / "two/model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.safetensors is missing or was changed"):
        promote("two")
    assert registry.fetch_version(ADDRESS, Path(), plant / "cache").version == "1"


def test_while_the_registry_is_away_the_last_champion_scores_and_the_night_says_so(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote("one")
    night()
    decode.write_png(plant / "press/late.png", tiny.stripes(1, 9)[0].transpose(1, 2, 0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://nobody@127.0.0.1:1/mlflow")
    told = night()
    press = told["lines"]["press"]
    assert (told["exit_code"], press["images"], press["bundle"]) == (5, 1, f"{ADDRESS} version 1")
    assert press["told"][0].startswith("scored with the last version known: MLflow cannot be")
    told = night(model="models:/admodels-stripes/1")["lines"]["press"]  # new to the cache
    assert (told["exit_code"], told["bundle"]) == (69, None)


def test_where_there_is_no_registry_none_is_made(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plant / "mlflow.db").unlink()
    with pytest.raises(SourceError, match="no such database"):
        registry.fetch_version(ADDRESS, Path(), plant / "cache")
    with pytest.raises(SourceError, match="no such database"):
        registry.rollback(Path(), "stripes", "champion")
    assert not (plant / "mlflow.db").exists()


@pytest.mark.parametrize("address", [ADDRESS, "models:/admodels-stripes/1", "models:/other@new"])
def test_a_version_that_is_not_there_is_a_bundle_that_is_missing(plant: Path, address: str) -> None:
    assert night(model=address)["exit_code"] == 4
    with pytest.raises(BundleError, match="no such version"):
        registry.rollback(Path(), "stripes", "champion")


def test_files_that_are_not_those_that_were_registered_are_refused(plant: Path) -> None:
    promote("one")
    (file,) = (plant / "mlruns").rglob("model.safetensors")
    shutil.copyfile(plant / "two/model.safetensors", file)
    assert night()["exit_code"] == 4
    shutil.copytree(plant / "two", file.parent, dirs_exist_ok=True)  # whole, but another
    assert night()["exit_code"] == 4
    assert not list((plant / "ledger").rglob("model.safetensors"))


def test_a_copy_that_was_harmed_is_fetched_again(plant: Path) -> None:
    promote("one")
    night()
    (file,) = (plant / "ledger/bundles").rglob("model.safetensors")
    file.write_bytes(b"harmed")
    assert night()["exit_code"] == 0
    assert file.read_bytes() == (plant / "one/model.safetensors").read_bytes()


def test_a_bundle_of_another_task_is_refused(plant: Path) -> None:
    promote("one")
    told = night(task="other")["lines"]["press"]
    assert (told["exit_code"], told["told"]) == (4, ["a bundle of task `stripes`"])


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "draem", "model": ADDRESS},
        {},
        {"model": "models:/admodels-stripes"},
        {"model": "models:/../x@champion"},
        {"model": "/models/draem"},
    ],
)
def test_a_line_names_exactly_one_bundle(changes: dict[str, object]) -> None:
    block = {"folder": "press", "task": "stripes", "alpha": 0.2} | changes
    with pytest.raises(ConfigurationError, match="model"):
        parse(block, Line, "lines.press")


def test_the_commands_promote_calibrate_and_roll_back(
    plant: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["admodels", *words])
        with pytest.raises(SystemExit) as end:
            sys.exit(app.main())
        return f"{end.value.code or 0} {capsys.readouterr().out}"

    for name in ("one", "two"):
        shutil.copytree(plant / name, plant / name / "draem/stripes")
        told = said("promote", "draem", "stripes", "--models", name)
        assert told.startswith(f"0 {ADDRESS} is version {1 + (name == 'two')}, draem: image_auroc")
    block = {"folder": "press", "task": "stripes", "model": ADDRESS, "alpha": 0.2}
    (plant / "lines.yaml").write_text(json.dumps({"lines": {"press": block}}), encoding="utf-8")
    told = said("calibrate", "press", "press", "--lines", "lines.yaml")
    assert told == "0 press: 3 images, the smallest alpha is 0.25\n"
    (kept,) = (plant / "ledger/calibration/press").glob("*.json")
    assert kept.name.startswith(of("two"))
    assert said("rollback", "stripes").startswith(f"0 {ADDRESS} is version 1, draem")
    assert said("rollback", "other").startswith("4 ")
