"""Training of the heads on frozen features (Li et al. 2024)."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from admodels.foundation.arrays import Float32
from admodels.foundation.params import Kind
from admodels.methods import Log, TrainingData
from admodels.methods.cpr import foreground as part_maps
from admodels.methods.cpr.pairs import (
    Points,
    Sample,
    contrastive_loss,
    draw_points,
    far_distance_px,
    photometric,
    synthetic_sample,
)
from admodels.methods.cpr.params import Params
from admodels.methods.parts.backbones import Taps
from admodels.methods.parts.checkpoint import Checkpoint, run_fingerprint
from admodels.methods.parts.frozen import FrozenTaps
from admodels.methods.parts.maps import enlarge
from admodels.methods.parts.nets import autocast
from admodels.methods.parts.training import Training, refuse_divergence

SAMPLES_AT_HAND = 512
SMOOTHING_SHARE = 1 / 25  # sigma of the foreground's blur, of its mean side


def smooth_attention(maps: Tensor) -> Tensor:
    """Foreground (N, h, w), smoothed with the edge repeated and sharpened."""
    sigma = math.sqrt(math.prod(maps.shape[1:])) * SMOOTHING_SHARE
    smooth = gaussian_filter(maps.numpy(), sigma, axes=(1, 2))
    return part_maps.attention(torch.from_numpy(smooth))


class Trainer:
    """The heads' run: what it draws depends on (seed, step) alone."""

    def __init__(
        self,
        heads: nn.ModuleList,
        frozen: FrozenTaps,
        data: TrainingData,
        params: Params,
        *,
        kind: Kind,
        seed: int,
        ranking: Tensor,
        maps: Tensor | None,
        precision: torch.dtype,
    ) -> None:
        self.heads, self.frozen, self.data, self.params = heads, frozen, data, params
        self.kind, self.seed, self.ranking, self.precision = kind, seed, ranking, precision
        self.maps = maps
        optimiser = torch.optim.AdamW(heads.parameters(), weight_decay=params.weight_decay)
        self.training = Training(heads, optimiser)
        self.sample = lru_cache(SAMPLES_AT_HAND)(self._sample)
        self.attention = None if maps is None else smooth_attention(maps)

    def run(self, checkpoints: Path, log: Log) -> None:
        """All steps, from the last checkpoint of this very run where there is one."""
        steps, tensors = self.params.steps.of(self.kind), (self.data.normal, self.data.textures)
        weights = [tensor.cpu() for tensor in self.heads.state_dict().values()]
        device = next(self.heads.parameters()).device.type
        facts = (self.seed, self.kind, self.precision, device, torch.__version__)
        area = [] if self.data.inspected is None else [self.data.inspected]
        seen = (*tensors, self.ranking, *weights, *area)
        fingerprint = run_fingerprint(self.params, facts, seen)
        self.heads.train()
        self.training.go(steps, self._step, Checkpoint(checkpoints, fingerprint), log)
        self.heads.eval()
        self.sample.cache_clear()  # it would outlive the run: the cache and the run hold each other

    def _step(self, step: int) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, step])
        samples, references = self._draw_pairs(step, rng)
        normal = self.data.normal
        images = [self.sample(n).image for n in samples] + [normal[r].numpy() for r in references]
        taps = self._taps(images, [len(normal) + n for n in samples] + references, rng)
        points = Points.batch(
            [self._points(*pair, rng) for pair in zip(samples, references, strict=True)]
        )
        losses = self._losses(taps, points.to(taps[0].device))
        loss = self.training.update(losses, [self.params.learning_rate])
        refuse_divergence("cpr", loss, step)
        return {"loss": loss}

    def _draw_pairs(self, step: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Numbers of the pool in reshuffled order, and for each one of its source's neighbours."""
        size, batch = self.params.synthetic_images, self.params.batch_pairs
        places = np.arange(step * batch, (step + 1) * batch)
        orders = {
            e: np.random.default_rng([self.seed, 1, e]).permutation(size)
            for e in set((places // size).tolist())
        }
        samples = [int(orders[place // size][place % size]) for place in places.tolist()]
        near = [self.ranking[n % len(self.data.normal)] for n in samples]
        return samples, [int(row[rng.integers(len(row))]) for row in near]

    def _taps(self, images: Sequence[Any], keys: Sequence[int], rng: np.random.Generator) -> Taps:
        """Frozen features after a photometric change, which takes its key from an image."""
        share = self.params.photometric_share
        changed = [photometric(image, share, rng) for image in images]
        kept = [k if c is i else None for k, c, i in zip(keys, changed, images, strict=True)]
        return self.frozen.of(torch.from_numpy(np.stack(changed)), kept)

    def _points(self, number: int, reference: int, rng: np.random.Generator) -> Points:
        mask, attention = self.sample(number).mask, None
        if self.kind == "object":
            source = number % len(self.data.normal)
            attention = np.maximum(self._attention_to(source), self._attention_to(reference))
        count = self.params.points_per_image
        return draw_points(mask, attention, count, far_distance_px(self.params), rng)

    def _losses(self, taps: Taps, points: Points) -> Iterator[Tensor]:
        """The loss of each tap, last tap first; a tap and its maps are freed before the next."""
        for head in reversed(self.heads):
            yield self._loss(head, taps.pop(), points)

    def _loss(self, head: nn.Module, tap: Tensor, points: Points) -> Tensor:
        """Batch norm sees queries and references together."""
        with autocast(tap.device, self.precision):
            descriptors = head(tap)
        return contrastive_loss(descriptors, tap, points, self.params)

    def _sample(self, number: int) -> Sample:
        return synthetic_sample(
            self.data.normal,
            self.data.textures,
            self.maps,
            self.params,
            self_share=self.params.generator.self_share.of(self.kind),
            seed=self.seed,
            number=number,
            inspected=self.data.inspected,
        )

    def _attention_to(self, index: int) -> Float32:
        """Where points of normal image `index` are drawn: (H, W); even where no part was found."""
        shape = self.params.shape
        if self.attention is None:
            return np.ones(shape, dtype=np.float32)
        attention: Float32 = enlarge(self.attention[index, None], shape)[0].numpy()
        return attention
