"""Metadata of strangers: whatever a document says, every reader gives a good answer or one error of ours, in bounds.

Values of every document are changed to other types and sizes, behind a right checksum: whoever can write a cache can
write a checksum. Memory is bounded for the whole of it, so that a claim that is believed fails the test.
"""

import contextlib
import io
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import store
from store import errors
from store.cache import seal_record
from store.format import manifest, schema, tables, trailer
from store.format.layout import checksum
from store.inspection.info import inspect
from store.verify.report import check_and_repair
from tests.store import caches
from tests.store.caches import DATASETS, TEACHERS

FEATURES = "features.zarr"
MUTATIONS = 10  # of each document; raise it to search further
HEADROOM_BYTES = 2**32  # above what the process has: threads reserve much; hostile sizes are far beyond
DEEP = "@deep"
LITERALS: dict[str, bytes] = {  # what json.dumps cannot or should not write
    DEEP: b"[" * 10_000 + b"]" * 10_000,
    "@nan": b"NaN",
    "@infinite": b"1e999",
    "@endless": b"1" + b"0" * 400,
    "@half": b'"\\ud800"',
    "@twice": b'{"a": 1, "a": 2}',
}
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        [],
        {},
        [[]],
        {"a": {}},
        [None],
        "",
        "x",
        "../../..",
        "\x1b[2J",
        -1,
        0,
        3.5,
        2**31,
        10**12,
        2**63,
        2**70,
    ),
    *LITERALS,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed cache with one dataset of three shards, and a failed row."""
    root = tmp_path_factory.mktemp("whole") / "cache"
    caches.make_cache(root, DATASETS[:1], TEACHERS[:1])
    return root


@pytest.fixture
def cache(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Victim":
    """A copy that can be damaged and restored; nothing is synced and nothing can be recomputed."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)
    monkeypatch.setattr("store.verify.recompute.entry_points", lambda group: [])
    monkeypatch.setattr("store.verify.documents.MAX_DOCUMENT_BYTES", 0)  # trying every bit takes a second each time
    victim = Victim(tmp_path / "cache", {str(p.relative_to(whole)): p.read_bytes() for p in files_below(whole)})
    victim.restore()
    assert list(victim.use_all()) == []
    return victim


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Victim:
    """A cache whose files are damaged one after another."""

    def __init__(self, root: Path, contents: dict[str, bytes]) -> None:
        self.root, self.contents = root, contents

    def restore(self) -> None:
        for path in files_below(self.root):
            name = str(path.relative_to(self.root))
            if name not in self.contents:
                path.unlink()
        for name, data in self.contents.items():
            path = self.root / name
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def check(self, changes: dict[str, bytes], what: str) -> list[str]:
        """Write damaged files, use the cache in every way, restore it; return what failed otherwise than it may."""
        for name, data in changes.items():
            (self.root / name).write_bytes(data)
        failures = [f"{what}: {failure}" for failure in self.use_all()]
        self.restore()
        return failures

    def use_all(self) -> Iterator[str]:
        """Call every reader; yield the exceptions that are not ours. Those that write come last."""
        for name, call in READERS.items():
            try:
                call(self.root)
            except errors.CodistillError as error:
                if not str(error):
                    yield f"{name}: an error without a message"
            except Exception as error:
                yield f"{name}: {type(error).__name__}: {str(error)[:200]}"


def read_rows(root: Path) -> None:
    for dataset in store.open(root):
        dataset.image_list()
        for name in dataset.teachers:
            dataset.teacher(name)
            dataset.read([0, 1, 8], ["pixels", name])
            dataset.read_shard(name, 0)
        dataset.read_shard("pixels", 0)


def read_tables(root: Path) -> None:
    for dataset in store.open(root):
        dataset.valid_rows(dataset.teachers)
        dataset.pixels_digests()
        for name in dataset.teachers:
            dataset.statistics(name)
        dataset.manifest()


def repair(root: Path) -> None:
    check_and_repair(
        root, quick=False, confirm=lambda _: True, catalogue=None, device="cpu", progress=False, say=lambda _: None
    )


READERS: dict[str, Callable[[Path], object]] = {
    "rows": read_rows,
    "tables": read_tables,
    "info": lambda root: inspect(store.open(root)),
    "seal": store.seal,
    "verify and repair": repair,
}


def files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON document, the document itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = json.loads(json.dumps(document))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def text_of(value: Any, *, indent: int | None = None) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=indent, separators=None if indent else (",", ":")).encode()
    for name, literal in LITERALS.items():
        text = text.replace(f'"{name}"'.encode(), literal)
    return text


