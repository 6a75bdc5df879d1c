"""Reading the trailers of an array, many at a time, and adding up what they say."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache import sealed_tables
from store.cache.dataset import Dataset
from store.format import statistics
from store.format.manifest import reason_kind
from store.format.schema import MISSING
from store.format.trailer import ENDING, Trailer, fingerprint
from store.sealing.manifest_writer import ManifestFile

MERGED_AT_ONCE = 256

Digests = npt.NDArray[np.uint8]  # [shards, 32]


@dataclass(kw_only=True)
class Collected:
    """What the shards of one array say.

    Attributes:
        status: uint8 [rows].
        fingerprints: uint32 [shards], 0 for shards that are absent or left out.
        digests: digests of the pixel shards (of those that tokens came from).
        reasons: failed rows by kind of reason.
        moments: float64 [2, 5, channel] as stored; None for pixels.
        problems: sentences about shards that were left out.
    """

    status: npt.NDArray[np.uint8]
    fingerprints: npt.NDArray[np.uint32]
    digests: Digests
    reasons: Counter[str]
    moments: npt.NDArray[np.float64] | None
    problems: list[str]

    @classmethod
    def nothing(cls, dataset: Dataset) -> "Collected":
        """Return what no shard says."""
        return cls(
            status=np.full(dataset.rows, MISSING, np.uint8),
            fingerprints=np.zeros(dataset.shards, np.uint32),
            digests=np.zeros((dataset.shards, sealed_tables.DIGEST_BYTES), np.uint8),
            reasons=Counter(),
            moments=None,
            problems=[],
        )

    def take(self, said: Trailer, digest: str, mark: int) -> None:
        """Take in one shard."""
        self.fingerprints[said.shard] = mark
        self.digests[said.shard] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        self.status[said.rows.start : said.rows.stop] = said.status


def read_fingerprints(dataset: Dataset, array: str, *, pool: ThreadPoolExecutor) -> npt.NDArray[np.uint32]:
    """Return uint32 [shards]: the recorded crc32c of each shard's trailer, 0 where there is no shard.

    One short read per shard. Equal fingerprints mean equal trailers, hence equal row checksums.
    """
    node = dataset.array(array)
    layout = node.layout
    assert layout is not None
    found = np.zeros(dataset.shards, np.uint32)

    def read(shard: int) -> int:
        try:
            tail = dataset.storage.read_last(node.shard_key(shard), ENDING.size + layout.index_bytes)
        except FileNotFoundError:  # removed since the listing
            return 0
        if len(tail) < ENDING.size + layout.index_bytes:
            return 1  # cut short: reading its trailer will say so
        return fingerprint(tail, index_bytes=layout.index_bytes) or 1

    shards = sorted(dataset.present(array))
    found[shards] = list(pool.map(read, shards))
    return found


def collect_pixels(
    dataset: Dataset,
    found: npt.NDArray[np.uint32],
    *,
    known: Collected,
    manifest: ManifestFile,
    trailers: Callable[[list[int]], Iterator[tuple[int, Trailer | errors.Damaged]]],
) -> Collected:
    """Collect a pixels array, reading only the trailers of shards that `known` does not cover."""
    collected = Collected.nothing(dataset)
    same = (known.fingerprints == found) & (found != 0)
    new = trailers(np.flatnonzero((found != 0) & ~same).tolist())
    for shard in np.flatnonzero(found).tolist():
        if same[shard]:
            rows = dataset.shard_rows_of(shard)
            collected.fingerprints[shard], collected.digests[shard] = found[shard], known.digests[shard]
            collected.status[rows.start : rows.stop] = known.status[rows.start : rows.stop]
            manifest.add(shard, None)
            continue
        _, said = next(new)
        if isinstance(said, errors.Damaged):
            collected.problems.append(str(said))
            continue
        collected.take(said, said.digest, int(found[shard]))
        manifest.add(shard, said.manifest())
    return collected


def collect_tokens(
    dataset: Dataset,
    array: str,
    found: npt.NDArray[np.uint32],
    *,
    pixels_digests: Digests | None,
    trailers: Callable[[list[int]], Iterator[tuple[int, Trailer | errors.Damaged]]],
) -> Collected:
    """Collect a teacher's tokens from all trailers: equal shards then give equal statistics, bit for bit.

    Without digests (the pixels are somebody else's array) there is nothing to compare the tokens' with.
    """
    collected = Collected.nothing(dataset)
    channels = dataset.array(array).shape[-1]
    parts = [statistics.stacked(None, statistics.empty(channels))]
    merged: list[npt.NDArray[np.float64]] = []
    for shard, said in trailers(np.flatnonzero(found).tolist()):
        if isinstance(said, errors.Damaged):
            collected.problems.append(str(said))
            continue
        stored = said.pixels_digest if pixels_digests is None else pixels_digests[shard].tobytes().hex()
        if said.pixels_digest is None or said.pixels_digest != stored or said.moments is None:
            where = f"shard {shard} of '{dataset.name}/{array}'"
            collected.problems.append(f"{where} was computed from other pixels than are stored")
            continue
        collected.take(said, said.pixels_digest, int(found[shard]))
        collected.reasons.update(reason_kind(reason) for reason in said.errors.values())
        parts.append(statistics.stacked(*said.moments))
        if len(parts) >= MERGED_AT_ONCE:
            merged.append(statistics.merge_stacked(np.stack(parts)))
            parts = []
    collected.moments = statistics.merge_stacked(np.stack(merged + parts))
    return collected
