"""Fetches what DiffusionAD starts from: a bundle's weights."""

from pathlib import Path

from admodels.methods import INITIAL
from admodels.methods.diffusionad.params import Params
from admodels.methods.parts.weights import fetch_initial


def fetch_weights(params: Params, folder: Path) -> None:
    """Write what `initial_weights` names, and weights.json.

    Raises:
        SourceError: the file cannot be reached.
        DataError: it differs from its pin.
    """
    fetch_initial(params, "diffusionad", [INITIAL][: len(params.initial_weights)], folder)
