"""A fitted detector as a folder and back: self-contained, tested at every load, never a pickle.

model.safetensors   everything the detector's `restore` needs
bundle.json         what it is, how images must be prepared, calibration scores, hashes of all files
reference.safetensors   what the calibration images looked like; older bundles have none
evidence/*.webp     the normal images, for people (`admodels.bundles.evidence`)
area.png            where images are inspected, if not everywhere
golden/*.png        a few images whose scores are replayed before the first real one
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from admodels import methods
from admodels.bundles.card import (
    REFERENCE,
    SCHEMA_VERSION,
    Card,
    Golden,
    Preparation,
    _refusal,
    _write_card,
    fingerprints,
    read_card,
)
from admodels.bundles.evidence import FOLDER, Evidence, write_evidence
from admodels.foundation.arrays import Bool, Float32, Float64, Indices, Records, UInt8
from admodels.foundation.errors import ConfigurationError
from admodels.foundation.files import durable_folder, sha256_of
from admodels.foundation.licences import is_non_commercial
from admodels.foundation.params import Kind
from admodels.images import area as areas
from admodels.images import decode
from admodels.images.area import AREA_FILE, Area, AreaStamp
from admodels.images.describe import read_records, write_records
from admodels.images.rules import ImageRules
from admodels.methods import Detector, MethodParams

PACKAGES = ("admodels", "torch", "numpy", "opencv-python-headless", "pillow")
TOLERANCE_FLOOR = 1e-4  # relative; fp32 kernels of another machine stay within it


@dataclass(frozen=True)
class Origin:
    """Where a detector comes from, and which images it is for.

    `trained_on` maps each input (manifest, textures, weights) to its hash.
    """

    method: str
    task: str
    kind: Kind
    licence: str
    trained_on: Mapping[str, str]
    learnt: ImageRules
    area: Area | None = None

    @property
    def stamp(self) -> AreaStamp | None:
        """Of the area, None where everything is inspected."""
        return self.area.stamp if self.area else None


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; `calibration_scores` are sorted ascending, float64.

    `calibration_map_max` has the largest map values of the same images, or is empty.
    """

    detector: Detector
    method: str
    task: str
    kind: Kind
    params: MethodParams
    contract: Preparation
    calibration_scores: Float64
    model_fingerprint: str
    contract_fingerprint: str
    licence: str
    evidence: Evidence = field(default_factory=Evidence)
    area: Area | None = None
    calibration_map_max: Float64 = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Scored:
    """Maps (N, h, w) float32, scores (N,) float32, reconstructions (N, 3, H, W) float32 or None.

    A map is 0 outside the inspected area; `map_max` (N,) float32 is its largest value. `compared`
    (N, 3) int64 or None: see `Prediction`.
    """

    anomaly_map: Float32
    anomaly_score: Float32
    reconstruction: Float32 | None
    compared: Indices | None = None

    @property
    def map_max(self) -> Float32:
        """The largest value of each map, (N,) float32."""
        return np.asarray(self.anomaly_map.max(axis=(1, 2)), np.float32)


def score(detector: Detector, pixels: UInt8, inspected: Bool | None = None) -> Scored:
    """Score (N, 3, H, W) uint8 RGB, N > 0; the score of an image does not depend on the others.

    `inspected` (N, H, W) bool: where an image is looked at; None: everywhere.
    """
    chunk = detector.params.score_chunk_images
    where = None if inspected is None else torch.from_numpy(inspected)
    prediction = methods.predict(detector, torch.from_numpy(pixels), chunk, where)
    reconstruction = prediction.reconstruction
    return Scored(
        prediction.anomaly_map.numpy(),
        prediction.anomaly_score.numpy(),
        None if reconstruction is None else reconstruction.numpy(),
        None if prediction.compared is None else prediction.compared.numpy(),
    )


