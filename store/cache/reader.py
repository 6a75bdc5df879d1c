"""Random rows of pixels and teachers into the caller's buffers, and whole shards for the next stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache import row_reads
from store.common.threads import ThreadTeam
from store.format import trailer
from store.format.schema import MISSING, OK, PIXELS, ArrayNode
from store.format.trailer import Trailer

if TYPE_CHECKING:
    from store.cache.dataset import Dataset

LISTED_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard in memory.

    Attributes:
        data: [rows of the shard, ...], the fill value (0 or NaN) where a row failed.
        status: uint8 [rows of the shard].
        digest: of its (row, crc32c) list; for pixels, what tokens made from it must name.
        trailer: what it says of itself.
    """

    data: npt.NDArray[Any]
    status: npt.NDArray[np.uint8]
    digest: str
    trailer: Trailer


class Reader:
    """Reads one dataset; safe to use from several threads."""

    def __init__(self, dataset: "Dataset") -> None:
        self._dataset = dataset
        self._team = ThreadTeam(dataset.storage.read_threads)
        self._known: dict[str, npt.NDArray[np.uint8]] = {}
        self._context = row_reads.ReadContext(
            storage=dataset.storage, describe=dataset.describe, how_to_make=dataset.how_to_make
        )

    def read(
        self,
        wanted: Sequence[int] | npt.NDArray[np.integer[Any]],
        names: Sequence[str],
        *,
        out: Mapping[str, npt.NDArray[Any]] | None,
        verify: bool,
    ) -> dict[str, npt.NDArray[Any]]:
        """See `Dataset.read`."""
        index = self._row_numbers(wanted)
        nodes = {name: self._dataset.array(name) for name in names}
        unexpected = sorted(set(out or ()) - set(nodes))
        if unexpected:
            raise errors.InvalidInput(f"out: {unexpected} were not asked for; asked for: {list(nodes)}")
        targets = {name: _target(name, node, len(index), (out or {}).get(name)) for name, node in nodes.items()}
        for name, node in nodes.items():
            self._require_ok(name, node, index)
        work: list[Any] = []
        for name, node in nodes.items():
            work += row_reads.tasks(
                row_reads.RowRead(node=node, rows=index, out=targets[name], verify=verify), self._context
            )
        self._team.run(work)
        return targets

    def read_shard(self, array: str, shard: int, *, verify: bool) -> Shard:
        """See `Dataset.read_shard`."""
        node, said = self._dataset.array(array), self.read_trailer(array, shard)
        fill = np.nan if node.dtype.kind == "f" else 0
        data = np.empty((len(said.rows), *node.row_shape), node.dtype)
        ok = said.status == OK
        if ok.all():
            self._gather_shard(node, said, data, verify)
        else:
            data[:] = fill
            kept = np.empty((int(ok.sum()), *node.row_shape), node.dtype)
            self._gather_shard(node, said, kept, verify)
            data[ok] = kept
        return Shard(data=data, status=said.status, digest=said.digest, trailer=said)

    def read_trailer(self, array: str, shard: int) -> Trailer:
        """See `Dataset.read_trailer`."""
        dataset = self._dataset
        node = dataset.array(array)
        where = f"shard {shard} of '{dataset.name}/{array}'"
        if node.layout is None:
            raise errors.UnsupportedFormat(f"'{dataset.name}/{array}' was not written by codistill: no trailers")
        dataset.shard_rows_of(shard)
        try:
            tail = dataset.storage.read(node.shard_key(shard), node.layout.slots_bytes(shard))
        except FileNotFoundError:
            message = f"{where} does not exist. Run: {dataset.how_to_make(node)}"
            raise errors.MissingShard(message) from None
        said = trailer.decode(tail, where=where, index_bytes=node.layout.index_bytes)
        differing = trailer.mismatches(
            said,
            dataset=dataset.name,
            array=array,
            shard=shard,
            rows=node.layout.rows_of(shard),
            identity_digest=dataset.identity_digest(array),
        )
        if differing:
            command = f"codistill store verify {dataset.storage.location} --repair"
            raise errors.Damaged(f"{where} belongs elsewhere: {'; '.join(differing)}. Run: {command}")
        return said

    def _gather_shard(self, node: ArrayNode, said: Trailer, out: npt.NDArray[Any], verify: bool) -> None:
        """Read the ok rows of a shard; verified, they are what its trailer speaks of and not just intact."""
        ok = np.flatnonzero(said.status == OK)
        gather = row_reads.RowRead(node=node, rows=ok + said.rows.start, out=out, verify=verify, crc32c=said.crc32c[ok])
        self._team.run(list(row_reads.tasks(gather, self._context)))

    def _row_numbers(self, wanted: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        index = np.asarray(wanted)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            found = f"{index.dtype} {index.shape}"
            raise errors.InvalidInput(f"rows: expected a one-dimensional list of integers, found {found}")
        index = index.astype(np.int64)
        outside = index[(index < 0) | (index >= self._dataset.rows)]
        if len(outside):
            last = self._dataset.rows - 1
            raise errors.InvalidInput(f"rows {_some(outside)} are not in '{self._dataset.name}', which has 0..{last}")
        return index

    def _require_ok(self, name: str, node: ArrayNode, index: npt.NDArray[np.int64]) -> None:
        """Raise if a row is not ok, by the sealed status; by trailers for shards that it does not know yet."""
        known = self._status_of(name, node, index)
        if known is None or (known[index] == OK).all():
            return
        self._known.pop(name, None)  # it may have been sealed again, or repaired
        known = self._status_of(name, node, index)
        bad = np.zeros(0, np.int64) if known is None else np.unique(index[known[index] != OK])
        if known is not None and len(bad):
            failed = int((known[bad] != MISSING).sum())
            counts = f"{failed} failed, {len(bad) - failed} missing"
            exits = f"Ask for rows of valid_rows() only, or make them: {self._dataset.how_to_make(node)}"
            where = f"'{self._dataset.name}/{name}'"
            raise errors.RowsNotOk(f"{where}: rows {_some(bad)} are not ok ({counts}). {exits}", bad.tolist())

    def _status_of(self, name: str, node: ArrayNode, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | None:
        """Return the status of all rows, right for those asked for; None for an array of somebody else without one."""
        known = self._known_status(name)
        if known is not None and node.layout is not None:
            missing = index[known[index] == MISSING]
            self._learn(name, known, np.unique(missing // node.layout.shard_rows))
        return known

    def _known_status(self, name: str) -> npt.NDArray[np.uint8] | None:
        """Return what is known of every row; None for an array of somebody else without a status."""
        if name not in self._known:
            try:
                status = self._dataset.status(name)
                self._known[name] = status if (status != MISSING).all() else status.copy()
            except errors.NotSealed:
                if self._dataset.array(name).layout is None:
                    return None
                self._known[name] = np.zeros(self._dataset.rows, np.uint8)
        return self._known[name]

    def _learn(self, name: str, known: npt.NDArray[np.uint8], shards: npt.NDArray[np.int64]) -> None:
        def learn(shard: int) -> None:
            try:
                said = self.read_trailer(name, shard)
                self._refuse_other_pixels(name, said)
            except errors.MissingShard:
                return
            known[said.rows.start : said.rows.stop] = said.status

        self._team.run([partial(learn, shard) for shard in shards.tolist()])

    def _refuse_other_pixels(self, name: str, said: Trailer) -> None:
        """Raise if tokens were computed from other pixels than are stored, as seal would."""
        if name == PIXELS or self._dataset.array(PIXELS).layout is None:
            return
        stored = self.read_trailer(PIXELS, said.shard).digest
        if said.pixels_digest != stored:
            where = f"shard {said.shard} of '{self._dataset.name}/{name}'"
            digests = f"digest expected {stored}, found {said.pixels_digest}"
            command = f"codistill store verify {self._dataset.storage.location} --repair"
            raise errors.Damaged(f"{where} was computed from other pixels than are stored: {digests}. Run: {command}")


def _target(name: str, node: ArrayNode, count: int, given: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    shape = (count, *node.row_shape)
    if given is None:
        return np.empty(shape, node.dtype)
    problems = []
    if given.shape != shape or given.dtype != node.dtype:
        problems.append(f"expected {node.dtype} {shape}, found {given.dtype} {given.shape}")
    if not given.flags.c_contiguous:
        problems.append("it must be C-contiguous")
    if not given.flags.writeable:
        problems.append("it is read-only")
    if problems:
        raise errors.InvalidInput(f"out[{name!r}]: {'; '.join(problems)}")
    return given


def _some(values: npt.NDArray[np.int64]) -> str:
    listed = ", ".join(str(value) for value in values[:LISTED_ROWS].tolist())
    return f"{listed} and {len(values) - LISTED_ROWS} more" if len(values) > LISTED_ROWS else listed
