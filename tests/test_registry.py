"""MLflow's registry: bundles as versions, aliases that move, deployments that copy bundles."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from admodels.cli import app, doctor
from admodels.foundation.errors import BundleError, ConfigurationError, SourceError
from admodels.images import decode
from admodels.nights import deploy
from admodels.nights.plant import read_plant
from admodels.nights.run import Options, nightly
from admodels.tracking import registry
from admodels.tracking.evidence import evidence_of, write_evidence
from tests import cards, plants, tiny
from tests.test_gates import evidence_from, sides

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
    plants.write_plant(tmp_path, {"press": plants.line("press")})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def promote(name: str) -> registry.AliasMove:
    return registry.promote(Path(), Path(name), "champion", why="no git here", force=True)


def put(address: str = ADDRESS) -> deploy.Deployment:
    return deploy.deploy(read_plant(Path()), "press", address)


def night() -> dict[str, object]:
    return nightly(Path(), Options(0.0))


def of(name: str) -> str:
    return registry.bundles.fingerprints(registry.bundles.read_card(Path(name)))[0]


def test_an_alias_that_moves_changes_no_line_until_it_is_deployed_again(plant: Path) -> None:
    assert promote("one").before is None
    assert put().origin == f"{ADDRESS} version 1"
    press = night()["lines"]["press"]
    assert (press["exit_code"], press["bundle"]) == (0, f"{ADDRESS} version 1")
    assert press["model_fingerprint"] == of("one")
    move = promote("two")
    assert (int(move.now.version), int(move.before.version)) == (2, 1)
    assert night()["lines"]["press"]["old"] == 3  # scored by the bundle deployed
    (text,) = doctor.differences(plant)
    assert text.startswith(f"press: {ADDRESS} is version 2 now; deployed is {ADDRESS} version 1")
    put()
    assert not list(doctor.differences(plant))
    assert night()["lines"]["press"]["model_fingerprint"] == of("two")
    move = registry.rollback(Path(), "stripes", "champion")
    assert (int(move.now.version), int(move.before.version)) == (1, 2)
    assert night()["lines"]["press"]["model_fingerprint"] == of("two")
    assert deploy.undo(read_plant(Path()), "press").origin == f"{ADDRESS} version 1"
    press = night()["lines"]["press"]
    assert (press["model_fingerprint"], press["old"]) == (of("one"), 3)  # its rows are there yet
    assert len(list((plant / "models").iterdir())) == 2


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
    kept = plant / "models" / put().bundle
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
    assert registry.version_now(ADDRESS)[0] == "1"


def commit_all() -> str:
    """A commit of the folder's dvc.lock; its hash."""
    Path("dvc.lock").touch()
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "dvc.lock"), (*who, "commit", "-qm", "a lock")):
        subprocess.run(["git", *words], check=True)
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()


def test_a_bundle_of_no_commit_or_that_fails_a_gate_is_promoted_only_with_a_reason(
    plant: Path,
) -> None:
    def ask(name: str, **how: object) -> dict[str, str]:
        return dict(registry.promote(Path(), Path(name), "champion", **how).now.tags)

    with pytest.raises(ConfigurationError, match="not as it is committed"):
        ask("one")
    with pytest.raises(ConfigurationError, match="needs a reason"):
        ask("one", force=True)
    rev = commit_all()
    tags = ask("one")
    assert (tags["dvc.rev"], tags["admodels.gates"]) == (rev, "none are set")
    block = {"evaluate": {"alpha": 0.25}, "gates": {"image_auroc": 0.6, "margin": 0.05}}
    Path("params.yaml").write_text(json.dumps(block), encoding="utf-8")
    with pytest.raises(BundleError, match="2 of 2 gates fail"):
        ask("two")
    assert registry.version_now(ADDRESS)[0] == "1"
    scores, anomalous = sides(4.0)
    for name in ("one", "two"):
        write_evidence(Path(name), evidence_from(scores, anomalous, of(name)))
    assert ask("one")["admodels.gates"] == "passed"
    assert ask("two")["admodels.gates"] == "passed"
    put()
    assert evidence_of(plant / "models" / put().bundle) == evidence_of(Path("two"))
    write_evidence(Path("one"), evidence_from(*sides(1.0), of("one")))
    with pytest.raises(BundleError, match="1 of 2 gates fail"):
        ask("one")
    tags = ask("one", force=True, why="press 3 stands still")
    assert tags["admodels.why"] == "press 3 stands still"
    assert tags["admodels.gates"].startswith("image AUROC - champion's > -0.05 -0.2")


def test_a_night_never_asks_the_registry(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote("one")
    put()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://nobody@127.0.0.1:1/mlflow")
    assert night()["exit_code"] == 0
    with pytest.raises(SourceError, match="MLflow cannot be"):
        put()
    (text,) = doctor.differences(plant)
    assert "MLflow cannot be" in text


def test_where_there_is_no_registry_none_is_made(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plant / "mlflow.db").unlink()
    with pytest.raises(SourceError, match="no such database"):
        put()
    with pytest.raises(SourceError, match="no such database"):
        registry.rollback(Path(), "stripes", "champion")
    assert not (plant / "mlflow.db").exists()


@pytest.mark.parametrize(
    "address",
    [ADDRESS, "models:/admodels-stripes/1", "models:/other@new", "models:/../x@y", "models:/x"],
)
def test_a_version_that_is_not_there_is_a_bundle_that_is_missing(plant: Path, address: str) -> None:
    with pytest.raises(BundleError, match="no such version"):
        put(address)
    with pytest.raises(BundleError, match="no such version"):
        registry.rollback(Path(), "stripes", "champion")


def test_files_that_are_not_those_that_were_registered_are_refused(plant: Path) -> None:
    promote("one")
    (file,) = (plant / "mlruns").rglob("model.safetensors")
    shutil.copyfile(plant / "two/model.safetensors", file)
    with pytest.raises(BundleError, match="not the bundle that was registered"):
        put()
    shutil.copytree(plant / "two", file.parent, dirs_exist_ok=True)  # whole, but another
    with pytest.raises(BundleError, match="not the bundle that was registered"):
        put()
    assert not (plant / "models").exists()
    assert night()["exit_code"] == 4


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
        words = ("promote", "draem", "stripes", "--models", name)
        assert said(*words).startswith("2 ")  # nothing is committed
        told = said(*words, "--force", "--why", "a test")
        assert told.startswith(f"0 {ADDRESS} is version {1 + (name == 'two')}, draem: image_auroc")
    monkeypatch.setenv("ADMODELS_PLANT", ".")
    assert said("deploy", "press", ADDRESS).startswith("0 press: ")
    told = said("calibrate", "press", "press")
    assert told == "0 press: 3 images, the smallest alpha is 0.25\n"
    record = json.loads((plant / "ledger/calibration/press/in_force/0001.json").read_bytes())
    assert record["model"] == of("two")
    assert said("rollback", "stripes").startswith(f"0 {ADDRESS} is version 1, draem")
    assert said("rollback", "other").startswith("4 ")
