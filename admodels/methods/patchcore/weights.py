"""Fetches the pretrained weights that PatchCore starts from."""

from pathlib import Path

from admodels.methods.parts.weights import fetch_backbone
from admodels.methods.patchcore.params import Params


def fetch_weights(params: Params, folder: Path) -> None:
    """Write backbone.pth, where it is a file, and weights.json.

    Raises:
        SourceError: a file cannot be reached.
        DataError: it differs from its pin.
    """
    fetch_backbone(params, "patchcore", folder)
