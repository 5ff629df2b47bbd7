"""DRAEM from training to score, in reading order (Zavrtanik et al. 2021, ICCV).

Where we depart from the official code: RGB instead of BGR, SSIM's dynamic range fixed at 1 unless
asked, every random draw from (seed, step, sample), the coin for clean samples before the work,
no partial batches, milestones rounded to steps. Each is a bug or a cost there, not a choice.
"""

import copy
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from admodels import methods
from admodels.foundation.params import Kind
from admodels.methods import Log, Prediction, Synthetic, TrainingData
from admodels.methods.draem.losses import focal_loss, guessed_range, ssim_loss
from admodels.methods.draem.networks import Draem, initialise
from admodels.methods.draem.official import read_official
from admodels.methods.draem.params import OFFICIAL_FILES
from admodels.methods.draem.params import Params as DraemParams
from admodels.methods.parts.checkpoint import Checkpoint, run_fingerprint
from admodels.methods.parts.initial import read_initial, restore_initial
from admodels.methods.parts.maps import inside
from admodels.methods.parts.nets import autocast, for_inference
from admodels.methods.parts.training import Training, ahead, load, refuse_divergence, to_cpu
from admodels.synthesis.anomalies import Batch, synthetic_batch

VALIDATION_CHUNK = 16


class Detector(methods.Detector):
    """The `Detector` of DRAEM."""

    Params = DraemParams
    params: DraemParams

    def __init__(
        self, params: DraemParams, *, device: torch.device, precision: torch.dtype
    ) -> None:
        self.params, self.device, self.precision = params, device, precision
        self.net = self._new_net().to(device)
        self._scorer: Draem | None = None

    def _new_net(self) -> Draem:
        net = Draem(self.params.reconstructive_width, self.params.discriminative_width)
        return net.to(memory_format=torch.channels_last)

    def fit(
        self, data: TrainingData, *, kind: Kind, seed: int, checkpoints: Path, log: Log
    ) -> None:
        """Train from the initial weights, or from the last checkpoint of the same run."""
        p, steps = self.params, self.params.steps(len(data.normal))
        self._start(data.weights, seed)
        run = Training(self.net, torch.optim.Adam(self.net.parameters()), p.ema_decay)
        facts = (seed, kind, self.precision, self.device.type, torch.__version__)
        held_out = data.validation
        pixels = [data.normal, data.textures, held_out.images, held_out.masks]
        pixels += [] if data.inspected is None else [data.inspected]
        checkpoint = Checkpoint(checkpoints, run_fingerprint(p, facts, pixels))

        @partial(ahead, device=self.device)
        def batch(step: int) -> Batch:
            return synthetic_batch(
                data.normal,
                data.textures,
                p.generator,
                batch=p.batch_images,
                seed=seed,
                step=step,
                inspected=data.inspected,
            )

        def one_step(step: int) -> dict[str, float]:
            return self._step(run, batch(step), step, steps)

        validation_loss = partial(self._validation_loss, held_out=held_out)
        self.restore(run.go(steps, one_step, checkpoint, log, validation_loss))

    def _start(self, weights: dict[str, Path], seed: int) -> None:
        """Take the initial weights: the authors', another detector's, or random ones."""
        start_net = self._new_net()  # drawn on the CPU: the same start on every device
        initialise(start_net, torch.Generator().manual_seed(seed))
        state = start_net.state_dict()
        if len(self.params.initial_weights) == len(OFFICIAL_FILES):
            state = read_official(weights)
        elif self.params.initial_weights:
            state = read_initial(weights, "draem")
        restore_initial(self, state, "draem")

    def _step(self, run: Training, batch: Batch, step: int, steps: int) -> dict[str, float]:
        self.net.train()
        drawn = (batch.augmented, batch.normal, batch.mask)
        augmented, normal, mask = (tensor.to(self.device) for tensor in drawn)
        with autocast(self.device, self.precision):
            outputs = self.net(augmented.contiguous(memory_format=torch.channels_last))
        reconstruction, logits = outputs
        dynamic_range = guessed_range(reconstruction) if self.params.ssim_range == "auto" else 1.0
        terms = {
            "l2": F.mse_loss(reconstruction, normal),
            "ssim": ssim_loss(reconstruction, normal, dynamic_range),
            "focal": focal_loss(logits, mask),
        }
        loss = torch.stack(list(terms.values())).sum()
        values = {k: v.item() for k, v in {"loss": loss, **terms}.items()}
        refuse_divergence("draem", values["loss"], step)
        rate = learning_rate(self.params, step, steps)
        run.update([loss], [rate])
        return values | {"learning_rate": rate}

    @torch.inference_mode()
    def _validation_loss(self, net: nn.Module, held_out: Synthetic) -> float:
        """Focal loss on the held-out synthetic anomalies: the curve to watch, chooses nothing."""
        scorer, total = for_inference(copy.deepcopy(net), self.precision), 0.0
        for start in range(0, len(held_out.images), VALIDATION_CHUNK):
            chunk = slice(start, start + VALIDATION_CHUNK)
            _, logits = self._run_scorer(scorer, held_out.images[chunk])
            mask = held_out.masks[chunk, None].to(self.device)
            total += focal_loss(logits, mask).item() * len(mask)
        return total / len(held_out.images)

    def _run_scorer(self, scorer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = images.to(self.device).to(torch.float32).div_(255)
        with autocast(self.device, self.precision):
            outputs: tuple[Tensor, Tensor] = scorer(scaled.to(memory_format=torch.channels_last))
        return outputs

    @torch.inference_mode()
    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        """Anomaly map: p(anomalous); image score: its largest mean over a window; section 3.4."""
        if self._scorer is None:
            self._scorer = for_inference(copy.deepcopy(self.net), self.precision)
        reconstruction, logits = self._run_scorer(self._scorer, images)
        probability = torch.softmax(logits, dim=1)[:, 1]
        anomaly_map, scores = reduce_map(probability, inspected, self.params.score_window_px)
        return Prediction(anomaly_map.cpu(), scores.cpu(), reconstruction.clamp(0, 1).cpu())

    def state(self) -> dict[str, Tensor]:
        """Weights and batch-norm statistics of both networks, fp32."""
        return to_cpu(self.net.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back; every key and shape must fit."""
        p = self.params
        load(self.net, state, f"widths {p.reconstructive_width} and {p.discriminative_width}")
        self._scorer = None


def reduce_map(
    probability: Tensor, inspected: Tensor | None, window_px: int
) -> tuple[Tensor, Tensor]:
    """The map (B, H, W), 0 where it is not inspected, and the image scores (B,)."""
    anomaly_map = inside(probability, inspected)
    return anomaly_map, window_maximum(anomaly_map, window_px)


def window_maximum(anomaly_map: Tensor, window_px: int) -> Tensor:
    """(B, H, W) -> (B,): maximum of the window mean; zero padding counts, so borders are damped."""
    pooled = F.avg_pool2d(anomaly_map[:, None], window_px, stride=1, padding=window_px // 2)
    return pooled.amax(dim=(1, 2, 3))


def learning_rate(params: DraemParams, step: int, steps: int) -> float:
    """At `step` of `steps`: a cosine to 0, or a fall at every milestone passed."""
    if params.schedule == "cosine":
        return params.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    passed = sum(step >= round(share * steps) for share in params.milestones)
    return params.learning_rate * params.milestone_factor**passed
