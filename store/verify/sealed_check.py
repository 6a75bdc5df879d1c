"""Check of the sealed tables of one array against the trailers that they were made from."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import errors
from store.cache import seal_record, sealed_tables
from store.cache.dataset import Dataset
from store.format import distortion, schema, statistics
from store.format.code_schema import distortion_tables
from store.format.layout import any_in_shard
from store.format.manifest import GROUP_ROWS
from store.format.schema import FAILED, MISSING, OK, PIXELS
from store.verify.problems import Kind, Problem
from store.verify.shard_check import ShardCheck

MERGED_AT_ONCE = 256


class SealedCheck:
    """Comparison of the sealed tables of one array with its shards, added in ascending order.

    Attributes:
        problems: what differs; complete after `finish`.
        notes: sentences about what is no problem; complete after `finish`.
    """

    def __init__(self, dataset: Dataset, array: str) -> None:
        self._dataset, self._array = dataset, array
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._record = seal_record.read_record(dataset.storage, dataset=dataset.name, array=array)
        self._status = self._read_status()
        self._present = np.zeros(dataset.shards, np.bool_)
        self._unsealed = 0
        self._damaged = False
        self._parts: list[npt.NDArray[np.float64]] = []
        self._code = None if array == PIXELS else dataset.teacher(array).code
        self._distortion = None if self._code is None else distortion.empty(self._code.channels)
        self._manifest = _SealedManifest(dataset) if array == PIXELS else None
        self._check_documents()

    def add(self, check: ShardCheck) -> None:
        """Compare one shard; a damaged shard has problems of its own and is left out."""
        shard, trailer = check.location.shard, check.trailer
        self._present[shard] = True
        inconsistent = any(problem.kind is Kind.TRAILER_INCONSISTENT for problem in check.problems)
        if trailer is None or inconsistent or len(trailer.status) != len(check.location.rows):
            self._damaged = True
            return
        if trailer.moments is not None:
            self._parts.append(statistics.stacked(*trailer.moments))
            if len(self._parts) >= MERGED_AT_ONCE:
                self._parts = [statistics.merge_stacked(np.stack(self._parts))]
        if self._distortion is not None and trailer.distortion is not None:
            self._distortion = distortion.merge([self._distortion, trailer.distortion])
        if self._status is None:
            return
        sealed = self._status[trailer.rows.start : trailer.rows.stop]
        if not sealed.any():
            self._unsealed += 1
            return
        if self._outdated(shard, check.tail.recorded_crc32c):
            if not check.problems:  # a repair of the shard also seals it again
                self._add_problem(Kind.SEAL_OUTDATED, f"shard {shard} was replaced since it was sealed", shard)
            self._damaged = True
            return
        if not np.array_equal(sealed, trailer.status):
            rows = tuple((np.flatnonzero(sealed != trailer.status) + trailer.rows.start).tolist())
            message = f"sealed status differs from the trailer of shard {shard}"
            self._add_problem(Kind.SEALED_STATUS_DIFFERS, message, shard, rows)
        if self._manifest is not None:
            message = self._manifest.difference(trailer.rows, trailer.manifest())
            if message:
                self._add_problem(Kind.SEALED_MANIFEST_DIFFERS, f"{message} (shard {shard})", shard)

    def finish(self) -> None:
        """Compare what needs all shards: shards that have gone, statistics, counts."""
        if self._status is None:
            if self._present.any():
                self.notes.append(f"'{self._dataset.name}/{self._array}' is not sealed")
            return
        if self._manifest is not None and self._manifest.unreadable:
            self._add_problem(Kind.SEALED_DAMAGED, self._manifest.unreadable, key=self._manifest.key)
        if self._unsealed:
            self.notes.append(f"'{self._dataset.name}/{self._array}': {self._unsealed} shards are not sealed yet")
        sealed = any_in_shard(self._status != MISSING, self._dataset.shard_rows)
        for shard in np.flatnonzero(sealed & ~self._present).tolist():
            key = self._dataset.array(self._array).shard_key(shard)
            self.problems.append(
                Problem(
                    kind=Kind.SHARD_GONE,
                    key=key,
                    message="it is sealed, and there is no such object",
                    dataset=self._dataset.name,
                    array=self._array,
                    shard=shard,
                )
            )
        outdated = any(problem.kind in (Kind.SEAL_OUTDATED, Kind.SHARD_GONE) for problem in self.problems)
        if self._array != PIXELS and not (self._damaged or self._unsealed or outdated):
            self._compare_statistics()
            self._compare_distortion()
        self._compare_counts()
        self._compare_record()

    def _read_status(self) -> npt.NDArray[np.uint8] | None:
        try:
            return self._dataset.status(self._array)
        except errors.NotSealed:
            return None
        except errors.Damaged as error:
            self._add_problem(Kind.SEALED_DAMAGED, str(error))
            return None

    def _check_documents(self) -> None:
        """Check the zarr.json of sealed arrays, which follow from the array's shape."""
        dataset = self._dataset
        documents = {
            schema.status_path(dataset.name, self._array): schema.small_array_document(
                (dataset.rows,), np.dtype(np.uint8), ("row",)
            )
        }
        if self._array != PIXELS:
            shape = (2, 5, dataset.teacher(self._array).channels)
            documents[schema.statistics_path(dataset.name, self._array)] = schema.small_array_document(
                shape, np.dtype(np.float64), ("type", "statistic", "channel")
            )
        if self._code is not None:
            tables = distortion_tables(dataset.name, self._array, channels=self._code.channels).values()
            documents |= {table.path: table.document for table in tables}
        for path, expected in documents.items():
            key = f"{path}/zarr.json"
            try:
                if dataset.storage.read(key) != expected:
                    self._add_problem(Kind.SEALED_DAMAGED, "it is not what seal writes", key=key)
            except FileNotFoundError:
                if self._status is not None:
                    self._add_problem(Kind.SEALED_DAMAGED, "it is absent", key=key)

    def _outdated(self, shard: int, fingerprint: int | None) -> bool:
        if self._record is None or len(self._record.fingerprints) != self._dataset.shards or fingerprint is None:
            return False
        return int(self._record.fingerprints[shard]) != (fingerprint or 1)

    def _compare_statistics(self) -> None:
        try:
            stored = self._dataset.statistics(self._array)
        except (errors.NotSealed, errors.Damaged) as error:
            self._add_problem(Kind.SEALED_DAMAGED, str(error))
            return
        channels = self._dataset.teacher(self._array).channels
        parts = self._parts or [statistics.stacked(None, statistics.empty(channels))]
        prefix, patch = statistics.from_stacked(statistics.merge_stacked(np.stack(parts)))
        for name, sealed, actual in (("prefix", stored.prefix, prefix), ("patch", stored.patch, patch)):
            if not statistics.agree(sealed, actual):
                message = f"sealed statistics of {name} tokens are not those of the trailers"
                self._add_problem(Kind.SEALED_STATISTICS_DIFFER, message)

    def _compare_distortion(self) -> None:
        """Compare the sealed distortion of a code with the trailers, and with what a code does that fits its tokens."""
        if self._distortion is None:
            return
        try:
            stored = self._dataset.distortion(self._array)
        except (errors.NotSealed, errors.Damaged) as error:
            self._add_problem(Kind.SEALED_DAMAGED, str(error))
            return
        if not stored.agrees(self._distortion):
            message = "sealed distortion is not that of the trailers"
            self._add_problem(Kind.SEALED_STATISTICS_DIFFER, message)
        elif stored.problem():
            exits = "Store this dataset as float16 tokens, or in a code that was fitted to images like these"
            message = f"the code does not fit these tokens: {stored.problem()}. {exits}"
            key = f"{schema.HIERARCHY}/{self._dataset.name}/{self._array}/distortion"
            self._add_problem(Kind.CODE_UNFIT, message, key=key)

    def _compare_counts(self) -> None:
        """Compare the counts of the record, which the next seal trusts, with the status."""
        differs = any(problem.kind is Kind.SEALED_STATUS_DIFFERS for problem in self.problems)
        if self._record is None or self._status is None or differs:
            return
        states = np.bincount(self._status, minlength=3)
        counts = {"ok": int(states[OK]), "failed": int(states[FAILED])}
        if self._record.counts != counts or len(self._record.fingerprints) != self._dataset.shards:
            message = f"record of the seal counts {self._record.counts}, the status {counts}"
            self._add_problem(Kind.SEALED_DAMAGED, message)

    def _compare_record(self) -> None:
        """Compare the manifest with its recorded sum; note where there is no such record."""
        where, storage = f"'{self._dataset.name}/{self._array}'", self._dataset.storage
        if self._record is None and storage.exists(schema.record_key(self._dataset.name, self._array)):
            return  # damaged, which is reported with the documents
        if self._record is None or not self._record.checked:
            lacks = "has no record of its seal" if self._record is None else "was sealed by an earlier version"
            exits = f"Run: codistill store seal {storage.location}"
            self.notes.append(f"{where} {lacks}: its metadata is not compared with what was sealed. {exits}")
        elif not self._record.tables:
            self.notes.append(f"{where}: a seal runs, or did not end. Run: codistill store seal {storage.location}")
        elif self._manifest is not None and not any(p.key == self._manifest.key for p in self.problems):
            sealed = seal_record.read_record(storage, dataset=self._dataset.name, array=self._array)  # the latest
            keys = [self._manifest.key] if sealed is not None and sealed.tables else []
            for key in seal_record.changed(storage, keys, sealed or self._record):
                message = "it is not the file that was sealed. Is a seal running? Then check again"
                self._add_problem(Kind.SEALED_DAMAGED, message, key=key)

    def _add_problem(
        self, kind: Kind, message: str, shard: int | None = None, rows: tuple[int, ...] = (), *, key: str = ""
    ) -> None:
        tables = {
            Kind.SEALED_STATISTICS_DIFFER: schema.statistics_path(self._dataset.name, self._array),
            Kind.SEALED_MANIFEST_DIFFERS: schema.manifest_key(self._dataset.name),
        }
        key = key or tables.get(kind, schema.status_path(self._dataset.name, self._array))
        self.problems.append(
            Problem(kind=kind, key=key, message=message, dataset=self._dataset.name, array=self._array, rows=rows)
        )


