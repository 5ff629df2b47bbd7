"""CPR from training to score, in reading order (Li et al. 2024, IEEE TIP 33).

Offline: visual words, foreground and ranking in closed form, then the heads by gradient, then the
bank of every normal image's descriptors. Online one pass of the backbone feeds all three branches.
Not in the paper, and off in the official preset: no trained heads (`RootedTap`, `WhitenedTap`),
where few steps would do harm, and taps that weigh differently.
The image score is the mean of the highest pixels, as usually described; the official code sums,
which ranks alike but cannot be held against the map.
"""

import copy
import logging
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from admodels import methods
from admodels.foundation.errors import BundleError, DataError
from admodels.foundation.params import Kind
from admodels.methods import Log, Prediction, TrainingData
from admodels.methods.cpr import closed_form, retrieval
from admodels.methods.cpr.foreground import foreground_map
from admodels.methods.cpr.heads import (
    LocalHead,
    RootedTap,
    WhitenedTap,
    nearest_cell,
    nearest_distance,
    unit_vectors,
)
from admodels.methods.cpr.params import Params as CprParams
from admodels.methods.cpr.training import Trainer
from admodels.methods.parts.backbone_params import NONE, RANDOM, WHITENED
from admodels.methods.parts.backbones import (
    Backbone,
    Taps,
    load_fetched,
    read_weights,
    refuse_missing,
)
from admodels.methods.parts.frozen import FrozenTaps
from admodels.methods.parts.maps import enlarge, gaussian_blur, inside, mean_inside, peaks
from admodels.methods.parts.nets import autocast, for_inference

OFFICIAL_HEADS, OFFICIAL_BACKBONE = "lrb.conv.", "backbone.feature_extractor.backbone."
LOG = logging.getLogger(__name__)


