"""How many bits each component gets, and which ratios can be met.

A ratio is a promise: a row of codes has at most the bytes of its float16 tokens over the ratio, scales included. No
component has no bits: what is not stored, a student could never learn.

Legend: C channels (also components), m values of a codeword, n components of a group, U noise of a book, v variance.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from store import errors
from store.format import books
from store.format.code_spec import Groups, record_bytes
from store.format.token_subset import CELL_PATCHES, is_even

FLOAT16_BYTES = 2
BISECTIONS = 48
FINEST_RATIO = (
    16.0  # of a stored patch: below one bit a component, half of the patches teach more than half of the bits
)
CLOSE = 1e-9  # relative; sums that differ by less are equal

Float64 = npt.NDArray[np.float64]
Sizes = tuple[int, ...]


def float16_bytes(tokens: int, channels: int) -> int:
    """Return the bytes of a row of float16 tokens."""
    return tokens * channels * FLOAT16_BYTES


def prefix_groups(prefix_tokens: int, channels: int) -> Groups:
    """Return the groups of prefix tokens: 8 bits a component; none where there is no prefix token."""
    return ((1, channels),) if prefix_tokens else ()


def record_bytes_for(ratio: float, tokens: int, prefix_tokens: int, channels: int, *, stored: int | None = None) -> int:
    """Return the bytes that a stored patch may have, so that a row keeps the ratio; 0 or less where none can.

    Args:
        ratio: bytes of a row of float16 over those of its codes.
        tokens: tokens of a row, prefix tokens and all patches.
        prefix_tokens: prefix tokens of a row.
        channels: C.
        stored: patches that are stored; None means all.
    """
    patches = tokens - prefix_tokens if stored is None else stored
    prefix_bytes = prefix_tokens * record_bytes(prefix_groups(prefix_tokens, channels))
    return math.floor((float16_bytes(tokens, channels) / ratio - prefix_bytes) / patches)


def smallest_record(channels: int) -> int:
    """Return the least bytes of a patch of C channels."""
    sizes = (record_bytes(groups) for groups in map(lambda allowed: coarsest(channels, allowed), size_sets()) if groups)
    return min(sizes)


def largest_ratio(tokens: int, prefix_tokens: int, channels: int, *, stored: int | None = None) -> float:
    """Return the largest ratio that can be met; arguments as `record_bytes_for`."""
    patches = tokens - prefix_tokens if stored is None else stored
    prefix_bytes = prefix_tokens * record_bytes(prefix_groups(prefix_tokens, channels))
    return float16_bytes(tokens, channels) / (prefix_bytes + patches * smallest_record(channels))


def kept_patches(ratio: float, *, prefix_tokens: int, patch_grid: tuple[int, int], channels: int) -> int:
    """Return how many patches of each 2 x 2 cell are stored at a ratio; 4, all, up to 16 and on odd grids.

    Raises:
        errors.InvalidInput: the ratio cannot be met; the largest one is named.
    """
    if not (math.isfinite(ratio) and ratio > 1):
        raise errors.InvalidInput(f"ratio {ratio:g} is not a number above 1. Use 4, 8, 16 or 32, or none for float16")
    patches = patch_grid[0] * patch_grid[1]
    tokens, even, smallest = prefix_tokens + patches, is_even(patch_grid), smallest_record(channels)
    largest = 0.0
    for kept in range(CELL_PATCHES, 0, -1) if even else (CELL_PATCHES,):
        stored = patches // CELL_PATCHES * kept if kept < CELL_PATCHES else patches
        largest = max(largest, largest_ratio(tokens, prefix_tokens, channels, stored=stored))
        fits = record_bytes_for(ratio, tokens, prefix_tokens, channels, stored=stored) >= smallest
        if fits and (ratio * kept / CELL_PATCHES <= FINEST_RATIO or not even or kept == 1):
            return kept
    shape = f"{patch_grid[0]} x {patch_grid[1]} patches, {prefix_tokens} prefix tokens and {channels} channels"
    exits = "" if even else ". A grid of even sides allows more: patches are then left out, some of every 2 x 2"
    message = f"ratio {ratio:g} cannot be met by {shape}: the largest is {math.floor(largest * 100) / 100:g}{exits}"
    raise errors.InvalidInput(message)


def group_sizes(variances: npt.ArrayLike, record_bytes: int) -> Groups:
    """Return the groups (m, n) of a record that make the noise of a token least.

    For each set of codeword sizes, the price of a byte at which the record fits; then left-over bytes one by one, where
    they gain most. Of all sets the least noise wins, then the fewest groups.

    Args:
        variances: of the components, descending.
        record_bytes: bytes that a record may have, scales included.

    Raises:
        errors.InvalidInput: no code is that small.
    """
    values = np.asarray(variances, np.float64)
    best: tuple[float, Groups] | None = None
    for allowed in size_sets():
        groups = _fitted(values, allowed, record_bytes)
        if groups is None:
            continue
        noise = total_noise(values, groups)
        if best is None or _better((noise, groups), best):
            best = (noise, groups)
    if best is None:
        least = smallest_record(len(values))
        message = f"{len(values)} channels do not fit in a record of {record_bytes} bytes: at least {least} are needed"
        raise errors.InvalidInput(message)
    return best[1]


def total_noise(variances: Float64, groups: Groups) -> float:
    """Return the sum over components of v U."""
    ends = np.cumsum([0, *(count for _, count in groups)])
    parts = (variances[first:last].sum() for first, last in pairwise(ends))
    return float(sum(part * books.noise(size) for part, (size, _) in zip(parts, groups, strict=True)))


def size_sets() -> Iterator[Sizes]:
    """Yield the 31 sets of codeword sizes, ascending inside."""
    for count in range(1, len(books.SIZES) + 1):
        yield from combinations(books.SIZES, count)


def coarsest(channels: int, allowed: Sizes) -> Groups | None:
    """Return the smallest groups of a set of sizes; None if they cannot hold so many channels."""
    return _grouped(dict.fromkeys(allowed, 0) | {allowed[-1]: channels})


def _better(left: tuple[float, Groups], right: tuple[float, Groups]) -> bool:
    if abs(left[0] - right[0]) <= CLOSE * abs(right[0]):
        return len(left[1]) < len(right[1])
    return left[0] < right[0]


def _fitted(variances: Float64, allowed: Sizes, record: int) -> Groups | None:
    """Return the best groups with these sizes only; None if none fits."""
    groups = coarsest(len(variances), allowed)
    if groups is None or record_bytes(groups) > record:
        return None
    noise = np.array([books.noise(size) for size in allowed])
    low, high = -60.0, float(np.log2(max(variances[0], 2.0**-50))) + 10  # of the price of a bit, log2
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        costs = variances[:, None] * noise + 2.0**price * 8 / np.array(allowed)
        counts = np.bincount(costs.argmin(axis=1), minlength=len(allowed))
        found = _grouped(dict(zip(allowed, counts.tolist(), strict=True)))
        if found is not None and record_bytes(found) <= record:
            groups, high = found, price
        else:
            low = price
    return _filled(np.concatenate([[0.0], np.cumsum(variances)]), groups, allowed, record)


def _grouped(counts: dict[int, int]) -> Groups | None:
    """Return groups whose counts are multiples of m: what is left over joins the next smaller m of the same set."""
    carried, groups = 0, []
    for size in sorted(counts, reverse=True):
        count = counts[size] + carried
        carried = count % size
        if count - carried:
            groups.append((size, count - carried))
    return None if carried else tuple(reversed(groups))


def _filled(running: Float64, groups: Groups, allowed: Sizes, record: int) -> Groups:
    """Spend left-over bytes: m components of the highest variance of a group move to the next smaller m, repeatedly.

    Args:
        running: sums of the variances of the first 0, 1, ... components.
        groups: groups to begin with.
        allowed: sizes that may be used.
        record: bytes of a record.
    """
    while True:
        best: tuple[float, Groups] | None = None
        used = record_bytes(groups)
        first = 0
        for size, count in groups:
            smaller = max((other for other in allowed if other < size), default=None)
            if smaller is not None:
                counts = dict(groups)
                counts[size], counts[smaller] = count - size, counts.get(smaller, 0) + size
                moved = tuple((other, n) for other, n in sorted(counts.items()) if n)
                price = record_bytes(moved) - used
                gain = (running[first + size] - running[first]) * (books.noise(size) - books.noise(smaller))
                if used + price <= record and (best is None or gain / max(price, 0.5) > best[0]):
                    best = gain / max(price, 0.5), moved
            first += count
        if best is None:
            return groups
        groups = best[1]


def describe(groups: Sequence[tuple[int, int]]) -> str:
    """Return groups for people: `16 of 2, 112 of 4`."""
    return ", ".join(f"{count} of {size}" for size, count in groups)
