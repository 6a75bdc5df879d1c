"""Nearest neighbours among descriptors and among points: exact, and with ties always to the first.

Shapes: n queries, M keys, D channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

QUERY_BLOCK, KEY_BLOCK = 2048, 8192  # products at once
CLOSE_PAIRS = 2**18  # that are compared in float64 at once


class Neighbours(Protocol):
    """A set of keys to search."""

    def __call__(self, queries: Tensor) -> Tensor:
        """Return the numbers of the keys nearest to `queries` (n, D), int64 (n,)."""
        ...


class DotNeighbours:
    """Keys with the greatest dot product.

    Products are computed in blocks in float32 (never TF32); where several come within its rounding, they are compared
    in float64, so the answer depends neither on the blocks nor on the order of summation.

    Args:
        keys: float32 (M, D).
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.longest = float(keys.norm(dim=1).max()) if len(keys) else 0.0
        self.rounding = 2 * keys.shape[1] * torch.finfo(torch.float32).eps

    def __call__(self, queries: Tensor) -> Tensor:
        """See `Neighbours`."""
        with exact_products():
            found = [self._block(queries[start : start + QUERY_BLOCK]) for start in range(0, len(queries), QUERY_BLOCK)]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=self.keys.device)

    def _block(self, queries: Tensor) -> Tensor:
        tolerance = self.rounding * self.longest * queries.norm(dim=1)
        best = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=queries.device)
        nearest = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.keys), KEY_BLOCK):
            keys = self.keys[start : start + KEY_BLOCK]
            products = queries @ keys.T
            top, number = products.max(dim=1)
            products.scatter_(1, number[:, None], -torch.inf)
            close = (products.amax(dim=1) >= top - tolerance).nonzero()[:, 0]
            if len(close):
                products[close, number[close]] = top[close]
                number[close] = _first_of_close(queries[close], keys, products[close], (top - tolerance)[close])
            exact = (queries.double() * keys[number].double()).sum(dim=1)
            better = exact > best
            best = torch.where(better, exact, best)
            nearest = torch.where(better, number + start, nearest)
        return nearest


def _first_of_close(queries: Tensor, keys: Tensor, products: Tensor, least: Tensor) -> Tensor:
    """Return for each query the first key with the greatest product in float64, among products of at least `least`."""
    close = products >= least[:, None]
    rows_at_once = max(1, CLOSE_PAIRS // int(close.sum(dim=1).max()))
    found = []
    for start in range(0, len(queries), rows_at_once):
        some_queries = queries[start : start + rows_at_once]
        rows, columns = close[start : start + rows_at_once].nonzero(as_tuple=True)
        exact = (some_queries[rows].double() * keys[columns].double()).sum(dim=1)
        greatest = exact.new_full((len(some_queries),), -torch.inf).scatter_reduce_(0, rows, exact, "amax")
        winners = exact == greatest[rows]
        first = columns.new_full((len(some_queries),), len(keys))
        found.append(first.scatter_reduce_(0, rows[winners], columns[winners], "amin"))
    return torch.cat(found)


class PointNeighbours:
    """Keys at the smallest Euclidean distance, by a KD-tree on the CPU.

    Args:
        keys: float (M, 3).
    """

    def __init__(self, keys: Tensor) -> None:
        points = keys.cpu().double().numpy()
        different, self.first = np.unique(points, axis=0, return_index=True)  # of equal points the first is reported
        self.tree = cKDTree(different)

    def __call__(self, queries: Tensor) -> Tensor:
        """See `Neighbours`."""
        if not len(queries):
            return torch.empty(0, dtype=torch.int64, device=queries.device)
        _, numbers = self.tree.query(queries.cpu().double().numpy())
        return torch.from_numpy(self.first[numbers]).to(queries.device)


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products in float32, whatever TF32 and autocast say: rounded descriptors change the matches."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
