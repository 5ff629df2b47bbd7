"""DiffusionAD from training to score, in reading order (Zhang et al. 2025, TPAMI).

Where we depart from the official code: every random draw comes from (seed, step, sample), the
inference noise is drawn once and kept with the weights, a batch without a normal sample is counted
instead of guessed from a NaN, and the last weights are kept: there, test labels choose.
"""

import copy
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from admodels import methods
from admodels.foundation.params import Kind
from admodels.methods import Log, Prediction, Synthetic, TrainingData
from admodels.methods.diffusionad.diffusion import Estimate, alpha_bars, denoise
from admodels.methods.diffusionad.losses import (
    FOCAL_WEIGHT,
    focal_loss,
    noise_loss,
    smooth_l1_loss,
)
from admodels.methods.diffusionad.params import Params as DiffusionAdParams
from admodels.methods.diffusionad.params import Schedule
from admodels.methods.diffusionad.unet import DenoisingUNet
from admodels.methods.parts.checkpoint import Checkpoint, run_fingerprint
from admodels.methods.parts.initial import read_initial, restore_initial
from admodels.methods.parts.maps import inside
from admodels.methods.parts.nets import SegmentationUNet, autocast, for_inference, recompute
from admodels.methods.parts.training import Training, ahead, load, refuse_divergence, to_cpu
from admodels.synthesis.anomalies import Batch, batch_on_parts
from admodels.synthesis.foreground import foreground, whole

VALIDATION_IMAGES = 16
OFFICIAL_PERIOD = 20  # steps of a wave of the segmentation's rate, perhaps meant per epoch
NOISE_STREAM = 1  # beside the synthesiser's, from the same seed


