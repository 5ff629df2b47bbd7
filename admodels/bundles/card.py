"""bundle.json: what a bundle is, how to prepare its images, the hash of each file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from admodels.foundation.errors import BundleError
from admodels.foundation.files import sha256_of
from admodels.foundation.params import Kind, Resize, Strict
from admodels.images.area import AREA_FILE, AreaStamp
from admodels.images.rules import ImageRules
from admodels.images.shape import Band, Shape, square

SCHEMA_VERSION: Literal[2] = 2
REFERENCE = "reference.safetensors"
LATER = ("evidence", "calibration_map_max")  # what older bundles do not say


class Preparation(Strict):
    """How an image must reach the detector: RGB uint8 of `shape`, resized by `resize`.

    `learnt` says how an image is read before that, and which images are not of its kind.
    `shape_px` is height and width; None: a square of `image_px`. `band`: what is cut out around the
    part; None: the whole image. `area`: where images are inspected; None: everywhere. Older bundles
    are square, whole and inspected everywhere.
    """

    image_px: int
    resize: Resize
    learnt: ImageRules
    shape_px: Shape | None = None
    band: Band | None = None
    area: AreaStamp | None = None

    @property
    def shape(self) -> Shape:
        """Height and width of what the detector gets."""
        return self.shape_px or square(self.image_px)

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older bundles do not say, so that their fingerprints stay."""
        content: dict[str, Any] = handler(self)
        return {k: v for k, v in content.items() if v is not None}


class Golden(Strict):
    """One golden image and the score it had when the bundle was made."""

    file: str = Field(pattern=r"^golden/\d\d\.png$")
    anomaly_score: float = Field(allow_inf_nan=False)


class Card(Strict):
    """bundle.json. No path, host or time in it: two trainings alike give the same bytes."""

    schema_version: Literal[2]
    method: str
    task: str
    kind: Kind
    licence: str
    non_commercial: bool  # follows from the licence of what it was trained on
    params: dict[str, Any]
    precision: Literal["float32", "bfloat16"]
    contract: Preparation
    calibration_scores: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    golden: tuple[Golden, ...] = Field(min_length=1)
    golden_tolerance: float = Field(ge=0, allow_inf_nan=False)
    trained_on: dict[str, str]
    versions: dict[str, str]
    files: dict[str, str]
    evidence: tuple[str, ...] = ()  # hashes of pictures that no score depends on
    # the largest map value of each calibration image, in the order of their scores
    calibration_map_max: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprints(card: Card) -> tuple[str, str]:
    """Fingerprints of the model and of the preparation of images: they fix the score of bytes."""
    content = [card.method, card.params, card.precision, card.files["model.safetensors"]]
    return _digest(content)[:16], _digest(card.contract.model_dump(mode="json"))[:16]


def _write_card(path: Path, card: Card) -> None:
    unknown = {name for name in LATER if not getattr(card, name)}
    content = card.model_dump(mode="json", exclude=unknown)
    text = json.dumps({**content, "sha256": _digest(content)}, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _refusal(fault: str, where: Path, expected: str) -> BundleError:
    return BundleError(
        fault,
        where=where,
        expected=expected,
        next_step="take the bundle again from where it was made, or train again: `dvc repro train`",
    )


def read_card(folder: Path) -> Card:
    """bundle.json, checked against its own hash and against the hash of every file it names.

    Raises:
        BundleError: missing, of another schema, or changed since it was made.
    """
    path = folder / "bundle.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seal = content.pop("sha256")
        card = Card.model_validate_json(json.dumps(content), strict=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"no readable bundle: {type(error).__name__}"
        raise _refusal(fault, path, f"a bundle of schema version {SCHEMA_VERSION}") from None
    if seal != _digest(content):
        raise _refusal("bundle.json was changed after it was made", path, f"content hash {seal}")
    wanted = {"model.safetensors", *(golden.file for golden in card.golden)}
    wanted |= {AREA_FILE} if card.contract.area else set()
    scores = list(card.calibration_scores)
    is_known = len(card.calibration_map_max) in (0, len(scores))
    if set(card.files) - {REFERENCE} != wanted or scores != sorted(scores) or not is_known:
        raise _refusal("bundle.json contradicts itself", path, f"the files {sorted(wanted)}")
    for name, expected in card.files.items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != expected:
            raise _refusal(f"{name} is missing or was changed", file, f"sha256 {expected}")
    return card
