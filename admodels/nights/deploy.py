"""Which bundle a line is scored with: the one that a person deployed, copied into the plant.

deployments.jsonl   chained lines (`admodels.scoring.journal`): `at`, `who`, `line`, `do` (deploy or
                    undo), `bundle` (the name of its folder in models/), `origin`, `why`, and
                    `gates` that failed where somebody forced them

Neither the registry nor a folder that bundles come from is asked at night.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from admodels.bundles import bundle as bundles
from admodels.bundles import runtime
from admodels.bundles.card import read_card
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.foundation.files import durable_folder, sha256_of
from admodels.images.area import Area, read_area
from admodels.inference.conformal import images_missing
from admodels.nights.calibrations import calibration_in_force
from admodels.nights.plant import Plant
from admodels.scoring.engine import Model
from admodels.scoring.journal import NAME as JOURNAL
from admodels.scoring.journal import Chain, user
from admodels.scoring.ledger import read_ledger
from admodels.scoring.locks import commit_lock
from admodels.tracking import gates
from admodels.tracking.evidence import Evidence, evidence_of, write_evidence

DEPLOYMENTS, MODELS = "deployments.jsonl", "models"
DEPLOY, UNDO = "deploy", "undo"
REGISTERED = "models:/"  # starts an address of MLflow's registry


@dataclass(frozen=True)
class Deployment:
    """A bundle, by the name of its folder in models/, and where it came from."""

    bundle: str
    origin: str


def deployments(plant: Path) -> dict[str, list[Deployment]]:
    """What was deployed for each line and not undone; the last one counts.

    Raises:
        StorageError: the history is not as it was written.
    """
    held: dict[str, list[Deployment]] = {}
    for entry in Chain(plant / DEPLOYMENTS).entries():
        own = held.setdefault(entry["line"], [])
        if entry["do"] == UNDO:
            own.pop()
        else:
            own.append(Deployment(entry["bundle"], entry["origin"]))
    return held


def history(plant: Path, line: str) -> list[dict[str, Any]]:
    """What was done for a line, the first deployment first."""
    return [entry for entry in Chain(plant / DEPLOYMENTS).entries() if entry["line"] == line]


class Deployed:
    """The models of a plant's lines, as they are deployed when this is made."""

    def __init__(self, plant: Plant) -> None:
        self._plant, self._held = plant, deployments(plant.folder)

    def bundle(self, line: str) -> str:
        """The name of a line's bundle in models/, empty where there is none."""
        own = self._held.get(line)
        return own[-1].bundle if own else ""

    def of(self, line: str) -> tuple[Model, str]:
        """A line's model and where its bundle came from.

        Raises:
            BundleError: there is none, or it must not be used.
        """
        own = self._held.get(line)
        if not own:
            raise BundleError(
                f"no bundle is deployed yet: `admodels deploy {line} BUNDLE`",
                where=self._plant.folder / DEPLOYMENTS,
                expected=f"a deployment of line `{line}`",
                next_step=f"`admodels deploy {line} BUNDLE`; a folder, or models:/NAME@ALIAS",
            )
        folder = self._plant.folder / MODELS / own[-1].bundle
        model = model_of(self._plant, line, folder)
        if _name_of(folder) != folder.name:
            raise BundleError(
                "the folder holds another bundle than the one deployed",
                where=folder,
                expected=f"a bundle.json whose sha256 begins with {folder.name}",
                next_step=f"restore it from the backup, or `admodels deploy {line} BUNDLE` again",
            )
        return model, own[-1].origin


def moved_alias(deployed: Deployment) -> str:
    """What a bundle's address in the registry means now, if it is another bundle; else empty.

    Raises:
        SourceError: the registry is away.
    """
    address = deployed.origin.partition(" ")[0]
    if not address.startswith(REGISTERED):
        return ""
    from admodels.tracking import registry

    version, sha256 = registry.version_now(address)
    if sha256.startswith(deployed.bundle):
        return ""
    return f"{address} is version {version} now; deployed is {deployed.origin}"


def model_of(plant: Plant, line: str, folder: Path) -> Model:
    """The bundle in `folder` as the model of a line: with its page, its area and its tiles.

    Raises:
        BundleError: the bundle must not be used.
        DataError: the area must not be used.
    """
    block, area = plant.lines[line], area_of(plant, line)
    return Model.at(folder).with_page(block.page).with_area(area).with_tiles(block.tile)


def area_of(plant: Plant, line: str) -> Area | None:
    """Where a line's images are inspected; None: where its bundle says.

    Raises:
        DataError: the file must not be used.
    """
    source = plant.lines[line].area
    if source is None:
        return None
    return read_area(plant.folder / source.file, source.sha256, source.zones)


