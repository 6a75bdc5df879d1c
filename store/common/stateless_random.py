"""Random numbers without state: each is a function of a key and a counter, so a resumption needs only the step.

Nothing is stored and nothing is generated in sequence: the n-th element of a permutation of 20 million rows, or the
uniform numbers of step 70,000, cost the same as the first. Not for cryptography.
"""

import hashlib

import numpy as np

UInt64 = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
Int64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_ROUNDS = 8
GOLDEN = 0x9E3779B97F4A7C15  # the odd number nearest to 2^64 / golden ratio
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key(*parts: int | str) -> int:
    """Return a 64-bit key made of a seed and names, the same on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(stream: int, count: int) -> Float64:
    """Return the first `count` numbers, uniform in [0, 1), of the stream with the key `stream`."""
    counters = np.arange(1, count + 1, dtype=np.uint64)
    bits = mix(np.uint64(stream) + counters * np.uint64(GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: Int64, *, size: Int64, keys: UInt64) -> Int64:
    """Return the position of each `index` in the permutation of range(size) that belongs to its key; elementwise.

    A Feistel network over the smallest a x b grid that holds `size` (both near its square root), whose rounds add a
    hash of one coordinate to the other: a bijection of the grid. An index that lands on one of the few grid
    cells beyond `size` goes through the network again.

    Args:
        index: int64 (n,), each in range(size).
        size: int64 (n,), number of elements of each permutation.
        keys: uint64 (n,), key of each permutation.

    Returns:
        int64 (n,), each in range(size).
    """
    limit = size.astype(np.uint64)
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (limit + rows - np.uint64(1)) // rows
    values = _shuffle_grid(index.astype(np.uint64), rows, columns, keys)
    outside = np.flatnonzero(values >= limit)
    while outside.size:
        values[outside] = _shuffle_grid(values[outside], rows[outside], columns[outside], keys[outside])
        outside = outside[values[outside] >= limit[outside]]
    return values.astype(np.int64)


def _shuffle_grid(values: UInt64, rows: UInt64, columns: UInt64, keys: UInt64) -> UInt64:
    left, right = values // columns, values % columns
    for number in range(_ROUNDS):
        salt = keys + np.uint64((number + 1) * GOLDEN % 2**64)
        if number % 2 == 0:
            left = (left + mix(right ^ salt) % rows) % rows
        else:
            right = (right + mix(left ^ salt) % columns) % columns
    shuffled: UInt64 = left * columns + right
    return shuffled


def mix(values: UInt64) -> UInt64:
    """Finaliser of splitmix64: every input bit changes every output bit half of the time."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    mixed: UInt64 = values ^ (values >> np.uint64(31))
    return mixed
