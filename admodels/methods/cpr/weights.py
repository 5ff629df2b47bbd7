"""Fetches the pretrained weights that CPR starts from."""

from pathlib import Path

from admodels.methods.cpr.params import Params
from admodels.methods.parts.weights import fetch_backbone, fetch_network


def fetch_weights(params: Params, folder: Path) -> None:
    """Write backbone.pth and heads.pth, where they are files, and weights.json.

    Raises:
        SourceError: a file cannot be reached.
        DataError: it differs from its pin.
    """
    location, pin = params.head_weights, params.head_sha256
    heads = fetch_network("heads", location, pin, folder, "methods.cpr.head_sha256")
    fetch_backbone(params, "cpr", folder, heads)
