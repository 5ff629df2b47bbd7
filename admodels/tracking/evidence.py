"""evaluation.json: what the test images showed of a bundle, kept beside its bundle.json.

`promote`, `deploy` and `bundle export` write it from the checkout that measured the bundle, so that
the gates of a plant can be checked where no checkout is.
"""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from admodels.bundles.card import fingerprints, read_card
from admodels.foundation import manifest, params
from admodels.foundation.errors import BundleError, ConfigurationError
from admodels.foundation.files import durable_file, durable_folder
from admodels.foundation.params import PARAMS_FILE, Strict

NAME = "evaluation.json"
MODELS = Path("data/models")  # of a checkout: METHOD/TASK below it


class TestImage(Strict):
    """A test image and its score; `counts`: it stands for its group where rates are counted."""

    image_id: str
    image_sha256: str
    is_anomalous: bool
    counts: bool
    anomaly_score: float = Field(allow_inf_nan=False)


class Evidence(Strict):
    """What was measured of the bundle whose model has this fingerprint."""

    version: Literal[1] = Field(alias="schema")
    method: str
    task: str
    model_fingerprint: str
    image_cpu_seconds: float | None
    metrics: dict[str, Any]
    intervals: dict[str, Any]
    images: tuple[TestImage, ...]


def evidence_of(folder: Path) -> Evidence | None:
    """What is known of the bundle in `folder`: its checkout's evaluation, else its own file.

    Raises:
        BundleError: no bundle, or its evaluation.json cannot be read: nothing would be known of it.
    """
    return _of_checkout(folder) or _of_file(folder)


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Write evaluation.json into the folder of the bundle."""
    with durable_file(folder / NAME) as partial:
        partial.write_text(evidence.model_dump_json(by_alias=True, indent=1) + "\n", "utf-8")


def export_bundle(source: Path, target: Path) -> bool:
    """Copy the bundle in `source` to `target`, a new folder; whether anything is known of it.

    Raises:
        BundleError: it is no bundle, or was changed since it was made.
        ConfigurationError: `target` is there already.
    """
    if target.exists():
        raise ConfigurationError(
            "there is something already",
            where=target,
            expected="a new folder",
            next_step="name another, or remove it",
        )
    read_card(source)
    evidence = evidence_of(source)
    with durable_folder(target) as building:
        shutil.copytree(source, building, dirs_exist_ok=True)
        if evidence is not None:
            write_evidence(building, evidence)
    return evidence is not None


def _of_file(folder: Path) -> Evidence | None:
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        evidence = Evidence.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise _refusal(path, f"it cannot be read: {error.errors()[0]['msg']}") from None
    if evidence.model_fingerprint != fingerprints(read_card(folder))[0]:
        raise _refusal(path, f"it is of another bundle, {evidence.model_fingerprint}")
    return evidence


def _refusal(path: Path, fault: str) -> BundleError:
    return BundleError(
        fault,
        where=path,
        expected="what `admodels bundle export` wrote for this very bundle",
        next_step="export the bundle again, or remove this file: then nothing is known of it",
    )


def _of_checkout(folder: Path) -> Evidence | None:
    """The evaluation that stands in the checkout of `folder`, if it is of this very bundle."""
    method, task = folder.absolute().parts[-2:]
    repo = folder.absolute().parents[3] if len(folder.absolute().parents) > 3 else folder
    if folder.absolute() != (repo / MODELS / method / task):
        return None
    model = fingerprints(read_card(folder))[0]
    costs = _json(repo / f"data/costs/evaluate/{method}/{task}.json")
    cell = repo / f"data/evaluation/{method}/{task}"
    tested = repo / f"data/manifests/{task}/test.csv"
    known = all((repo / name).is_file() for name in (cell / "scores.csv", tested, PARAMS_FILE))
    images = tuple(_images(repo, cell / "scores.csv", tested)) if known else ()
    if costs.get("model_fingerprint") != model or not images:
        return None
    return Evidence(
        schema=1,
        method=method,
        task=task,
        model_fingerprint=model,
        image_cpu_seconds=costs.get("image_cpu_seconds"),
        metrics=_json(cell / "metrics.json"),
        intervals=_json(cell / "intervals.json"),
        images=images,
    )


def _images(repo: Path, scores: Path, tested: Path) -> Iterator[TestImage]:
    """The rows of scores.csv, with what the manifest says of each; none if it has other images."""
    rows = {row.image_id: row for row in manifest.read(tested)}
    seed = params.read("seed", int, repo / PARAMS_FILE)
    drawn = {row.image_id for row in manifest.one_of_each_group([*rows.values()], seed)}
    with scores.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if {line["image_id"] for line in lines} != rows.keys():
        return
    for line in lines:
        yield TestImage(
            image_id=line["image_id"],
            image_sha256=rows[line["image_id"]].image_sha256,
            is_anomalous=line["label"] == "anomalous",
            counts=line["image_id"] in drawn,
            anomaly_score=float(line["anomaly_score"]),
        )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
