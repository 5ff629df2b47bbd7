"""What a frozen network says about images: in batches of one size, remembered within a budget."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from admodels.foundation.arrays import Float32, Indices
from admodels.methods.parts.backbones import Backbone, Taps
from admodels.methods.parts.nets import autocast

MIB = 1 << 20
BLOCK = 16  # images in one tensor per tap: a tensor of each image's own would shred the heap


class FrozenTaps:
    """Taps of images under keys, channels last.

    Every batch is padded to `chunk`, so memory changes no result.
    """

    def __init__(
        self, backbone: Backbone, precision: torch.dtype, chunk: int, cache_mib: int
    ) -> None:
        self._backbone, self._precision, self._chunk = backbone, precision, chunk
        self._device = backbone.mean.device
        self._room = cache_mib * MIB
        self._slots: dict[int, int] = {}
        self._blocks: list[Taps] = []

    @torch.no_grad()
    def of(self, images: Tensor, keys: Sequence[int | None]) -> Taps:
        """(B, 3, H, W) uint8 to the taps, on the device; images without a key are not kept."""
        stacked: Taps = []
        for index, taps in self._each(images, keys):
            stacked = stacked or _empty(len(keys), taps)
            for stack, tap in zip(stacked, taps, strict=True):
                stack[index] = tap
        return stacked

    def _each(
        self, images: Tensor, keys: Sequence[int | None]
    ) -> Iterator[tuple[int, Sequence[Tensor]]]:
        """(index, its taps) of every image: first the remembered ones."""
        slots = [None if key is None else self._slots.get(key) for key in keys]
        for index, slot in enumerate(slots):
            if slot is not None:
                yield index, [kept[slot % BLOCK] for kept in self._blocks[slot // BLOCK]]
        missing = [index for index, slot in enumerate(slots) if slot is None]
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            padded = images[chunk + chunk[-1:] * (self._chunk - len(chunk))]
            for index, *taps in zip(chunk, *self.compute(padded), strict=False):
                self._keep(keys[index], taps)
                yield index, taps

    @torch.no_grad()
    def compute(self, images: Tensor) -> Taps:
        """(B, 3, H, W) uint8 to the taps, without the memory."""
        with autocast(self._device, self._precision):
            taps: Taps = self._backbone(images.to(self._device))
        return taps

    def _keep(self, key: int | None, taps: Sequence[Tensor]) -> None:
        slot, most = len(self._slots), self._room // sum(tap.nbytes for tap in taps)
        if key is None or key in self._slots or slot >= most:
            return
        if slot % BLOCK == 0:
            self._blocks.append(_empty(min(BLOCK, most - slot), taps))
        self._slots[key] = slot
        for kept, tap in zip(self._blocks[-1], taps, strict=True):
            kept[slot % BLOCK] = tap

    def over(self, images: Tensor) -> Iterator[tuple[int, Taps]]:
        """(index of the first, taps) of all images, a batch at a time, keyed by their index."""
        for start in range(0, len(images), self._chunk):
            chunk = images[start : start + self._chunk]
            yield start, self.of(chunk, range(start, start + len(chunk)))

    def cells(
        self,
        images: Tensor,
        wanted: Indices,
        maps: Callable[[Taps], Tensor] = lambda taps: taps[0],
    ) -> Float32:
        """Cells (n, C) by their flat index in (N, h, w), in that order.

        `maps` makes (B, C, h, w) of a batch of taps; it is the first tap unless said otherwise.
        """
        order = np.argsort(wanted, kind="stable")
        ascending, pieces = wanted[order], []
        for start, taps in self.over(images):
            by_cell = maps(taps).permute(0, 2, 3, 1).flatten(0, 2)
            per_image = len(by_cell) // len(taps[0])
            first, last = start * per_image, start * per_image + len(by_cell)
            low, high = np.searchsorted(ascending, (first, last))
            places = torch.from_numpy(ascending[low:high] - first).to(by_cell.device)
            pieces.append(by_cell[places].cpu().numpy())
        result = np.empty((len(wanted), pieces[0].shape[1]), dtype=np.float32)
        result[order] = np.concatenate(pieces)
        return result


def _empty(images: int, like: Sequence[Tensor]) -> Taps:
    """Room for the taps of some images, (images, C, h, w), as large as these (C, h, w) of one."""
    layout = torch.channels_last
    return [
        torch.empty((images, *tap.shape), dtype=tap.dtype, device=tap.device, memory_format=layout)
        for tap in like
    ]