def score_views(
    detector: Detector, planes: Sequence[UInt8], inspected: Sequence[Bool] | None = None
) -> Scored:
    """Score images by their views (3 V, H, W) uint8: of two ways up, the smaller score counts.

    The second view is the first one turned by 180 degrees; its map is turned back. `inspected`:
    for each image (H, W) bool, of its first view.
    """
    counts = [len(image) // 3 for image in planes]
    flat = np.concatenate([image.reshape(-1, 3, *image.shape[1:]) for image in planes])
    scored = score(detector, flat, None if inspected is None else _both_ways(inspected, counts))
    starts = np.cumsum([0, *counts[:-1]])
    turns = [
        int(scored.anomaly_score[start : start + count].argmin())  # of NaN the first: no number
        for start, count in zip(starts, counts, strict=True)
    ]
    chosen = starts + turns

    def turn_back(stack: Float32) -> Float32:
        ways = zip(stack[chosen], turns, strict=True)
        return np.stack([image[..., ::-1, ::-1] if turn else image for image, turn in ways])

    rebuilt = scored.reconstruction
    return Scored(
        turn_back(scored.anomaly_map),
        scored.anomaly_score[chosen],
        None if rebuilt is None else turn_back(rebuilt),
        None if scored.compared is None else scored.compared[chosen],
    )


def _both_ways(inspected: Sequence[Bool], counts: Sequence[int]) -> Bool:
    pairs = zip(inspected, counts, strict=True)
    return np.concatenate([np.stack([mask, mask[::-1, ::-1]][:count]) for mask, count in pairs])


def contract_of(
    params: MethodParams, learnt: ImageRules, area: AreaStamp | None = None
) -> Preparation:
    """How images are prepared: by the params of a method, the rules and the area of a task."""
    return Preparation(
        image_px=params.image_px,
        resize=params.resize,
        learnt=learnt,
        shape_px=params.shape_px,
        band=params.band,
        area=area,
    )


def _golden_tolerance(detector: Detector, pixels: UInt8, scores: Float32) -> float:
    """Twice the effect of the compute type: more than another machine's kernels can differ by."""
    exact = type(detector)(detector.params, device=torch.device("cpu"), precision=torch.float32)
    exact.restore(detector.state())
    difference = float(np.abs(score(exact, pixels).anomaly_score - scores).max())
    return max(2 * difference, TOLERANCE_FLOOR * float(np.abs(scores).max()))


def save(
    detector: Detector,
    folder: Path,
    *,
    origin: Origin,
    calibration_scores: Sequence[float],
    calibration_map_max: Sequence[float] = (),
    golden: UInt8,
    reference: Records | None = None,
    evidence: UInt8 | None = None,
) -> None:
    """Write the bundle, whole or not at all; `golden` (G, 3, H, W) uint8 RGB.

    `calibration_map_max`: the largest map values of the images of `calibration_scores`.
    `reference`: the appearances of these images, which drift is measured from.
    `evidence` (N, 3, H, W) uint8 RGB: the images that it learnt from, for people to see.

    Raises:
        ValidationError: a score is not finite: such a detector must not be kept.
    """
    with durable_folder(folder) as partial:
        save_file(detector.state(), partial / "model.safetensors")
        if reference is not None:
            write_records(partial / REFERENCE, reference)
        if origin.area is not None:
            areas.write_area(partial / AREA_FILE, origin.area)
        names = _write_golden_images(partial, golden)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        pictures = () if evidence is None else write_evidence(partial / FOLDER, evidence)
        scores, largest = score(detector, golden).anomaly_score, len(calibration_map_max) > 0
        order = np.argsort(calibration_scores, kind="stable")
        card = Card(
            **_identity(origin),
            params=detector.params.model_dump(mode="json", exclude={"evidence"}),
            precision="bfloat16" if detector.precision == torch.bfloat16 else "float32",
            contract=contract_of(detector.params, origin.learnt, origin.stamp),
            calibration_scores=tuple(float(calibration_scores[i]) for i in order),
            calibration_map_max=tuple(float(calibration_map_max[i]) for i in order if largest),
            golden=_golden_scores(names, scores),
            golden_tolerance=_golden_tolerance(detector, golden, scores),
            versions={name: version(name) for name in PACKAGES},
            files={path.relative_to(partial).as_posix(): sha256_of(path) for path in files},
            evidence=pictures,
        )
        _write_card(partial / "bundle.json", card)


def _identity(origin: Origin) -> dict[str, Any]:
    """What bundle.json says of where the detector comes from."""
    return {
        "schema_version": SCHEMA_VERSION,
        "method": origin.method,
        "task": origin.task,
        "kind": origin.kind,
        "licence": origin.licence,
        "non_commercial": is_non_commercial(origin.licence),
        "trained_on": dict(sorted(origin.trained_on.items())),
    }


def _golden_scores(names: Sequence[str], scores: Float32) -> tuple[Golden, ...]:
    pairs = zip(names, scores, strict=True)
    return tuple(Golden(file=name, anomaly_score=float(value)) for name, value in pairs)


def _write_golden_images(folder: Path, golden: UInt8) -> list[str]:
    names = [f"golden/{number:02d}.png" for number in range(len(golden))]
    for name, pixels in zip(names, golden, strict=True):
        decode.write_png(folder / name, pixels.transpose(1, 2, 0))
    return names


def reference(folder: Path, card: Card) -> Records | None:
    """The appearances of the calibration images; older bundles have none."""
    return read_records(folder / REFERENCE) if REFERENCE in card.files else None


def _replay_golden(folder: Path, card: Card, detector: Detector) -> None:
    pictures = [
        decode.decode_image((folder / g.file).read_bytes(), folder / g.file) for g in card.golden
    ]
    pixels = np.stack([p.rgb.transpose(2, 0, 1) for p in pictures])
    expected = np.array([g.anomaly_score for g in card.golden])
    difference = float(np.abs(score(detector, pixels).anomaly_score - expected).max())
    if not difference <= card.golden_tolerance:
        raise _refusal(
            f"golden images score differently here: by {difference:.3g}",
            folder / "golden",
            f"at most {card.golden_tolerance:.3g} from the scores when the bundle was made",
        )


def _read_area(folder: Path, card: Card) -> Area | None:
    if card.contract.area is None:
        return None
    area = areas.read_written(folder / AREA_FILE)
    if area is None or area.stamp != card.contract.area:
        raise _refusal("area.png is another area than bundle.json says", folder, AREA_FILE)
    return area


def load(folder: Path, device: torch.device) -> Bundle:
    """Check every hash, restore the detector on `device`, replay the golden images.

    Raises:
        BundleError: missing, tampered with, incompatible, or scoring differently here.
    """
    card = read_card(folder)
    try:
        cls = methods.detector_class(card.method)
        params = cls.Params.model_validate_json(json.dumps(card.params), strict=True)
        state = load_file(folder / "model.safetensors")
    except (ConfigurationError, ValidationError, SafetensorError) as error:
        fault = f"method, params or weights of another version of admodels: {error}"
        raise _refusal(fault, folder, f"what admodels {version('admodels')} writes") from None
    if card.contract != contract_of(params, card.contract.learnt, card.contract.area):
        fault = "bundle.json prepares images otherwise than the params of its method"
        raise _refusal(fault, folder, "the image_px, shape_px, band and resize of the params")
    precision = torch.bfloat16 if card.precision == "bfloat16" else torch.float32
    detector = cls(params, device=device, precision=precision)
    detector.restore(state)
    _replay_golden(folder, card, detector)
    model_fingerprint, contract_fingerprint = fingerprints(card)
    return Bundle(
        detector=detector,
        method=card.method,
        task=card.task,
        kind=card.kind,
        params=params,
        contract=card.contract,
        calibration_scores=np.array(card.calibration_scores),
        model_fingerprint=model_fingerprint,
        contract_fingerprint=contract_fingerprint,
        licence=card.licence,
        evidence=Evidence(folder / FOLDER, card.evidence),
        area=_read_area(folder, card),
        calibration_map_max=np.array(card.calibration_map_max),
    )
