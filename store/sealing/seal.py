"""Sealing: collecting the trailers of all shards into one manifest, status and statistics; parallel, repeatable.

Sealed tables are derived: whatever the history of sealing, equal shards give equal bytes. A record of the trailers
that a seal was made from lets the next one skip unchanged arrays and reuse the manifest rows of known shards.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from store import errors
from store.cache import seal_record, sealed_tables
from store.cache.cache import Cache
from store.cache.cache import open as open_cache
from store.cache.dataset import Dataset
from store.cache.seal_record import Record
from store.common.text import some
from store.common.threads import IN_FLIGHT, ordered_map
from store.format import code_schema, schema
from store.format.distortion import KINDS
from store.format.layout import CHECKSUM_BYTES, checksum
from store.format.schema import FAILED, MISSING, OK, PIXELS
from store.format.statistics import coarse_channels
from store.format.trailer import Trailer
from store.sealing.collect import Collected, Digests, Fingerprints, collect_pixels, collect_tokens, read_fingerprints
from store.sealing.manifest_writer import ManifestFile
from store.storage.base import Location

THREADS = 16
LISTED = 5
SLOPE_TOLERANCE = 0.02  # of a dataset that the code was not fitted to


@dataclass(frozen=True, kw_only=True)
class ArrayReport:
    """State of one array after sealing.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shards: shards of the array.
        sealed_shards: shards that are sealed now.
        ok, failed, missing: number of rows.
        reasons: number of failed rows by kind of reason.
        changed: whether this seal wrote anything.
    """

    dataset: str
    array: str
    shards: int
    sealed_shards: int
    ok: int
    failed: int
    missing: int
    reasons: dict[str, int]
    changed: bool


@dataclass(frozen=True, kw_only=True)
class SealReport:
    """Result of a seal.

    Attributes:
        arrays: one report for each array, by dataset, pixels first.
        warnings: sentences for people.
        removed: keys of temporary objects of dead writers that were removed.
    """

    arrays: tuple[ArrayReport, ...]
    warnings: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True if no row of any array is missing."""
        return all(array.missing == 0 for array in self.arrays)


def seal(cache_or_location: Cache | Location, progress: bool = False) -> SealReport:
    """Write manifests, status and statistics from the shards that exist; remove temporary objects of dead writers.

    May be repeated at any time; does nothing for unchanged arrays.

    Args:
        cache_or_location: an open cache, a path or a URL.
        progress: show a progress bar.

    Raises:
        errors.Damaged: shards do not belong where they are, or tokens were computed from other pixels than are stored:
            they are left out (their rows stay missing) and listed. Or the documents of an array are not those that were
            sealed: the array is left out. Everything else is sealed.
    """
    cache = cache_or_location if isinstance(cache_or_location, Cache) else open_cache(cache_or_location)
    reports: list[ArrayReport] = []
    warnings: list[str] = []
    problems: list[str] = []
    removed = cache.storage.sweep()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="codistill-seal") as pool:
        for dataset in cache.parts():
            digests: Digests | None = None
            for array in (PIXELS, *dataset.teachers):
                try:
                    if dataset.array(array).layout is None:
                        continue  # not written by codistill: it has no trailers to collect
                    sealer = _ArraySealer(dataset, array, pool=pool, pixels_digests=digests, progress=progress)
                except errors.Damaged as error:
                    problems.append(str(error))
                    continue
                reports.append(sealer.run())
                problems += sealer.problems
                digests = sealer.digests if array == PIXELS else digests
                if array != PIXELS and reports[-1].ok:
                    warnings += [*_rounding_warnings(dataset, array), *_slope_warnings(dataset, array)]
    if problems:
        command = f"codistill store verify {cache.location} --repair"
        message = f"left out of the seal: {len(problems)}. {some(problems, limit=LISTED, separator='; ')}"
        raise errors.Damaged(f"{message}. The rest is sealed. Run: {command}")
    return SealReport(arrays=tuple(reports), warnings=tuple(warnings), removed=tuple(removed))


