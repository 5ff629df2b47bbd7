"""Fetches what DRAEM starts from: a bundle's weights, or the two files of its authors."""

from pathlib import Path

from admodels.methods import INITIAL
from admodels.methods.draem.params import OFFICIAL_FILES, Params
from admodels.methods.parts.weights import fetch_initial


def fetch_weights(params: Params, folder: Path) -> None:
    """Write what `initial_weights` names, and weights.json.

    Raises:
        SourceError: a file cannot be reached.
        DataError: it differs from its pin.
    """
    names = [(), (INITIAL,), OFFICIAL_FILES][len(params.initial_weights)]
    fetch_initial(params, "draem", names, folder)
