"""Collecting of the trailers of an array, many at a time, into status, digests and moments."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.dataset import Dataset
from store.cache.seal_record import DIGEST_BYTES
from store.format import distortion, statistics
from store.format.distortion import Distortion
from store.format.manifest import reason_kind
from store.format.schema import MISSING, PIXELS
from store.format.trailer import ENDING, Trailer, fingerprint
from store.sealing.manifest_writer import ManifestFile

MERGED_AT_ONCE = 256

Digests: TypeAlias = npt.NDArray[np.uint8]  # [shards, 32]
Fingerprints: TypeAlias = npt.NDArray[np.uint32]  # [shards]
Trailers: TypeAlias = Callable[[list[int]], Iterator[tuple[int, Trailer | errors.Damaged]]]  # reads those of shards


@dataclass(kw_only=True)
class Collected:
    """Contents of all trailers of one array.

    Attributes:
        status: uint8 [rows].
        fingerprints: uint32 [shards], 0 for shards that are absent or left out.
        digests: uint8 [shards, 32], digests of the pixel shards (for tokens, of those they were computed from).
        reasons: number of failed rows by kind of reason.
        moments: float64 [2, 5, channel] as stored; None for pixels.
        distortion: what the code does to the tokens; None for arrays without a code.
        problems: sentences about shards that were left out.
    """

    status: npt.NDArray[np.uint8]
    fingerprints: npt.NDArray[np.uint32]
    digests: Digests
    reasons: Counter[str]
    moments: npt.NDArray[np.float64] | None
    problems: list[str]
    distortion: Distortion | None = None

    @classmethod
    def empty(cls, dataset: Dataset) -> "Collected":
        """Return the contents of no trailer."""
        return cls(
            status=np.full(dataset.rows, MISSING, np.uint8),
            fingerprints=np.zeros(dataset.shards, np.uint32),
            digests=np.zeros((dataset.shards, DIGEST_BYTES), np.uint8),
            reasons=Counter(),
            moments=None,
            problems=[],
        )

    def add(self, trailer: Trailer, *, digest: str, fingerprint: int) -> None:
        """Add one shard."""
        self.fingerprints[trailer.shard] = fingerprint
        self.digests[trailer.shard] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        self.status[trailer.rows.start : trailer.rows.stop] = trailer.status


def read_fingerprints(dataset: Dataset, array: str, *, pool: ThreadPoolExecutor) -> Fingerprints:
    """Return uint32 [shards]: the recorded crc32c of each shard's trailer, 0 where there is no shard.

    One short read per shard. Equal fingerprints mean equal trailers, and so equal row checksums.
    """
    node = dataset.array(array)
    layout = node.layout
    assert layout is not None
    fingerprints = np.zeros(dataset.shards, np.uint32)

    def read(shard: int) -> int:
        try:
            tail = dataset.storage.read_last(node.shard_key(shard), ENDING.size + layout.index_bytes)
        except FileNotFoundError:  # removed since the listing
            return 0
        if len(tail) < ENDING.size + layout.index_bytes:
            return 1  # cut short: reading its trailer will say so
        return fingerprint(tail, index_bytes=layout.index_bytes) or 1

    shards = sorted(dataset.present(array))
    fingerprints[shards] = list(pool.map(read, shards))
    return fingerprints


def collect_pixels(
    dataset: Dataset,
    fingerprints: Fingerprints,
    *,
    known: Collected,
    manifest: ManifestFile,
    trailers: Trailers,
) -> Collected:
    """Collect a pixels array, reading only the trailers of shards that changed since `known` was collected."""
    collected = Collected.empty(dataset)
    present = fingerprints != 0
    unchanged = (known.fingerprints == fingerprints) & present
    new = trailers(np.flatnonzero(present & ~unchanged).tolist())
    for shard in np.flatnonzero(present).tolist():
        if unchanged[shard]:
            rows = dataset.shard_rows_of(shard)
            collected.fingerprints[shard], collected.digests[shard] = fingerprints[shard], known.digests[shard]
            collected.status[rows.start : rows.stop] = known.status[rows.start : rows.stop]
            manifest.add(shard, None)
            continue
        _, trailer = next(new)
        try:
            if isinstance(trailer, errors.Damaged):
                raise trailer
            table = trailer.manifest()
            if table is None:
                raise errors.Damaged(f"shard {shard} of '{dataset.name}/{PIXELS}': no manifest rows in its trailer")
        except errors.Damaged as error:
            collected.problems.append(str(error))
            continue
        collected.add(trailer, digest=trailer.digest, fingerprint=int(fingerprints[shard]))
        manifest.add(shard, table)
    return collected


def collect_tokens(
    dataset: Dataset,
    array: str,
    fingerprints: Fingerprints,
    *,
    pixels_digests: Digests | None,
    trailers: Trailers,
) -> Collected:
    """Collect a teacher's tokens or codes from all trailers: equal shards then give equal statistics, bit for bit.

    Args:
        dataset: the dataset.
        array: the teacher's name.
        fingerprints: fingerprints of the shards that exist.
        pixels_digests: digests that tokens must name; None where codistill did not write the pixels.
        trailers: reads the trailers of shards.
    """
    collected = Collected.empty(dataset)
    teacher = dataset.teacher(array)
    channels = teacher.channels
    collected.distortion = None if teacher.code is None else distortion.empty(channels)
    parts = [statistics.stacked(None, statistics.empty(channels))]
    merged: list[npt.NDArray[np.float64]] = []
    for shard, trailer in trailers(np.flatnonzero(fingerprints).tolist()):
        if isinstance(trailer, errors.Damaged):
            collected.problems.append(str(trailer))
            continue
        stored = trailer.pixels_digest if pixels_digests is None else pixels_digests[shard].tobytes().hex()
        if trailer.pixels_digest is None or trailer.pixels_digest != stored or trailer.moments is None:
            where = f"shard {shard} of '{dataset.name}/{array}'"
            collected.problems.append(f"{where} was computed from other pixels than are stored")
            continue
        if collected.distortion is not None:
            if trailer.distortion is None:
                where = f"shard {shard} of '{dataset.name}/{array}'"
                collected.problems.append(f"{where}: its trailer does not tell the distortion of its codes")
                continue
            collected.distortion = distortion.merge([collected.distortion, trailer.distortion])
        collected.add(trailer, digest=trailer.pixels_digest, fingerprint=int(fingerprints[shard]))
        collected.reasons.update(reason_kind(reason) for reason in trailer.errors.values())
        parts.append(statistics.stacked(*trailer.moments))
        if len(parts) >= MERGED_AT_ONCE:
            merged.append(statistics.merge_stacked(np.stack(parts)))
            parts = []
    collected.moments = statistics.merge_stacked(np.stack(merged + parts))
    return collected
