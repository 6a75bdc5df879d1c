"""Status of rows: missing, ok or failed, as sealed and as the trailers of shards tell."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache import sealed_tables
from store.cache.metadata import DatasetMetadata
from store.cache.shard_tail import read_tail
from store.common.threads import ThreadTeam
from store.format import trailer as trailers
from store.format.schema import MISSING, PIXELS
from store.format.trailer import Trailer


class RowStatus:
    """Status of every row of one array: what is known beforehand, completed from the trailers of shards.

    Attributes:
        values: uint8 [rows], missing, ok or failed; rows of shards that were not read stay as known beforehand.
    """

    def __init__(self, metadata: DatasetMetadata, array: str, known: npt.NDArray[np.uint8] | None = None) -> None:
        """Begin with a status that is known; None begins with all rows missing."""
        self._metadata, self._array = metadata, array
        if known is None:
            known = np.full(metadata.rows, MISSING, np.uint8)
        self.values = known if (known != MISSING).all() else known.copy()

    def read_shards(
        self,
        shards: Iterable[int],
        team: ThreadTeam,
        *,
        check_pixels: bool = False,
        unreadable: dict[int, errors.CodistillError] | None = None,
    ) -> dict[int, str]:
        """Read the trailers of shards into `values`; rows of shards that do not exist stay as they are.

        Args:
            shards: numbers of the shards.
            team: threads that read.
            check_pixels: refuse tokens that were computed from other pixels than are stored, as `seal` does.
            unreadable: takes the errors of trailers that cannot be read, by shard; None raises the first error.

        Returns:
            Reason by row, ascending, of the failed rows of these shards.

        Raises:
            errors.Damaged: a trailer is damaged or belongs elsewhere, or `check_pixels` finds a difference.
        """
        reasons: dict[int, str] = {}

        def read(shard: int) -> None:
            try:
                trailer = read_trailer(self._metadata, self._array, shard)
                if check_pixels:
                    _refuse_other_pixels(self._metadata, self._array, trailer)
            except errors.MissingShard:
                return
            except errors.CodistillError as error:
                if unreadable is None:
                    raise
                unreadable[shard] = error
                return
            self.values[trailer.rows.start : trailer.rows.stop] = trailer.status
            reasons.update(trailer.errors)

        team.run([partial(read, shard) for shard in shards])
        return dict(sorted(reasons.items()))


def sealed_or_missing(metadata: DatasetMetadata, array: str) -> RowStatus | None:
    """Return the sealed status, or all rows missing without a seal.

    Returns:
        None for an array that has neither a status nor trailers, because codistill did not write it.
    """
    node = metadata.array(array)
    try:
        sealed = sealed_tables.read_status(metadata.storage, dataset=metadata.name, array=array, rows=metadata.rows)
    except errors.NotSealed:
        return None if node.layout is None else RowStatus(metadata, array)
    return RowStatus(metadata, array, sealed)


def read_trailer(metadata: DatasetMetadata, array: str, shard: int) -> Trailer:
    """Read the trailer of a shard and check that it belongs there.

    Raises:
        errors.MissingShard: it does not exist; the message names the command that makes it.
        errors.Damaged: it is cut short, its checksum differs, or it belongs elsewhere.
    """
    node = metadata.array(array)
    where = f"shard {shard} of '{metadata.name}/{array}'"
    if node.layout is None:
        raise errors.UnsupportedFormat(f"'{metadata.name}/{array}' was not written by codistill: no trailers")
    metadata.shard_rows_of(shard)
    try:
        tail = read_tail(metadata.storage, node, shard)
    except FileNotFoundError:
        message = f"{where} does not exist. Run: {metadata.how_to_make(node)}"
        raise errors.MissingShard(message) from None
    return parse_trailer(metadata, array, shard, tail)


def parse_trailer(metadata: DatasetMetadata, array: str, shard: int, tail: bytes) -> Trailer:
    """Return the trailer in the end of a shard, checked to belong there; raises as `read_trailer`."""
    node = metadata.array(array)
    where = f"shard {shard} of '{metadata.name}/{array}'"
    assert node.layout is not None
    trailer = trailers.decode(tail, where=where, index_bytes=node.layout.index_bytes)
    differing = trailers.mismatches(
        trailer,
        dataset=metadata.name,
        array=array,
        shard=shard,
        rows=node.layout.rows_of(shard),
        identity_digest=metadata.identity_digest(array),
    )
    if differing:
        command = f"codistill store verify {metadata.storage.location} --repair"
        raise errors.Damaged(f"{where} belongs elsewhere: {'; '.join(differing)}. Run: {command}")
    found = {} if trailer.moments is None else {"moments": len(trailer.moments[1].mean)}
    found |= {} if trailer.distortion is None else {"distortion": trailer.distortion.sums.shape[-1]}
    expected = metadata.teacher(array).channels if found else 0
    for name, count in found.items():
        if count == expected:
            continue
        channels = f"{name} of {count} channels, expected {expected}"
        raise errors.Damaged(f"{where}: {channels}. Run: codistill store verify {metadata.storage.location} --repair")
    return trailer


def _refuse_other_pixels(metadata: DatasetMetadata, array: str, trailer: Trailer) -> None:
    if array == PIXELS or metadata.array(PIXELS).layout is None:
        return
    stored = read_trailer(metadata, PIXELS, trailer.shard).digest
    if trailer.pixels_digest != stored:
        where = f"shard {trailer.shard} of '{metadata.name}/{array}'"
        digests = f"digest expected {stored}, found {trailer.pixels_digest}"
        command = f"codistill store verify {metadata.storage.location} --repair"
        raise errors.Damaged(f"{where} was computed from other pixels than are stored: {digests}. Run: {command}")