class Detector(methods.Detector):
    """The `Detector` of CPR."""

    Params = CprParams
    params: CprParams

    def __init__(self, params: CprParams, *, device: torch.device, precision: torch.dtype) -> None:
        self.params, self.device, self.precision = params, device, precision
        self.backbone = Backbone(params.backbone, params.tap_strides).to(device)
        self.channels = self.backbone.channels()
        self.heads = self._new_heads().to(device)
        self.memory: dict[str, Tensor] = {}
        self._frozen: FrozenTaps | None = None

    def fit(
        self, data: TrainingData, *, kind: Kind, seed: int, checkpoints: Path, log: Log
    ) -> None:
        """Fit the three branches, then remember every normal image.

        Mattes are not used: a test image has none, so the part is found from the features.
        """
        self._start(data, kind, seed)
        frozen, p = self._backbone_for_scoring(), self.params
        if len(data.normal) <= p.references:
            LOG.warning(
                "%d references of %d normal images: all others", p.references, len(data.normal)
            )
        sample = closed_form.sample_cells(frozen, data.normal, seed)
        book = closed_form.codebook(sample, p.codebook_words, seed)
        bank = closed_form.image_histograms(frozen, data.normal, book, p)
        estimate = None
        if p.foreground.of(kind):
            estimate = closed_form.estimate_part(frozen, data.normal, sample, seed)
        self._whiten(data.normal, frozen, seed)
        if p.steps.of(kind):
            Trainer(
                self.heads,
                frozen,
                data,
                p,
                kind=kind,
                seed=seed,
                ranking=closed_form.ranking(bank, p),
                maps=None if estimate is None else estimate.maps,
                precision=self.precision,
            ).run(checkpoints, log)
        weights = torch.tensor(p.tap_weights.of(kind))
        memory = {"codebook": book, "histograms": bank, "tap_weights": weights}
        if estimate is not None:
            memory |= {"foreground.weight": estimate.weight, "foreground.bias": estimate.bias}
            memory["bank.foreground"] = estimate.maps.half()
        self.restore(self._networks() | memory | self._fill_bank(data.normal, frozen))

    def _new_heads(self, sigmas: tuple[float, float] = (0, 0)) -> nn.ModuleList:
        p = self.params
        if p.head_weights == NONE:
            return nn.ModuleList([RootedTap(), RootedTap(*sigmas)])
        if p.head_weights == WHITENED:
            fine, coarse = self.channels
            return nn.ModuleList([WhitenedTap(fine), WhitenedTap(coarse, *sigmas)])
        return nn.ModuleList(
            LocalHead(c, p.head_channels, p.descriptor_channels) for c in self.channels
        )

    def _start(self, data: TrainingData, kind: Kind, seed: int) -> None:
        """Random starts drawn on the CPU, then the weights that the stage fetched."""
        p = self.params
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone(p.backbone, p.tap_strides)
            heads = self._new_heads(p.smoothing_cells.of(kind))
        load_fetched(backbone, p.backbone_weights, data.weights, "cpr")
        self.backbone.load_state_dict(backbone.state_dict())
        self.heads.load_state_dict(heads.state_dict())
        if p.head_weights not in (NONE, WHITENED, RANDOM):
            refuse_missing(data.weights, "heads", p.head_weights, "cpr")
            self.heads.load_state_dict(official_heads(data.weights["heads"], self.heads))

    def _whiten(self, normal: Tensor, frozen: FrozenTaps, seed: int) -> None:
        """Give heads that whiten, which are still without effect, the matrix of what they see."""
        for tap, head in enumerate(self.heads):
            if isinstance(head, WhitenedTap):
                maps = partial(_root_taps, head, tap)
                cells = closed_form.sample_cells(frozen, normal, seed, maps)
                head.matrix.copy_(closed_form.whitening(cells))

    def _backbone_for_scoring(self) -> FrozenTaps:
        fused, p = copy.deepcopy(self.backbone).for_inference(), self.params
        return FrozenTaps(fused, self.precision, p.score_chunk_images, p.cache_mib)

    @torch.inference_mode()
    def _descriptors(self, heads: nn.ModuleList, taps: Taps) -> list[Tensor]:
        with autocast(self.device, self.precision):
            maps = [head(tap) for head, tap in zip(heads, taps, strict=True)]
        return [unit_vectors(descriptors) for descriptors in maps]

    def _fill_bank(self, normal: Tensor, frozen: FrozenTaps) -> dict[str, Tensor]:
        """Every normal image's descriptors, location-major: (N, h, w, D) fp16 per tap."""
        heads, bank = self._heads_for_scoring(), {}
        for start, taps in frozen.over(normal):
            for tap, descriptors in enumerate(self._descriptors(heads, taps)):
                key = f"bank.{tap}.values"
                if key not in bank:
                    shape = (len(normal), *descriptors.shape[1:])
                    bank[key] = torch.empty(shape, dtype=torch.float16)
                bank[key][start : start + len(descriptors)] = descriptors.half().cpu()
        return bank

    def _heads_for_scoring(self) -> nn.ModuleList:
        return for_inference(copy.deepcopy(self.heads), self.precision)

    @torch.inference_mode()
    def score(self, images: Tensor, inspected: Tensor | None = None) -> Prediction:
        """Distance to the nearest similar patch on the part; the score means the T largest."""
        if self._frozen is None:
            self._frozen, self._scoring_heads = (
                self._backbone_for_scoring(),
                self._heads_for_scoring(),
            )
        taps = self._frozen.compute(images)
        queries = self._descriptors(self._scoring_heads, taps)
        near = [self._references(features) for features in taps[0]]
        maps = torch.stack(
            [
                self._map(taps[0][i], [query[i] for query in queries], near[i])
                for i in range(len(images))
            ]
        )
        blurred, scores = reduce_map(maps, inspected, self.params)
        compared = map(self._closest_place, queries[0], near, peaks(blurred).tolist())
        return Prediction(blurred.cpu(), scores.cpu(), compared=torch.tensor(list(compared)))

    def _closest_place(self, query: Tensor, near: Tensor, peak: list[int]) -> list[int]:
        """The image, row and column in pixels that the first tap compared with at a place."""
        stride, region = self.params.tap_strides[0], self.params.regions[0]
        row, column = (place // stride for place in peak)
        reach = max(query.shape[:2]) if region == "whole" else region // 2
        top, left = max(0, row - reach), max(0, column - reach)
        around = slice(top, row + reach + 1), slice(left, column + reach + 1)
        cells = self.memory["bank.0.values"][:, *around][near].to(self.device)
        image, y, x = nearest_cell(query[row, column], cells)
        pixels = [place * stride + stride // 2 for place in (top + y, left + x)]
        return [int(near[image]), *pixels]

    def _map(self, features: Tensor, queries: list[Tensor], near: Tensor) -> Tensor:
        """One image's distances to those that are `near`, before the blur, of `params.shape`."""
        p, memory, distances = self.params, self.memory, []
        for tap, (query, region) in enumerate(zip(queries, p.regions, strict=True)):
            references = memory[f"bank.{tap}.values"][near].to(self.device)
            weight = memory["tap_weights"][tap]
            distances.append(weight * nearest_distance(query, references, region)[None])
        fine, coarse = distances
        distance = enlarge(fine + enlarge(coarse, (fine.shape[1], fine.shape[2])), p.shape)
        if "foreground.weight" in memory:
            weight, bias = memory["foreground.weight"], memory["foreground.bias"]
            own = foreground_map(features, weight, bias)[None]
            others = memory["bank.foreground"][near].to(self.device, torch.float32)
            if p.reference_foreground == "median":
                others = others.quantile(0.5, dim=0, keepdim=True)
            distance *= enlarge(torch.cat([own, others]), p.shape).amax(0)
        return distance[0]

    def _references(self, features: Tensor) -> Tensor:
        """The most similar images of the bank by the first tap (C, h, w), best first: (K,)."""
        p, bank = self.params, self.memory["histograms"]
        words = retrieval.nearest_words(features, self.memory["codebook"])
        is_padded = p.parity or retrieval.has_padding(bank)
        histogram = retrieval.histograms(
            words, p.histogram_blocks, p.codebook_words, is_padded=is_padded
        )
        near = retrieval.nearest(histogram, bank, p.dropped_blocks, p.references)
        return near.to(self.memory["bank.0.values"].device)

    def _networks(self) -> dict[str, Tensor]:
        networks = {"backbone": self.backbone, "heads": self.heads}
        return {
            f"{name}.{key}": tensor.detach().to("cpu", copy=True).contiguous()
            for name, net in networks.items()
            for key, tensor in net.state_dict().items()
        }

    def state(self) -> dict[str, Tensor]:
        """Cut backbone, heads, words, histograms, weights, foreground and bank: all that counts."""
        return self._networks() | {key: tensor.cpu() for key, tensor in self.memory.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a `state` back; the number of remembered images is the bank's own."""
        memory = {k: v for k, v in state.items() if not k.startswith(("backbone.", "heads."))}
        try:
            self._refuse_other(memory)
            self._refuse_other_smoothing(state)
            for name, net in (("backbone.", self.backbone), ("heads.", self.heads)):
                net.load_state_dict(_below(state, name), strict=True)
        except (RuntimeError, KeyError) as error:
            raise BundleError(
                "the state does not fit CPR's params: " + str(error).splitlines()[-1].strip(),
                where="model.safetensors",
                expected=f"{self.params.backbone}, head_weights: {self.params.head_weights}",
                next_step="train again: `dvc repro train`",
            ) from None
        small = {k: v.to(self.device) for k, v in memory.items() if not k.startswith("bank.")}
        self.memory = memory | small  # the bank stays where it is: K images at a time travel
        self._frozen = None

    def _refuse_other(self, memory: dict[str, Tensor]) -> None:
        p, (height, width) = self.params, self.params.shape
        images, channels = memory["histograms"].shape[:1], self.channels[0]
        headless = p.head_weights in (NONE, WHITENED)
        wanted = {
            "histograms": (*images, p.histogram_blocks**2, p.codebook_words + 1),
            "codebook": (p.codebook_words, channels),
            "tap_weights": (len(p.tap_strides),),
        }
        for tap, stride in enumerate(p.tap_strides):
            place = (*images, height // stride, width // stride)
            channels_out = self.channels[tap] if headless else p.descriptor_channels
            wanted[f"bank.{tap}.values"] = (*place, channels_out)
        if "foreground.weight" in memory:
            wanted["foreground.weight"] = (channels,)
            wanted["foreground.bias"] = ()
            wanted["bank.foreground"] = tuple(memory["bank.0.values"].shape[:3])
        shapes = {key: tuple(tensor.shape) for key, tensor in memory.items()}
        if shapes != wanted:
            other = sorted(set(shapes.items()) ^ set(wanted.items()))
            raise RuntimeError(f"tensor {other[0][0]} has not the shape the params ask for")

    def _refuse_other_smoothing(self, state: dict[str, Tensor]) -> None:
        if self.params.head_weights in (NONE, WHITENED):
            known = [[0, 0, *self.params.smoothing_cells.of(kind)] for kind in get_args(Kind)]
            sigmas = torch.cat([state[f"heads.{tap}.sigmas"].flatten() for tap in (0, 1)])
            if sigmas.tolist() not in known:
                raise RuntimeError("its taps are smoothed otherwise than the params say")


def _root_taps(head: WhitenedTap, tap: int, taps: Taps) -> Tensor:
    rooted: Tensor = head(taps[tap])
    return rooted


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def reduce_map(
    distances: Tensor, inspected: Tensor | None, params: CprParams
) -> tuple[Tensor, Tensor]:
    """The blurred map (B, H, W), 0 where it is not inspected, and the image scores (B,)."""
    blur = partial(gaussian_blur, sigma=params.blur_sigma_px)
    blurred = inside(mean_inside(blur, distances, inspected), inspected)
    return blurred, blurred.flatten(1).topk(params.score_pixels, dim=1).values.mean(1)


def official_heads(path: Path, heads: nn.ModuleList) -> dict[str, Tensor]:
    """The heads out of a checkpoint of the authors; its backbone, where it has one, is ignored.

    Raises:
        DataError: a key is missing, unknown or of another shape (the official loader is silent).
    """
    content = read_weights(path, "methods.cpr.head_weights")
    state = _below(content, OFFICIAL_HEADS)
    unknown = [k for k in content if not k.startswith((OFFICIAL_HEADS, OFFICIAL_BACKBONE))]
    wanted = {key: tensor.shape for key, tensor in heads.state_dict().items()}
    other = {key: tensor.shape for key, tensor in state.items()}.items() ^ wanted.items()
    if unknown or other:
        raise DataError(
            f"not CPR heads of these params: {sorted(unknown + [key for key, _ in other])[0]}",
            where=path,
            expected="`lrb.conv.*` of the same backbone, head_channels and descriptor_channels",
            next_step="fix `methods.cpr.head_weights` in params.yaml",
        )
    return state