class _ArraySealer:
    """Seals one array of one dataset.

    Attributes:
        problems: sentences about shards left out.
        digests: digests of the pixel shards sealed (for tokens, of those they were computed from).
    """

    def __init__(
        self,
        dataset: Dataset,
        array: str,
        *,
        pool: ThreadPoolExecutor,
        pixels_digests: Digests | None,
        progress: bool,
    ) -> None:
        self._dataset, self._array, self._pool, self._progress = dataset, array, pool, progress
        self._storage = dataset.storage
        self._pixels_digests = pixels_digests
        self._code = None if array == PIXELS else dataset.teacher(array).code
        if self._code is not None:
            dataset.code(array)  # its sums are recorded: it must be the one that the rows are stored in
        self._status_path = schema.status_path(dataset.name, array)
        self.problems: list[str] = []
        self.digests: Digests = np.zeros((dataset.shards, seal_record.DIGEST_BYTES), np.uint8)

    def run(self) -> ArrayReport:
        """Seal the array if any shard changed since the last seal."""
        fingerprints = read_fingerprints(self._dataset, self._array, pool=self._pool)
        stored = seal_record.trusted_record(self._storage, dataset=self._dataset.name, array=self._array)
        if stored is not None and self._documents_changed(stored):
            self.digests = stored.pixels_digests
            return self._report(Collected.empty(self._dataset), changed=False)
        record = stored if stored is not None and self._usable(stored) else None
        known = Collected.empty(self._dataset)
        if record is not None:
            known.fingerprints, known.digests = record.fingerprints, record.pixels_digests
            known.status = self._dataset.status(self._array).copy()
            known.reasons = Counter(record.reasons)
            present = fingerprints != 0
            pixels = known.digests if self._pixels_digests is None else self._pixels_digests
            same_pixels = np.array_equal(known.digests[present], pixels[present])
            if same_pixels and np.array_equal(known.fingerprints, fingerprints):
                self.digests = known.digests
                return self._report(known, changed=False)
            if self._array == PIXELS and not self._manifest_as_sealed(record):
                known = Collected.empty(self._dataset)  # its rows must not be copied
        elif not fingerprints.any() and not self._storage.exists(sealed_tables.small_array_key(self._status_path, 1)):
            return self._report(known, changed=False)
        collected = self._seal_pixels(fingerprints, known) if self._array == PIXELS else self._seal_tokens(fingerprints)
        self.problems, self.digests = collected.problems, collected.digests
        return self._report(collected, changed=True)

    def _seal_pixels(self, fingerprints: Fingerprints, known: Collected) -> Collected:
        dataset = self._dataset
        with ManifestFile(self._storage, dataset=dataset.name, shard_rows=dataset.shard_rows) as manifest:
            collected = collect_pixels(dataset, fingerprints, known=known, manifest=manifest, trailers=self._trailers)
            self._withdraw_record()
            sha256 = {schema.manifest_key(dataset.name): manifest.publish()}
            collected.reasons = manifest.reasons
        mark = sealed_tables.manifest_mark(self._storage, dataset.name)
        self._write_tables(collected, {"manifest": mark}, sha256)
        return collected

    def _seal_tokens(self, fingerprints: Fingerprints) -> Collected:
        collected = collect_tokens(
            self._dataset, self._array, fingerprints, pixels_digests=self._pixels_digests, trailers=self._trailers
        )
        assert collected.moments is not None
        path = schema.statistics_path(self._dataset.name, self._array)
        mark = sealed_tables.write_small_array(
            self._storage, path, collected.moments, names=("type", "statistic", "channel")
        )
        marks = {"statistics": mark}
        if collected.distortion is not None:
            marks |= sealed_tables.write_distortion(
                self._storage, collected.distortion, dataset=self._dataset.name, teacher=self._array
            )
        self._write_tables(collected, marks, {})
        return collected

    def _write_tables(self, collected: Collected, tables: dict[str, str], sha256: dict[str, str]) -> None:
        """Write the status, then the record that makes all tables valid and knows the documents by their sums."""
        tables["status"] = sealed_tables.write_small_array(
            self._storage, self._status_path, collected.status, names=("row",)
        )
        states = np.bincount(collected.status, minlength=3)
        record = Record(
            fingerprints=collected.fingerprints,
            pixels_digests=collected.digests,
            counts={"ok": int(states[OK]), "failed": int(states[FAILED])},
            reasons=dict(sorted(collected.reasons.items())),
            tables=tables,
            sha256=sha256 | seal_record.sums(self._storage, self._documents()),
        )
        self._storage.replace(schema.record_key(self._dataset.name, self._array), record.encode())

    def _withdraw_record(self) -> None:
        """Let the record say nothing of tables: no reader may compare a new manifest with the mark of the old one."""
        names = {"dataset": self._dataset.name, "array": self._array}
        record = seal_record.trusted_record(self._storage, **names)
        if record is not None:
            documents = {key: value for key, value in record.sha256.items() if key in self._documents()}
            withdrawn = replace(record, tables={}, sha256=documents)
            self._storage.replace(schema.record_key(**names), withdrawn.encode())

    def _documents(self) -> tuple[str, ...]:
        names = self._dataset.name, self._array
        derived = seal_record.derived_documents_of(*names, coded=self._code is not None)
        return seal_record.documents_of(*names, self._code) + derived

    def _documents_changed(self, record: Record) -> bool:
        """Return whether a document is not the one that was sealed, which nothing but damage changes; note which."""
        keys = seal_record.documents_of(self._dataset.name, self._array, self._code)
        changed = seal_record.changed(self._storage, [key for key in keys if key in record.sha256], record)
        where = f"'{self._dataset.name}/{self._array}'"
        self.problems += [f"{where}: '{key}' is not the document that was sealed" for key in changed]
        return bool(changed)

    def _manifest_as_sealed(self, record: Record) -> bool:
        return not seal_record.changed(self._storage, [schema.manifest_key(self._dataset.name)], record)

    def _usable(self, record: Record) -> bool:
        """Return whether the record of the last seal describes the tables in place."""
        names = self._dataset.name, self._array
        derived = seal_record.derived_documents_of(*names, coded=self._code is not None)
        if len(record.fingerprints) != self._dataset.shards or seal_record.changed(self._storage, derived, record):
            return False
        paths = {"status": (self._status_path, 1)}
        if self._code is not None:
            channels = self._code.channels
            tables = code_schema.distortion_tables(*names, channels=channels)
            paths |= {name: (table.path, len(table.shape)) for name, table in tables.items()}
        if self._array != PIXELS:
            paths["statistics"] = (schema.statistics_path(self._dataset.name, self._array), 3)
        elif record.tables.get("manifest") != sealed_tables.manifest_mark(self._storage, self._dataset.name):
            return False
        for table, (path, dimensions) in paths.items():
            try:
                data = self._storage.read(sealed_tables.small_array_key(path, dimensions))
            except FileNotFoundError:
                return False
            crc = data[-CHECKSUM_BYTES:]
            if crc.hex() != record.tables.get(table) or checksum(data[:-CHECKSUM_BYTES]) != int.from_bytes(
                crc, "little"
            ):
                return False
        return True

    def _trailers(self, shards: list[int]) -> Iterator[tuple[int, Trailer | errors.Damaged]]:
        name = f"{self._dataset.name}/{self._array}"
        read = ordered_map(self._pool, self._read_trailer, shards, ahead=IN_FLIGHT)
        trailers = zip(shards, read, strict=True)
        return iter(tqdm(trailers, total=len(shards), desc=f"seal {name}", unit="shard", disable=not self._progress))

    def _read_trailer(self, shard: int) -> Trailer | errors.Damaged:
        try:
            return self._dataset.read_trailer(self._array, shard)
        except errors.Damaged as error:
            return error

    def _report(self, collected: Collected, *, changed: bool) -> ArrayReport:
        states = np.bincount(collected.status, minlength=3)
        return ArrayReport(
            dataset=self._dataset.name,
            array=self._array,
            shards=self._dataset.shards,
            sealed_shards=int(np.count_nonzero(collected.fingerprints)),
            ok=int(states[OK]),
            failed=int(states[FAILED]),
            missing=int(states[MISSING]),
            reasons=dict(sorted(collected.reasons.items())),
            changed=changed,
        )


def _rounding_warnings(dataset: Dataset, teacher: str) -> list[str]:
    statistics = dataset.statistics(teacher)
    warnings = []
    for kind, moments in (("prefix", statistics.prefix), ("patch", statistics.patch)):
        channels = [] if moments is None else coarse_channels(moments).tolist()
        if channels:
            listed = some(channels, limit=LISTED)
            message = f"float16 rounding exceeds 1 % of the standard deviation of {kind} tokens in channels {listed}"
            warnings.append(f"'{dataset.name}/{teacher}': {message}")
    return warnings


def _slope_warnings(dataset: Dataset, teacher: str) -> list[str]:
    """Warn of a dataset whose decoded tokens are not true to scale: the code was fitted to others."""
    if dataset.teacher(teacher).code is None:
        return []
    sealed = dataset.distortion(teacher)
    problems = (sealed.slope_problem(kind, tolerance=SLOPE_TOLERANCE) for kind in KINDS)
    return [
        f"'{dataset.name}/{teacher}': {problem}: its code does not quite fit these images"
        for problem in problems
        if problem
    ]