def sealed_keys(dataset: Dataset, array: str) -> Iterator[str]:
    """Yield the derived objects of an array, the record first: the others are not used without it."""
    yield schema.record_key(dataset.name, array)
    paths = [(schema.status_path(dataset.name, array), 1)]
    if array == PIXELS:
        yield schema.manifest_key(dataset.name)
    else:
        paths.append((schema.statistics_path(dataset.name, array), 3))
        code = dataset.teacher(array).code
        tables = {} if code is None else distortion_tables(dataset.name, array, channels=code.channels)
        paths += [(table.path, len(table.shape)) for table in tables.values()]
    for path, dimensions in paths:
        yield sealed_tables.small_array_key(path, dimensions)
        yield f"{path}/zarr.json"


class _SealedManifest:
    """The sealed manifest, read a few shards at a time.

    Attributes:
        key: its object.
        unreadable: error that kept it from being read; empty if there was none.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.key = schema.manifest_key(dataset.name)
        self._rows = range(0)
        self._table: pa.Table | None = None
        self.unreadable = ""

    def difference(self, rows: range, expected: pa.Table | None) -> str:
        """Return how the sealed rows of a shard differ from those of its trailer; empty if they are equal."""
        if self.unreadable or expected is None:
            return ""
        if rows.start not in self._rows:
            per_read = max(1, GROUP_ROWS // self._dataset.shard_rows) * self._dataset.shard_rows
            start = rows.start // per_read * per_read
            self._rows = range(start, start + per_read)
            within = (pc.field("row") >= start) & (pc.field("row") < start + per_read)
            try:
                self._table = self._dataset.manifest(filter=within)
            except (errors.NotSealed, errors.Damaged) as error:
                self.unreadable = str(error)
                return ""
        assert self._table is not None
        known = self._table["row"].to_numpy()
        first, last = np.searchsorted(known, (rows.start, rows.stop))
        sealed = self._table.slice(first, last - first)
        if sealed.replace_schema_metadata(None).equals(expected.replace_schema_metadata(None)):
            return ""
        return f"sealed manifest differs from the trailer in rows {rows.start}..{rows.stop - 1}"
