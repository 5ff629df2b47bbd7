"""The coreset of PatchCore: greedy k-centre, exact, in time and memory that are bounded.

Roth et al. 2022, algorithm 1. The point that is farthest from all chosen ones is chosen next, so
the covering radius is at most twice the smallest that as many points can have (Gonzalez 1985).
"""

import math

import torch
from torch import Tensor

BLOCK = 4096  # points among which centres are chosen while all other bounds stay as they are
GROUP = 512  # points of a block that are measured against the same centres in one product
CHOSEN = -1.0  # below every squared distance: never chosen again


def random_projection(channels: int, projected: int, seed: int) -> Tensor:
    """(channels, D) float32 that keeps squared lengths in the mean, D = min(channels, projected).

    Johnson and Lindenstrauss 1984: independent normal values. Where there is nothing to make
    smaller it is the identity.
    """
    if channels <= projected:
        return torch.eye(channels)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(channels, projected, generator=generator)
    return normal / math.sqrt(projected)


@torch.inference_mode()
def farthest_first(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (count,) int64 of (N, D) points, and each one's distance to those before it.

    The first is index 0, at distance infinity; distance k is the covering radius of the first k.
    A distance to the nearest chosen point only falls while more are chosen, so an old one is an
    upper bound. Points with the largest bounds are measured again, block by block, and chosen while
    no bound outside the block is larger: the same choice as that of the plain algorithm.
    """
    choice = _Choice(points, count)
    while choice.size < count:
        choice.extend()
    return choice.indices, choice.distances


class _Choice:
    """The points chosen so far, and for every point an upper bound of its squared distance."""

    def __init__(self, points: Tensor, count: int) -> None:
        self.points = points - points.mean(0)  # smaller numbers, smaller rounding errors
        self.squares = self.points.square().sum(1)
        self.indices = torch.zeros(count, dtype=torch.int64, device=points.device)
        self.distances = torch.full((count,), torch.inf, device=points.device)
        self.size = 1
        self.bounds = self._squared_distances(slice(None), self.indices[:1])[:, 0]
        self.bounds[0] = CHOSEN
        self.met = torch.ones_like(self.squares, dtype=torch.int64)  # centres in each bound

    def _squared_distances(self, rows: Tensor | slice, centres: Tensor) -> Tensor:
        squares = self.squares[rows, None] + self.squares[centres]
        product = self.points[rows] @ self.points[centres].T
        return squares.sub_(product, alpha=2).clamp_(min=0)

    def extend(self) -> None:
        """Measure the points with the largest bounds, and choose as many as that decides."""
        largest, block = self.bounds.topk(min(BLOCK + 1, len(self.bounds)))
        outside = float(largest[BLOCK]) if len(block) > BLOCK else CHOSEN
        block = block[:BLOCK]
        self._measure(block)
        points, squares, bounds = self.points[block], self.squares[block], self.bounds[block]
        while self.size < len(self.indices):
            row = int(bounds.argmax())
            if bounds[row] < outside:
                break
            self.indices[self.size] = block[row]
            self.distances[self.size] = bounds[row].sqrt()
            self.size += 1
            away = torch.addmv(squares + squares[row], points, points[row], alpha=-2)
            bounds = torch.minimum(bounds, away.clamp_(min=0))
            bounds[row] = CHOSEN
        self.bounds[block], self.met[block] = bounds, self.size

    def _measure(self, block: Tensor) -> None:
        """Make the bounds of a block exact: every centre that it has not met."""
        oldest_first = block[self.met[block].argsort(stable=True)]
        for start in range(0, len(block), GROUP):
            rows = oldest_first[start : start + GROUP]
            missed = self.indices[int(self.met[rows[0]]) : self.size]
            if len(missed):
                nearest = self._squared_distances(rows, missed).amin(1)
                self.bounds[rows] = torch.minimum(self.bounds[rows], nearest)
