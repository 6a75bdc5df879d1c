"""One suite for every kind of location: a file system, this process's memory, and S3 (moto's server)."""

import io
import os
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import obstore
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import ObjectStore

import store
from store import errors
from store.format import schema
from store.inspection.info import inspect
from store.storage.base import Storage
from store.storage.location import open_storage
from store.storage.object_client import Address, memory_store
from store.verify.repair import repair
from store.verify.verify import verify
from tests.store import caches
from tests.store.builders import (
    add_teacher,
    fill,
    make_dataset,
    pixels_of,
    read_rows,
    tokens_of,
    write_pixels,
    write_tokens,
)
from tests.store.s3_server import S3

BAD_PIXELS, BAD_TOKENS = {3}, {3, 5}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A location, and a way to its bytes that passes by our code: `download` copies every object into a folder."""

    location: str
    download: Callable[[Path], None]


@pytest.fixture(params=["file", "memory", "s3"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        yield Kind(location=s3.location, download=s3.download)
    elif request.param == "memory":
        name = f"{request.node.name}/{os.getpid()}"
        yield Kind(location=f"memory://{name}", download=lambda folder: download_memory(name, folder))
    else:
        place = tmp_path / "cache"
        yield Kind(location=str(place), download=lambda folder: download_files(place, folder))


def download_memory(name: str, folder: Path) -> None:
    client = memory_store(name)
    for entry in obstore.list(client).collect():
        write(folder / entry["path"], bytes(obstore.get(client, entry["path"]).bytes()))


def download_files(place: Path, folder: Path) -> None:
    for path in place.rglob("*"):
        if path.is_file():
            write(folder / path.relative_to(place), path.read_bytes())


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_round_trip(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.cache.cache.uuid", SimpleNamespace(uuid4=lambda: "of both caches"))
    dataset = make_dataset(kind.location)
    for shard in (0, 2):
        assert write_pixels(dataset, shard, BAD_PIXELS)
        assert write_tokens(dataset, shard, BAD_TOKENS)
    assert not store.seal(kind.location).complete
    with pytest.raises(errors.MissingShard, match="extract run"):
        dataset.read_shard("t", 1)
    assert write_pixels(dataset, 1, BAD_PIXELS)
    assert not write_pixels(dataset, 1)
    assert write_tokens(dataset, 1, BAD_TOKENS)
    report = store.seal(kind.location)
    assert report.complete
    assert [array.changed for array in store.seal(kind.location).arrays] == [False, False]

    cache = store.open(kind.location)
    dataset = pickle.loads(pickle.dumps(cache["bedlam"]))
    good = [row for row in range(10) if row not in BAD_TOKENS]
    assert dataset.valid_rows(["t"]).tolist() == good
    rows = [9, 0, 4, 4, 1]
    batch = dataset.read(rows, ["pixels", "t"])
    np.testing.assert_array_equal(batch["pixels"], [pixels_of(row) for row in rows])
    np.testing.assert_array_equal(batch["t"], [tokens_of(row) for row in rows])
    np.testing.assert_array_equal(dataset.read_shard("t", 2).data, [tokens_of(8), tokens_of(9)])
    assert dataset.manifest(columns=["row"], filter=pc.field("status") == 2)["row"].to_pylist() == [3]
    assert dataset.image_list().num_rows == 5
    (described,) = inspect(cache).datasets
    assert [(array.ok, array.failed, array.missing) for array in described.arrays] == [(9, 1, 0), (8, 2, 0)]

    add_teacher(dataset, "u")
    dataset.delete_teacher("u")
    kind.download(tmp_path / "copy")
    check_with_other_readers(tmp_path / "copy")
    same = make_dataset(tmp_path / "same")
    fill(same, failed_pixels=BAD_PIXELS, failed_tokens=BAD_TOKENS)
    store.seal(tmp_path / "same")
    assert tree(tmp_path / "copy") == tree(tmp_path / "same")

    cache.delete_dataset("bedlam")
    assert cache.datasets == ()


def check_with_other_readers(folder: Path) -> None:
    root = zarr.open_group(folder / "features.zarr", mode="r")
    pixels, tokens = root["bedlam/pixels"][:], root["bedlam/t/tokens"][:]
    for row in range(10):
        np.testing.assert_array_equal(pixels[row], 0 if row in BAD_PIXELS else pixels_of(row))
        np.testing.assert_array_equal(tokens[row], np.nan if row in BAD_TOKENS else tokens_of(row))
    assert root["bedlam/t/status"][:].tolist() == [2 if row in BAD_TOKENS else 1 for row in range(10)]
    manifest = pq.read_table(folder / "manifest/bedlam.parquet", page_checksum_verification=True)
    assert manifest["row"].to_pylist() == list(range(10))


def test_pixels_stored_as_jpeg(kind: Kind, tmp_path: Path) -> None:
    cache = caches.make_cache(kind.location, caches.DATASETS[:1], caches.TEACHERS[:1], jpeg=True)
    local = caches.make_cache(tmp_path / "local", caches.DATASETS[:1], caches.TEACHERS[:1], jpeg=True)
    dataset, rows = cache["flowers"], [9, 0, 0, 1, 2, 5]
    for names in (["pixels"], ["pixels", "dino"]):
        ours, theirs = (d.read([r for r in rows if r != 9], names) for d in (dataset, local["flowers"]))
        assert all(np.array_equal(ours[name], theirs[name]) for name in names)
    assert dataset.read(rows, ["pixels"], verify=False)["pixels"].shape == (6, 28, 28, 3)
    assert verify(kind.location).ok
    assert inspect(cache).datasets[0].arrays[0].stored_bytes == inspect(local).datasets[0].arrays[0].stored_bytes
    kind.download(tmp_path / "copy")
    assert verify(tmp_path / "copy").ok


def test_codes_on_every_kind_of_location(kind: Kind, tmp_path: Path) -> None:
    local = caches.make_cache(tmp_path / "local", caches.DATASETS[:1], caches.CODED_TEACHERS)
    cache = caches.make_cache(kind.location, caches.DATASETS[:1], caches.CODED_TEACHERS)
    dataset, rows = pickle.loads(pickle.dumps(cache["flowers"])), [9, 0, 4, 4, 1, 2]
    for raw in (True, False):
        ours, theirs = (d.read(rows, ["vit", "part"], raw=raw) for d in (dataset, local["flowers"]))
        np.testing.assert_array_equal(ours["vit"], theirs["vit"])
        np.testing.assert_array_equal(ours["part"], theirs["part"])
    assert verify(kind.location).ok
    kind.download(tmp_path / "copy")
    ours, theirs = tree(tmp_path / "copy"), tree(tmp_path / "local")
    assert {key for key in ours | theirs if ours.get(key) != theirs.get(key)} <= {
        "features.zarr/zarr.json",  # its uuid, which seals record the sum of
        *(f"seal/flowers.{array}.safetensors" for array in ("pixels", "vit", "part")),
    }
    key = "features.zarr/flowers/vit/code/mean/c.0.0"
    mean = cache.storage.read(key)
    cache.storage.replace(key, mean[:9] + bytes([mean[9] ^ 4]) + mean[10:])
    assert [problem.kind.value for problem in verify(kind.location).problems] == ["code_damaged"]
    assert repair(kind.location, verify(kind.location)).documents == [key]
    assert cache.storage.read(key) == mean
    dataset.delete_teacher("vit")
    assert list(cache.storage.list_directories("features.zarr/flowers/vit")) == []


def test_storage(kind: Kind) -> None:
    storage = open_storage(kind.location)
    assert list(storage.list_objects("a")) == list(storage.list_directories("a")) == []
    assert storage.put_if_absent("a/one", b"0123456789")
    assert not storage.put_if_absent("a/one", b"other")
    storage.replace("a/b/two", b"old")
    storage.replace("a/b/two", b"new")
    assert {(entry.name, entry.size_bytes) for entry in storage.list_objects("a")} == {("one", 10)}
    assert list(storage.list_directories("a")) == ["b"]
    assert list(storage.list_objects("a/o")) == []
    assert (storage.read("a/one"), storage.read("a/one", 7), storage.read("a/one", 10)) == (b"0123456789", b"789", b"")
    assert (storage.read_last("a/one", 3), storage.read_last("a/one", 99)) == (b"789", b"0123456789")
    assert (storage.size("a/one"), storage.exists("a/one"), storage.exists("a/on")) == (10, True, False)
    check_positional_reads(storage)

    storage.move("a/one", "quarantine/one")
    assert (storage.exists("a/one"), storage.read("quarantine/one")) == (False, b"0123456789")
    storage.delete("quarantine/one")
    storage.delete("quarantine/one")
    storage.replace("a/zarr.json", b"{}")
    storage.replace("a/b/zarr.json", b"{}")
    storage.delete_all("a/b")
    assert storage.exists("a/zarr.json")
    assert not storage.exists("a/b/zarr.json")
    for missing in (
        lambda: storage.read("none"),
        lambda: storage.read_last("none", 3),
        lambda: storage.size("none"),
        lambda: storage.arrow_file("none"),
        lambda: storage.move("none", "some"),
        lambda: read_into(storage, "none", 0, [bytearray(1)]),
    ):
        with pytest.raises(FileNotFoundError):
            missing()


def check_positional_reads(storage: Storage) -> None:
    first, second = bytearray(3), np.zeros(4, np.uint8)
    assert read_into(storage, "a/one", 2, [first, second]) == 7
    assert bytes(first) + second.tobytes() == b"2345678"
    assert read_into(storage, "a/one", 8, [first, second]) == 2
    assert (bytes(first[:2]), read_into(storage, "a/one", 10, [first])) == (b"89", 0)
    with storage.arrow_file("a/one") as file:
        file.seek(-3, io.SEEK_END)
        assert (file.size(), file.read(2), file.tell(), file.read_at(4, 1)) == (10, b"78", 9, b"1234")


def read_into(storage: Storage, key: str, offset: int, buffers: list[bytearray | np.ndarray]) -> int:
    with storage.open_object(key) as source:
        return source.read_into(buffers, offset, sum(len(buffer) for buffer in buffers))


def test_first_publisher_wins(kind: Kind) -> None:
    storage = open_storage(kind.location)
    early, late, gone = (storage.create("a/c.0") for _ in range(3))
    late.write([b"la", np.frombuffer(b"te", np.uint8)], 0)
    early.write([b"x"], 0)
    early.write([b"y"], 4)
    gone.write([b"gone"], 0)
    gone.discard()
    assert not storage.exists("a/c.0")
    assert (early.publish(), late.publish()) == (True, False)
    assert storage.read("a/c.0") == b"x\0\0\0y"
    table = storage.create_replacement("a/c.0")
    table.write([b"sealed again"], 0)
    assert table.publish()
    assert storage.read("a/c.0") == b"sealed again"


def test_arrays_of_others_are_read_through_zarr(kind: Kind) -> None:
    values = np.arange(5 * 6, dtype=np.int32).reshape(5, 2, 3)
    storage = open_storage(kind.location)
    memory: dict[str, zarr.core.buffer.Buffer] = {}
    zarr.create_array(
        memory, name="theirs", shape=values.shape, dtype="int32", chunks=(2, 2, 3), compressors=[ZstdCodec()]
    )[:] = values
    for key, buffer in memory.items():
        storage.replace(key, buffer.to_bytes())
    node = schema.parse_array("theirs", storage.read("theirs/zarr.json"))
    assert node.layout is None
    np.testing.assert_array_equal(read_rows(storage, node, [4, 0, 0]), values[[4, 0, 0]])


def test_writing_holds_one_copy_of_a_shard() -> None:
    storage, row = open_storage("memory://large"), np.zeros(2**20, np.uint8)
    tracemalloc.start()
    sink = storage.create("c.0")
    for number in range(32):
        sink.write([row, b"crc "], number * (2**20 + 4))
    assert sink.publish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * storage.size("c.0")


def test_memory_is_shared_by_name() -> None:
    make_dataset("memory://one")
    assert store.open("memory://one").datasets == ("bedlam",)
    assert zarr.open_group(ObjectStore(memory_store("one")), path="features.zarr", mode="r")["bedlam/pixels"].ndim == 4
    with pytest.raises(errors.MissingCache, match="memory://other"):
        store.open("memory://other")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://AKIAKEY:topsecret/x@bucket/cache", r"credentials.*Give s3://BUCKET/PREFIX and set AWS_ACCESS_KEY_ID"),
        ("s3://AKIAKEY:topsecret", "credentials"),
        ("az://box/cache?sv=1&sig=topsecret", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("gs://bucket/cache#topsecret", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3:/AKIAKEY:topsecret@bucket/cache", "lost a slash"),
        ("https://topsecret@host/cache", r"'https://' is not supported.*s3://"),
        ("s3://", "names no bucket"),
        ("s3://bucket/a//b", "names no bucket"),
        ("gs://bucket/../b", "names no bucket"),
    ],
)
def test_locations_that_are_refused(location: str, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message) as refused:
        store.open(location)
    assert "topsecret" not in str(refused.value)
    assert "AKIAKEY" not in str(refused.value)


def test_locations_that_are_taken() -> None:
    assert Address.parse("s3://bucket") == Address(scheme="s3", container="bucket", prefix="")
    assert Address.parse("az://box/a/b c/") == Address(scheme="az", container="box", prefix="a/b c")
    assert Address.parse("memory://a/b").container == "a/b"
    assert Address.parse("gs://bucket/a/b/").location == "gs://bucket/a/b"


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(errors.MissingExtra, match=r"codistill\[cloud\]"):
        store.open("s3://bucket/cache")


def test_a_forked_process_is_refused_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset("memory://forked")
    monkeypatch.setattr("os.getpid", lambda: -1)
    for use in (lambda: dataset.present("pixels"), lambda: store.open("memory://forked")):
        with pytest.raises(errors.StorageFailed, match="spawn"):
            use()
