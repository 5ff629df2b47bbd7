"""PatchCore from normal images to score: two passes of a frozen network, no training.

The first pass sees all patches with few channels and chooses the coreset; the second fetches the
chosen patches whole. So the memory of a fit does not grow with the channels.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from admodels import methods
from admodels.foundation.arrays import Indices
from admodels.foundation.errors import BundleError
from admodels.foundation.params import Kind
from admodels.methods import Log, Prediction, TrainingData
from admodels.methods.parts.backbones import Backbone, Taps, load_fetched
from admodels.methods.parts.frozen import FrozenTaps
from admodels.methods.parts.maps import (
    enlarge,
    gaussian_blur,
    inside,
    inspected_cells,
    mean_inside,
    peaks,
)
from admodels.methods.parts.training import load, to_cpu
from admodels.methods.patchcore.coreset import farthest_first, random_projection
from admodels.methods.patchcore.params import Params as PatchCoreParams
from admodels.methods.patchcore.patches import image_score, nearest_patches, patches

LOGGED = 100  # rows of history.csv


class Detector(methods.Detector):
    """The `Detector` of PatchCore."""

    Params = PatchCoreParams
    params: PatchCoreParams

    def __init__(
        self, params: PatchCoreParams, *, device: torch.device, precision: torch.dtype
    ) -> None:
        self.params, self.device, self.precision = params, device, precision
        self.backbone = Backbone(params.backbone, params.tap_strides).to(device)
        self.bank = torch.empty(0, sum(self.backbone.channels()), device=device)
        self.origins: Tensor | None = None  # of older bundles it is not known
        self._frozen: FrozenTaps | None = None

    def fit(
        self, data: TrainingData, *, kind: Kind, seed: int, checkpoints: Path, log: Log
    ) -> None:
        """Remember a coreset of the patches of all normal images; `loss` is its covering radius.

        `kind` and `checkpoints` are not used: the method is the same for both kinds, and a fit
        takes no longer than it takes to see the images twice and to choose.
        """
        self._start(data.weights, seed)
        frozen, p = self._frozen_taps(), self.params
        pool = self._pool(frozen, data.normal, seed)
        projection = random_projection(self.bank.shape[1], p.projected_channels, seed)
        projection = projection.to(self.device)

        def project(taps: Taps) -> Tensor:
            return torch.einsum("bchw,cd->bdhw", patches(taps), projection)

        points = torch.from_numpy(frozen.cells(data.normal, pool, project)).to(self.device)
        count = max(1, int(p.coreset_share * len(pool)))
        chosen, radii = farthest_first(points, count)
        for step in range(1, count, max(1, count // LOGGED)):
            log(step, count, {"loss": float(radii[step])})
        origins = pool[chosen.cpu().numpy()]
        bank = frozen.cells(data.normal, origins, patches)
        memory = {"bank": torch.from_numpy(bank), "origins": torch.from_numpy(origins)}
        self.restore(self._network() | memory)

    def _start(self, weights: dict[str, Path], seed: int) -> None:
        """Take the pretrained network, or a random one that is drawn on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone(self.params.backbone, self.params.tap_strides)
        load_fetched(backbone, self.params.backbone_weights, weights, "patchcore")
        self.backbone.load_state_dict(backbone.state_dict())

    def _frozen_taps(self) -> FrozenTaps:
        p, fused = self.params, copy.deepcopy(self.backbone).for_inference()
        return FrozenTaps(fused, self.precision, p.score_chunk_images, p.cache_mib)

    def _pool(self, frozen: FrozenTaps, normal: Tensor, seed: int) -> Indices:
        """Cells that the coreset is chosen from, in random order: all, or `pool_cells` of them."""
        _, taps = next(frozen.over(normal))
        cells = len(normal) * taps[0][0, 0].numel()
        return np.random.default_rng(seed).permutation(cells)[: self.params.pool_cells]

    @torch.inference_mode()
    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        """Distance of every patch to the nearest of the bank; the re-weighted largest of them."""
        if self._frozen is None:
            self._frozen = self._frozen_taps()
        p, maps, scores, rows = self.params, [], [], []
        seen = patches(self._frozen.compute(images))
        grid = seen.shape[2], seen.shape[3]
        in_cells = [] if inspected is None else list(inspected_cells(inspected, grid))
        for image, where in zip(seen, in_cells or [None] * len(seen), strict=True):
            cells = image.flatten(1).T.contiguous()
            distances, nearest = nearest_patches(cells, self.bank)
            distances = inside(distances, None if where is None else where.flatten())
            maps.append(distances.view(grid))
            scores.append(image_score(cells, distances, nearest, self.bank, p.neighbours))
            rows.append(nearest.view(grid))
        anomaly_map = enlarge_inside(torch.stack(maps), inspected, p)
        compared = self._closest_place(anomaly_map, torch.stack(rows))
        return Prediction(anomaly_map.cpu(), torch.stack(scores).cpu(), compared=compared)

    def _closest_place(self, maps: Tensor, nearest: Tensor) -> Tensor | None:
        """Where the patch comes from that is nearest at the maximum of each map."""
        if self.origins is None:
            return None
        stride, (height, width) = self.params.tap_strides[0], nearest.shape[1:]
        row, column = (peaks(maps) // stride).T
        remembered = nearest[torch.arange(len(maps), device=maps.device), row, column]
        cell = self.origins[remembered.cpu()]
        place = [cell // width % height, cell % width]
        pixels = [cell * stride + stride // 2 for cell in place]
        return torch.stack([cell // (height * width), *pixels], dim=1)

    def _network(self) -> dict[str, Tensor]:
        state = to_cpu(self.backbone.state_dict())
        return {f"backbone.{key}": tensor for key, tensor in state.items()}

    def state(self) -> dict[str, Tensor]:
        """The cut backbone, the bank of patches (K, C), and the cells (K,) they come from."""
        origins = {} if self.origins is None else {"origins": self.origins}
        return self._network() | {"bank": self.bank.cpu()} | origins

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back; the number of remembered patches is the bank's own."""
        bank, channels = state.get("bank"), self.bank.shape[1]
        expected = f"{self.params.backbone} and a bank of patches of {channels} channels"
        if bank is None or bank.ndim != 2 or not len(bank) or bank.shape[1] != channels:
            shape = None if bank is None else tuple(bank.shape)
            raise BundleError(
                f"the state does not fit PatchCore's params: its bank has the shape {shape}",
                where="model.safetensors",
                expected=expected,
                next_step="train again: `dvc repro train`",
            )
        own = ("bank", "origins")
        network = {k.removeprefix("backbone."): v for k, v in state.items() if k not in own}
        load(self.backbone, network, expected)
        self.bank, self._frozen = bank.to(self.device), None
        self.origins = state.get("origins")


def enlarge_inside(distances: Tensor, inspected: Tensor | None, params: PatchCoreParams) -> Tensor:
    """Distances of cells (B, h, w) as a map (B, *params.shape), 0 where it is not inspected."""

    def spread(maps: Tensor) -> Tensor:
        return gaussian_blur(enlarge(maps, params.shape), params.blur_sigma_px)

    grid = distances.shape[1], distances.shape[2]
    cells = None if inspected is None else inspected_cells(inspected, grid)
    return inside(mean_inside(spread, distances, cells), inspected)
