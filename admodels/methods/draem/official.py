"""Reads the two checkpoints that the authors of DRAEM publish for a category.

github.com/VitjanZ/DRAEM saves the state dicts of ReconstructiveSubNetwork and of
DiscriminativeSubNetwork. Its blocks alternate between `up` and `db` in another order than ours, so
keys are mapped by name. Its images are BGR, so the colours of both networks' ends are reversed.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from admodels.foundation.errors import DataError
from admodels.methods.draem.params import OFFICIAL_FILES
from admodels.methods.parts.backbones import read_weights, refuse_missing

OURS = {"block": "encoder", "up": "up", "db": "decoder"}
BGR = [2, 1, 0]


def read_official(weights: Mapping[str, Path]) -> dict[str, Tensor]:
    """The state of `networks.Draem` out of the files that the stage `weights` fetched.

    Raises:
        DataError: a file is missing, holds more than tensors, or has a key that DRAEM has not.
    """
    state: dict[str, Tensor] = {}
    for file in OFFICIAL_FILES:
        name = Path(file).stem
        refuse_missing(weights, name, "initial_weights", "draem")
        content = read_weights(weights[name], "methods.draem.initial_weights")
        is_segmentation = file == OFFICIAL_FILES[1]
        mapped = {_our_key(key, is_segmentation, weights[name]): content[key] for key in content}
        state |= {f"{name}.{key}": tensor for key, tensor in mapped.items()}
    return _from_bgr(state)


def _our_key(key: str, is_segmentation: bool, where: Path) -> str:
    """`encoder.block1.0.weight` -> `encoder.0.0.weight`, `decoder.up2.1.bias` -> `up.1.1.bias`."""
    suffix = "_segment" if is_segmentation else ""
    words = re.fullmatch(rf"(?:en|de)coder{suffix}\.(block|up|db)(_b|\d)\.(\d)\.(\w+)", key)
    if words:
        level = 0 if words[2] == "_b" else int(words[2]) - 1
        if is_segmentation and words[1] != "block" and words[2] != "_b":
            level += 1  # the deepest, up_b and db_b, come first
        return f"{OURS[words[1]]}.{level}.{words[3]}.{words[4]}"
    if head := re.fullmatch(rf"decoder{suffix}\.fin_out\.0\.(weight|bias)", key):
        return f"head.{head[1]}"
    raise DataError(
        f"not a checkpoint of DRAEM: `{key}`",
        where=where,
        expected="the reconstruction's file first, then the one whose name ends with `_seg`",
        next_step="correct `methods.draem.initial_weights`, then `dvc repro weights`",
    )


def _from_bgr(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverse the colours of what sees or paints an image."""
    both = torch.tensor([*BGR, *(3 + channel for channel in BGR)])  # (reconstruction, image)
    first = "encoder.0.0.weight"
    inputs = {f"reconstructive.{first}": both[:3], f"discriminative.{first}": both}
    outputs = ("reconstructive.head.weight", "reconstructive.head.bias")
    turned = {key: state[key][:, order] for key, order in inputs.items() if key in state}
    turned |= {key: state[key][BGR] for key in outputs if key in state}
    return state | turned