def signed(document: Any) -> bytes:
    """Return a zarr.json whose checksum holds, if it has one."""
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or schema.CHECKSUM_ATTRIBUTE not in attributes:
        return text_of(document, indent=2)
    unset = text_of(with_value(document, ("attributes", schema.CHECKSUM_ATTRIBUTE), schema.UNSET_CHECKSUM), indent=2)
    crc = f'"{schema.CHECKSUM_ATTRIBUTE}": "{checksum(unset):08x}"'
    return unset.replace(f'"{schema.CHECKSUM_ATTRIBUTE}": "{schema.UNSET_CHECKSUM}"'.encode(), crc.encode())


def mutations(document: Any, chance: random.Random) -> Iterator[tuple[str, Any]]:
    """Yield (description, document) with another value in place of some of the values."""
    paths = list(paths_in(document))
    for path in chance.sample(paths, min(len(paths), MUTATIONS)):
        value = chance.choice(VALUES)
        yield f"{'.'.join(map(str, path))} = {value!r}", with_value(document, path, value)


def test_values_of_every_document(cache: Victim) -> None:
    chance = random.Random(0)
    failures = []
    for name in [name for name in cache.contents if name.endswith("zarr.json")]:
        document = json.loads(cache.contents[name])
        for what, changed in mutations(document, chance):
            failures += cache.check({name: signed(changed)}, f"{name}: {what}")
    assert failures == []


