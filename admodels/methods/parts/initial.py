"""The weights of a finished detector, for another training to start from."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from admodels.foundation.errors import BundleError, DataError
from admodels.methods import INITIAL, Detector
from admodels.methods.parts.backbones import refuse_missing


def read_initial(weights: Mapping[str, Path], method: str) -> dict[str, Tensor]:
    """The tensors of a bundle's model.safetensors, which the stage `weights` copied.

    Raises:
        DataError: there is no such file, or it has another format; nothing in it is ever executed.
    """
    name = Path(INITIAL).stem
    refuse_missing(weights, name, "initial_weights", method)
    try:
        return load_file(weights[name])
    except SafetensorError as error:
        raise DataError(
            f"initial weights cannot be read: {error}",
            where=weights[name],
            expected="the `model.safetensors` of a bundle",
            next_step=f"correct `methods.{method}.initial_weights`, then `dvc repro weights`",
        ) from error


def restore_initial(detector: Detector, state: dict[str, Tensor], method: str) -> None:
    """Give `detector` the weights that its training starts from.

    Raises:
        DataError: they are those of a network with other params.
    """
    try:
        detector.restore(state)
    except BundleError as error:
        raise DataError(
            str(error.fault),
            where=f"data/weights/{method}",
            expected=f"the weights of a detector with the same params as `methods.{method}`",
            next_step=f"correct `methods.{method}.initial_weights`, or the widths",
        ) from error