def deploy(
    plant: Plant, line: str, bundle: str, *, why: str = "", force: bool = False
) -> Deployment:
    """Copy a bundle into the plant and let it score the line from the next look on.

    `bundle` is a folder, or an address of the registry, which is asked now and never again.

    Raises:
        BundleError: the bundle fails its own tests, or a gate of the line.
        ConfigurationError: its calibration cannot hold the line's budget. With `force` and its
            `why`, which are kept, gates and budget hold nothing up.
        SourceError: the registry is away.
    """
    block = plant.line(line)
    if force and not why.strip():
        raise _refusal("`--force` needs a reason", line, "`--why TEXT`, which the history keeps")
    with _source(bundle) as (folder, origin):
        missing = missing_images(plant, line, model_of(plant, line, folder))
        if missing and block.verdicts is None and not force:
            raise _refusal(
                f"this bundle would give no verdicts: {missing} more normal images are needed to "
                f"hold alpha {block.alpha:g}",
                line,
                "a calibration that can hold the budget; `verdicts: none` in plant.yaml where "
                "scores alone are meant; or `--force --why TEXT`, then `admodels calibrate`",
            )
        evidence = evidence_of(folder)
        table = gates_of(plant, line, folder, evidence)
        failing = gates.enforce(table, f"line `{line}`: {origin}", force=force)
        name = _install(plant.folder, folder)
        if evidence is not None:
            write_evidence(plant.folder / MODELS / name, evidence)
    more = {"gates": failing} if failing else {}
    _record(plant, line, DEPLOY, Deployment(name, origin), why, **more)
    return Deployment(name, origin)


def gates_of(plant: Plant, line: str, folder: Path, evidence: Evidence | None) -> list[gates.Check]:
    """The gates of a line, checked for the bundle in `folder`; the deployed one is the champion."""
    block = plant.line(line)
    calibration = np.array(read_card(folder).calibration_scores)
    candidate = gates.Candidate(evidence, calibration, block.alpha)
    return gates.checks(block.gates or plant.gates, candidate, _champion(plant, line, folder))


def _champion(plant: Plant, line: str, folder: Path) -> gates.Champion | None:
    """The bundle that the line is scored with; of a damaged one nothing is known."""
    own = deployments(plant.folder).get(line, [])
    if not own:
        return None
    evidence = None
    with suppress(BundleError):
        evidence = evidence_of(plant.folder / MODELS / own[-1].bundle)
    return gates.Champion(evidence, own[-1].bundle == _name_of(folder))


def undo(plant: Plant, line: str, *, why: str = "") -> Deployment:
    """Let the bundle that counted before the last deployment score the line again.

    Raises:
        ConfigurationError: there was none.
    """
    own = deployments(plant.folder).get(line, [])
    if len(own) < 2:
        raise _refusal("there is no deployment before the last one", line, "an earlier deployment")
    _record(plant, line, UNDO, own[-2], why)
    return own[-2]


def _record(
    plant: Plant, line: str, do: str, deployed: Deployment, why: str, **more: object
) -> None:
    plant.ledger.mkdir(mode=0o750, exist_ok=True)
    content = {"who": user(), "line": line, "do": do, "why": why, **vars(deployed), **more}
    with commit_lock(plant.ledger):
        Chain(plant.folder / DEPLOYMENTS).add(content)


def _refusal(fault: str, line: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        fault, where=f"line `{line}`", expected=expected, next_step="correct it, then deploy again"
    )


@contextmanager
def _source(bundle: str) -> Iterator[tuple[Path, str]]:
    """The folder that holds a bundle, and words for where it came from."""
    if not bundle.startswith(REGISTERED):
        yield Path(bundle), str(Path(bundle).absolute())
        return
    from admodels.tracking import registry

    with registry.version_files(bundle) as (folder, version):
        yield folder, f"{bundle} version {version}"


def _install(plant: Path, source: Path) -> str:
    """Score the golden images of a bundle, then copy it to models/SHA16, once."""
    bundles.load(source, runtime.device())
    name = _name_of(source)
    target = plant / MODELS / name
    if not _is_whole(target):
        with durable_folder(target) as building:
            shutil.copytree(source, building, dirs_exist_ok=True)
        read_card(target)
    return name


def _name_of(folder: Path) -> str:
    """Of its content: bundle.json has the sha256 of every other file."""
    return sha256_of(folder / "bundle.json")[:16]


def _is_whole(folder: Path) -> bool:
    try:
        read_card(folder)
    except BundleError:
        return False
    return _name_of(folder) == folder.name


def missing_images(plant: Plant, line: str, model: Model, parts: str = "") -> int:
    """How many calibration images more the budget of a line, or of `parts`, needs with a model."""
    count = len(model.calibration_scores)
    if (plant.ledger / JOURNAL).is_file():  # else nothing was ever written there
        with read_ledger(plant.ledger) as ledger:
            fingerprints = (model.model_fingerprint, model.contract_fingerprint)
            own = calibration_in_force(ledger, line, *fingerprints)
        count = count if own is None else len(own.scores)
    if parts:
        views = len(plant.parts[parts].views)
        return images_missing(count, plant.alpha_of_parts(parts), views)
    return images_missing(count, plant.lines[line].alpha)