def test_bytes_that_are_no_document(cache: Victim) -> None:
    chance = random.Random(1)
    failures = []
    for name, data in cache.contents.items():
        if name.rpartition("/")[2].startswith("c."):
            continue
        junks = (b"", b"\xff\xfe{}", data[: chance.randrange(len(data))], chance.randbytes(len(data)), data + b"\0")
        for junk in chance.sample(junks, min(len(junks), MUTATIONS // 5)):
            failures += cache.check({name: junk}, f"{name}: {junk[:20]!r}")
    assert failures == []


def blob_of(header: Any, body: bytes) -> bytes:
    text = text_of(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def with_texts_parsed(header: dict[str, Any]) -> dict[str, Any]:
    """Return a safetensors header in which the JSON texts of the metadata are values, so that they are changed too."""
    metadata = header["__metadata__"]
    parsed = {name: json.loads(text) if text.startswith("{") else text for name, text in metadata.items()}
    return {**header, "__metadata__": parsed}


def with_texts(header: Any) -> Any:
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return header
    texts = {n: text_of(v).decode() if isinstance(v, dict | list) else v for n, v in metadata.items()}
    return {**header, "__metadata__": texts}


def blob_mutations(blob: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    length = int.from_bytes(blob[:8], "little")
    header, body = json.loads(blob[8 : 8 + length]), blob[8 + length :]
    for what, changed in mutations(with_texts_parsed(header), chance):
        yield what, blob_of(with_texts(changed), body)
    for stated in (0, 2**20, 2**60, 2**64 - 1):
        yield f"header of {stated} bytes", stated.to_bytes(8, "little") + blob[8:]
    for name in ("moments", "crc32c", "status", "manifest", "fingerprints"):
        if name in header:
            start, stop = header[name]["data_offsets"]
            noise = chance.randbytes(stop - start)
            yield f"{name} of random bytes", blob[: 8 + length + start] + noise + blob[8 + length + stop :]


@pytest.mark.parametrize("array", ["pixels", "dino"])
def test_values_of_a_trailer(cache: Victim, array: str) -> None:
    dataset = store.open(cache.root)["flowers"]
    node = dataset.array(array)
    assert node.layout is not None
    name, slots, index_bytes = node.shard_key(0), node.layout.slots_bytes(0), node.layout.index_bytes
    data, failures = cache.contents[name], []
    blob = data[slots : -index_bytes - trailer.ENDING.size]
    for what, changed in blob_mutations(blob, random.Random(2)):
        ending = trailer.ENDING.pack(len(changed), checksum(changed))
        failures += cache.check({name: data[:slots] + changed + ending + data[-index_bytes:]}, f"{name}: {what}")
    assert failures == []


@pytest.mark.parametrize("array", ["pixels", "dino"])
def test_values_of_a_seal_record(cache: Victim, array: str) -> None:
    name = schema.record_key("flowers", array)
    failures = []
    for what, changed in blob_mutations(cache.contents[name], random.Random(3)):
        (crc,) = seal_record.CHECKSUM.findall(changed) or [b"0" * 8]
        unset = changed.replace(b'"crc32c":"%s"' % crc, seal_record.UNSET_CHECKSUM, 1)
        right = unset.replace(seal_record.UNSET_CHECKSUM, b'"crc32c":"%08x"' % checksum(unset), 1)
        failures += cache.check({name: right}, f"{name}: {what}")
    assert failures == []


def claim(
    cache: Victim, *, images: int = 5, views: int = 2, shard_rows: int = 4, channels: int = 6
) -> dict[str, bytes]:
    """Return documents that agree with one another on sizes that no file has."""
    root, base = json.loads(cache.contents[f"{FEATURES}/zarr.json"]), f"{FEATURES}/flowers"
    root["attributes"]["codistill"]["recipe"]["shard_rows"] = shard_rows
    dataset = json.loads(cache.contents[f"{base}/zarr.json"])
    dataset["attributes"]["codistill"] |= {"images": images, "views": views, "rows": images * views}
    documents = {f"{FEATURES}/zarr.json": signed(root), f"{base}/zarr.json": signed(dataset)}
    for name, row in (("pixels", (28, 28, 3)), ("dino/tokens", (5, channels))):
        document = json.loads(cache.contents[f"{base}/{name}/zarr.json"])
        own = {key: value for key, value in document["attributes"]["codistill"].items() if key != "layout"}
        with contextlib.suppress(errors.CodistillError):  # what cannot be rendered stays
            documents[f"{base}/{name}/zarr.json"] = schema.array_document(
                shape=(images * views, *row),
                dtype=np.dtype(document["data_type"]),
                dimension_names=document["dimension_names"],
                shard_rows=shard_rows,
                attributes=own,
            )
    return documents


FITTING = {"shard_rows": 2**20}  # the rows are where they would be


@pytest.mark.parametrize(
    "claims",
    [
        {"images": 10**12},
        {"images": 10**9},
        {"images": 300_000},
        {"views": 10**6},
        {"views": 60_000},
        {"shard_rows": 10**12},
        FITTING,
        {"channels": 10**9},
        {"channels": 50_000_000},
    ],
    ids=str,
)
def test_sizes_that_no_file_has(cache: Victim, claims: dict[str, int]) -> None:
    assert cache.check(claim(cache, **claims), str(claims)) == []
    if claims != FITTING:
        for name, data in claim(cache, **claims).items():
            (cache.root / name).write_bytes(data)
        with pytest.raises(errors.CodistillError):
            store.open(cache.root)["flowers"].read([0], ["pixels", "dino"])


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def repeating_text(length: int, *, groups: int) -> bytes:
    """Return a small Parquet file of one column, in which a long text stands in 1024 rows of each row group."""
    sink = io.BytesIO()
    table = pa.table({"path": ["x" * length] * 1024})
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(table)
    return sink.getvalue()


def test_tables_that_are_not_what_they_should_be(cache: Victim) -> None:
    """Other columns and types, a text that a dictionary repeats, and rows that only the file's end claims."""
    table = manifest.parse_images(cache.contents["images/flowers.parquet"], images=5, where="it")
    bomb = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**6, np.int32)), pa.array(["x" * 10**6]))
    rows = pa.array(np.arange(10**6))
    repeated = repeating_text(2**16, groups=8)
    images = {
        "no columns": pa.table({}),
        "numbers for paths": table.set_column(1, "path", pa.array(range(5))),
        "other rows": table.slice(2),
        "dictionary": pa.table({"image_index": rows, "path": bomb, "bytes": rows}),
    }
    failures = []
    for what, data in {**{what: parquet(table) for what, table in images.items()}, "bomb": repeated}.items():
        failures += cache.check({"images/flowers.parquet": data, "manifest/flowers.parquet": data}, what)
    assert failures == []
    with pytest.raises(errors.Damaged, match="its texts take more than"):
        tables.read_bytes(repeated, tables.Claim(schema=pa.schema([("path", pa.string())])), where="it")
    assert len(repeated) < 10_000
    shared = {name: cache.contents[name] for name in ("images/flowers.parquet", "manifest/flowers.parquet")}
    ends = [data[:-12] + b"\xff\xff\xff\x7f" * 2 + b"PAR1" for data in shared.values()]
    assert cache.check(dict(zip(shared, ends, strict=True)), "end") == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize("name", [f"{FEATURES}/flowers/zarr.json", f"{FEATURES}/flowers/pixels/c.0.0.0.0"])
def test_what_is_no_regular_file_is_not_waited_for(cache: Victim, kind: str, name: str) -> None:
    path = cache.root / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(errors.CodistillError, match=f"'{name}' below .* is not a regular file|cut short"):
        store.open(cache.root)["flowers"].read([0], ["pixels"])
    assert list(cache.use_all()) == []
