"""DRAEM from training to score, in reading order (specification sections 5 and 6).

Where we depart from the official code: RGB instead of BGR, SSIM's dynamic range fixed at 1 unless
asked, every random draw from (seed, step, sample), the coin for clean samples before the work,
no partial batches, milestones rounded to steps. Each is a bug or a cost there, not a choice.
"""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from admodels import methods
from admodels.checkpoint import Checkpoint, run_fingerprint
from admodels.errors import BundleError, ConfigurationError
from admodels.methods import Log, Prediction, Synthetic, TrainingData
from admodels.methods.draem.losses import focal_loss, guessed_range, ssim_loss
from admodels.methods.draem.networks import Draem, initialise
from admodels.methods.draem.params import Params as DraemParams
from admodels.nets import for_inference
from admodels.params import Kind
from admodels.synthesis.anomalies import synthetic_batch

VALIDATIONS, VALIDATION_CHUNK = 20, 16


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
        """Train from scratch, or from the last checkpoint of the same run, and keep the end."""
        p, steps = self.params, self.params.steps(len(data.normal))
        start_net = self._new_net()  # drawn on the CPU: the same start on every device
        initialise(start_net, torch.Generator().manual_seed(seed))
        self.net.load_state_dict(start_net.state_dict())
        run = _Run(self.net, p)
        facts = (seed, kind, self.precision, self.device.type, torch.__version__)
        held_out = data.validation
        pixels = (data.normal, data.textures, held_out.images, held_out.masks)
        checkpoint = Checkpoint(checkpoints, run_fingerprint(p, facts, pixels))
        start = run.resume(checkpoint.restore(), steps, log)
        for step in range(start, steps):
            batch = synthetic_batch(
                data.normal, data.textures, p.generator, batch=p.batch_images, seed=seed, step=step
            )
            values = self._step(run, batch.augmented, batch.normal, batch.mask, step, steps)
            if (step + 1) % max(1, steps // VALIDATIONS) == 0:
                values["validation_loss"] = self._validation_loss(run.kept(), held_out)
            run.report(log, step + 1, steps, values)
            if checkpoint.due():
                checkpoint.write(run.state(step + 1))
        checkpoint.write(run.state(steps))
        self.restore(_to_cpu(run.kept().state_dict()))

    def _step(
        self, run: "_Run", augmented: Tensor, normal: Tensor, mask: Tensor, step: int, steps: int
    ) -> dict[str, float]:
        self.net.train()
        augmented, normal, mask = (t.to(self.device) for t in (augmented, normal, mask))
        learning_rate = run.set_learning_rate(step, steps)
        with self._autocast():
            found = self.net(augmented.contiguous(memory_format=torch.channels_last))
        reconstruction, logits = found
        dynamic_range = guessed_range(reconstruction) if self.params.ssim_range == "auto" else 1.0
        parts = {
            "l2": F.mse_loss(reconstruction, normal),
            "ssim": ssim_loss(reconstruction, normal, dynamic_range),
            "focal": focal_loss(logits, mask),
        }
        loss = torch.stack(list(parts.values())).sum()
        run.update(loss)
        values = {k: v.item() for k, v in {"loss": loss, **parts}.items()}
        _refuse_divergence(values["loss"], step)
        return values | {"learning_rate": learning_rate}

    @torch.inference_mode()
    def _validation_loss(self, net: Draem, held_out: Synthetic) -> float:
        """Focal loss on the held-out synthetic anomalies: the curve to watch, chooses nothing."""
        scorer, total = for_inference(copy.deepcopy(net), self.precision), 0.0
        for at in range(0, len(held_out.images), VALIDATION_CHUNK):
            _, logits = self._run_scorer(scorer, held_out.images[at : at + VALIDATION_CHUNK])
            mask = held_out.masks[at : at + VALIDATION_CHUNK, None].to(self.device)
            total += focal_loss(logits, mask).item() * len(mask)
        return total / len(held_out.images)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=enabled)

    def _run_scorer(self, scorer: Draem, images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = images.to(self.device).to(torch.float32).div_(255)
        with self._autocast():
            found: tuple[Tensor, Tensor] = scorer(scaled.to(memory_format=torch.channels_last))
        return found

    @torch.inference_mode()
    def score(self, images: Tensor) -> Prediction:
        """Anomaly map = p(anomalous); image score = its largest mean over a window (section 6)."""
        if self._scorer is None:
            self._scorer = for_inference(copy.deepcopy(self.net), self.precision)
        reconstruction, logits = self._run_scorer(self._scorer, images)
        anomaly_map = torch.softmax(logits, dim=1)[:, 1]
        scores = window_maximum(anomaly_map, self.params.score_window_px)
        return Prediction(anomaly_map.cpu(), scores.cpu(), reconstruction.clamp(0, 1).cpu())

    def state(self) -> dict[str, Tensor]:
        """Weights and batch-norm statistics of both networks, fp32."""
        return _to_cpu(self.net.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back; every key and shape must fit."""
        try:
            self.net.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise BundleError(
                "the weights do not fit DRAEM's networks: " + str(error).splitlines()[-1].strip(),
                where="model.safetensors",
                expected=f"widths {self.params.reconstructive_width} and "
                f"{self.params.discriminative_width}",
                next_step="train again: `dvc repro train`",
            ) from None
        self._scorer = None


def window_maximum(anomaly_map: Tensor, window_px: int) -> Tensor:
    """(B, H, W) -> (B,): maximum of the window mean; zero padding counts, so borders are damped."""
    pooled = F.avg_pool2d(anomaly_map[:, None], window_px, stride=1, padding=window_px // 2)
    return pooled.amax(dim=(1, 2, 3))


def _refuse_divergence(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise ConfigurationError(
            f"training diverged: the loss is {loss} at step {step + 1}",
            where="methods.draem in params.yaml",
            expected="a finite loss",
            next_step="lower `learning_rate`, or set `precision: fp32`",
        )


def _to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


class _Run:
    """What moves while training: optimiser, averaged weights, history."""

    def __init__(self, net: Draem, params: DraemParams) -> None:
        self.net, self.params = net, params
        self.optimiser = torch.optim.Adam(net.parameters(), lr=params.learning_rate)
        self.average: AveragedModel | None = None
        if params.ema_decay:
            average = get_ema_multi_avg_fn(params.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self.history: list[tuple[int, dict[str, float]]] = []

    def kept(self) -> Draem:
        """The weights to keep: the average where there is one, else the last."""
        kept = self.net if self.average is None else self.average.module
        assert isinstance(kept, Draem)
        return kept

    def set_learning_rate(self, step: int, steps: int) -> float:
        p = self.params
        if p.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / steps))
        else:
            passed = sum(step >= round(share * steps) for share in p.milestones)
            factor = p.milestone_factor**passed
        for group in self.optimiser.param_groups:
            group["lr"] = p.learning_rate * factor
        return p.learning_rate * factor

    def update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.net)

    def report(self, log: Log, step: int, steps: int, values: dict[str, float]) -> None:
        self.history.append((step, values))
        log(step, steps, values)

    def state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average and self.average.state_dict(),
            "history": self.history,
        }

    def resume(self, state: dict[str, Any] | None, steps: int, log: Log) -> int:
        if state is None:
            return 0
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for step, values in state["history"]:
            self.report(log, step, steps, values)
        return int(state["step"])