class DiffusionAd(nn.Module):
    """Both networks, trained end to end: the segmentation's gradient reaches the denoiser.

    `noise` (K, 2, 3, H, W) is what inference adds to every image: K draws, kept with the weights.
    """

    def __init__(self, params: DiffusionAdParams) -> None:
        super().__init__()
        self.params = params
        self.denoiser = DenoisingUNet(
            params.base_channels,
            params.channel_multipliers,
            params.attention_levels(),
            blocks_per_level=params.blocks_per_level,
            checkpointing=params.checkpointing,
        )
        self.segmentation = SegmentationUNet(6, 1, params.segmentation_width)
        self.noise: Tensor
        self.schedule: Tensor
        self.register_buffer("noise", torch.randn(params.eval_draws, 2, 3, *params.shape))
        self.register_buffer("schedule", alpha_bars(params.noise_steps), persistent=False)
        for network in (self.denoiser, self.segmentation):
            network.to(memory_format=torch.channels_last)

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Estimate, Tensor]:
        """x0 (B, 3, H, W), t (2, B), noise (2, B, 3, H, W) -> estimate, logits (B, 1, H, W).

        In training the denoiser sees `micro_batch_images` at once, and again in the backward pass:
        the maps of one such piece are in memory. The segmentation, whose norms need the whole
        batch, keeps the maps of it: the floor, 0.36 GiB per image at the official size.
        """
        chunk = self.params.micro_batch_images if torch.is_grad_enabled() else len(x0)
        pieces = [slice(start, start + chunk) for start in range(0, len(x0), chunk)]
        estimates = [
            self._estimate(x0[i], t[:, i], noise[:, i], in_pieces=len(pieces) > 1) for i in pieces
        ]
        estimate = Estimate(*(torch.cat(values) for values in zip(*estimates, strict=True)))
        return estimate, self.segmentation(torch.cat([x0, estimate.guided], dim=1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters that have a learning rate of their own."""
        return [{"params": net.parameters()} for net in (self.denoiser, self.segmentation)]

    def _estimate(self, x0: Tensor, t: Tensor, noise: Tensor, *, in_pieces: bool) -> Estimate:
        arguments = (self.denoiser, x0, t, noise, self.schedule, self.params.guidance_weight)
        return recompute(denoise, *arguments) if in_pieces else denoise(*arguments)


class Detector(methods.Detector):
    """The `Detector` of DiffusionAD."""

    Params = DiffusionAdParams
    params: DiffusionAdParams

    def __init__(
        self, params: DiffusionAdParams, *, device: torch.device, precision: torch.dtype
    ) -> None:
        self.params, self.device, self.precision = params, device, precision
        self.net = DiffusionAd(params).to(device)
        self._scorer: DiffusionAd | None = None

    def fit(
        self, data: TrainingData, *, kind: Kind, seed: int, checkpoints: Path, log: Log
    ) -> None:
        """Train from the initial weights, or from the last checkpoint of the same run."""
        p, steps = self.params, self.params.steps(len(data.normal))
        mattes = None if data.foreground is None else data.foreground.numpy()
        normal = data.normal.numpy()
        known = whole(normal) if p.foreground == "whole" else foreground(normal, mattes, kind)
        known_parts = torch.from_numpy(known.mattes)
        if data.inspected is not None:
            known_parts = known_parts * data.inspected[:, None]
        self._start(data.weights, seed)
        run = Training(self.net, torch.optim.Adam(self.net.parameter_groups()), p.ema_decay)
        facts = (seed, kind, self.precision, self.device.type, torch.__version__)
        held_out = data.validation
        pixels = (data.normal, data.textures, known_parts, held_out.images, held_out.masks)
        checkpoint = Checkpoint(checkpoints, run_fingerprint(p, facts, pixels))
        sources = {f"foreground_{k}": float(n) for k, n in Counter(known.sources).items()}

        @partial(ahead, device=self.device)
        def batch(step: int) -> Batch:
            pictures = (data.normal, data.textures, known_parts, p.generator)
            return batch_on_parts(*pictures, kind=kind, batch=p.batch_images, seed=seed, step=step)

        def one_step(step: int) -> dict[str, float]:
            values = self._step(run, batch(step), *training_noise(p, seed, step), step, steps)
            return values if step else values | sources

        validation_loss = partial(self._validation_loss, held_out=held_out)
        self.restore(run.go(steps, one_step, checkpoint, log, validation_loss))

    def _start(self, weights: dict[str, Path], seed: int) -> None:
        """Draw weights and inference noise; initial weights, where there are any, replace these.

        The noise stays as it is drawn: that of another detector may have another size.
        """
        with torch.random.fork_rng(devices=[]):  # on the CPU: the same start on every device
            torch.manual_seed(seed)
            state = dict(DiffusionAd(self.params).state_dict())
        if self.params.initial_weights:
            state |= read_initial(weights, "diffusionad") | {"noise": state["noise"]}
        restore_initial(self, state, "diffusionad")

    def _step(
        self, run: Training, batch: Batch, t: Tensor, noise: Tensor, step: int, steps: int
    ) -> dict[str, float]:
        self.net.train()
        normal = ~batch.mask.any(dim=(1, 2, 3))
        drawn = (batch.augmented, batch.mask, t, noise, normal)
        augmented, mask, t, noise, normal = (tensor.to(self.device) for tensor in drawn)
        with autocast(self.device, self.precision):
            estimate, logits = self.net(self._network_input(augmented), t, noise)
        terms = {
            "noise": noise_loss(estimate.noise_error, normal),
            "focal": focal_loss(logits, mask),
            "smooth_l1": smooth_l1_loss(logits, mask),
        }
        loss = terms["noise"] + FOCAL_WEIGHT * terms["focal"] + terms["smooth_l1"]
        values = {k: v.item() for k, v in {"loss": loss, **terms}.items()}
        refuse_divergence("diffusionad", values["loss"], step)
        rates = learning_rates(self.params, step, steps)
        run.update([loss], rates)
        return values | {"learning_rate": rates[0], "segmentation_learning_rate": rates[1]}

    def _network_input(self, image: Tensor) -> Tensor:
        """An image in 0..1 as the networks see it."""
        x0 = image if self.params.pixel_range == "unit" else 2 * image - 1
        return x0.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def _validation_loss(self, net: nn.Module, held_out: Synthetic) -> float:
        """Focal loss on some held-out synthetic anomalies: the curve to watch, chooses nothing."""
        scorer = for_inference(copy.deepcopy(net), self.precision)
        images = held_out.images[:VALIDATION_IMAGES]
        pieces = torch.split(images, self.params.micro_batch_images)
        logits = torch.cat([self._run_scorer(scorer, p, self.net.noise[0])[0] for p in pieces])
        mask = held_out.masks[:VALIDATION_IMAGES, None].to(logits)
        return focal_loss(logits, mask).item()

    def _run_scorer(
        self, scorer: nn.Module, images: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, H, W) and reconstruction (B, 3, H, W) under one draw (2, 3, H, W)."""
        x0 = self._network_input(images.to(self.device).to(torch.float32).div_(255))
        times = torch.tensor([[self.params.eval_t_s], [self.params.eval_t_b]], device=self.device)
        with autocast(self.device, self.precision):
            estimate, logits = scorer(
                x0, times.expand(-1, len(x0)), noise[:, None].expand(-1, len(x0), -1, -1, -1)
            )
        return logits, estimate.guided

    @torch.inference_mode()
    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        """Anomaly map: p(anomalous), averaged over the stored draws; score: its highest pixels."""
        if self._scorer is None:
            self._scorer = for_inference(copy.deepcopy(self.net), self.precision)
        draws = [self._run_scorer(self._scorer, images, noise) for noise in self.net.noise]
        mean = torch.stack([torch.sigmoid(logits[:, 0]) for logits, _ in draws]).mean(0)
        guided = torch.stack([guided for _, guided in draws]).mean(0)
        image = guided if self.params.pixel_range == "unit" else (guided + 1) / 2
        anomaly_map, scores = reduce_map(mean, inspected, self.params.score_pixels)
        return Prediction(anomaly_map.cpu(), scores.cpu(), image.clamp(0, 1).cpu())

    def state(self) -> dict[str, Tensor]:
        """Weights and batch-norm statistics of both networks, and the inference noise, fp32."""
        return to_cpu(self.net.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back; every key and shape must fit."""
        load(self.net, state, "both networks and the inference noise as the params ask for")
        self._scorer = None


def training_noise(params: DiffusionAdParams, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Steps t (2, B) int64 and noise (2, B, 3, H, W) float32; sample i from (seed, step, i)."""
    shape = (2, 3, *params.shape)
    ranges = ((0, params.t_split), (params.t_split, params.t_b_max))
    times, noise = [], []
    for index in range(params.batch_images):
        rng = np.random.default_rng([seed, step, index, NOISE_STREAM])
        times.append([rng.integers(*limits) for limits in ranges])
        noise.append(rng.standard_normal(shape, np.float32))
    return torch.tensor(np.array(times).T.copy()), torch.from_numpy(np.stack(noise, axis=1))


def learning_rates(params: DiffusionAdParams, step: int, steps: int) -> tuple[float, float]:
    """Of the denoiser and of the segmentation, at `step` of `steps`."""
    return (
        params.denoiser_learning_rate * share_left(params.denoiser_schedule, step, steps),
        params.segmentation_learning_rate * share_left(params.segmentation_schedule, step, steps),
    )


def share_left(schedule: Schedule, step: int, steps: int) -> float:
    """Of a learning rate: all of it, a cosine that falls once, or waves to 0 and back."""
    period = OFFICIAL_PERIOD if schedule == "waves" else 2 * steps
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(2 * math.pi * step / period))


def reduce_map(probability: Tensor, inspected: Tensor | None, pixels: int) -> tuple[Tensor, Tensor]:
    """The map (B, H, W), 0 where it is not inspected, and the image scores (B,)."""
    anomaly_map = inside(probability, inspected)
    return anomaly_map, highest_mean(anomaly_map, pixels)


def highest_mean(anomaly_map: Tensor, pixels: int) -> Tensor:
    """(B, H, W) -> (B,): the mean of the `pixels` highest values."""
    return anomaly_map.flatten(1).topk(pixels, dim=1).values.mean(dim=1)
