"""Images inside tar files, Parquet files and pickled lists."""

import collections
import contextlib
import io
import os
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extract.catalogue import DatasetEntry
from extract.sources import UNKNOWN_BYTES, Source, open_source, tar
from extract.sources.lists import read_list
from extract.sources.parquet_columns import ParquetColumns
from store import errors
from store.errors import DecodeError


def source_of(root: Path, **options: Any) -> Source:
    return open_source(DatasetEntry(name="d", group="g", root=root, **options))


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_tar_shards(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a" / "000.tar", {"x/1.jpg": b"one", "x/1.json": b"{}", "2.PNG": b"two", "é" * 90 + ".jpg": b"long"}
    )
    write_tar(
        tmp_path / "a" / "001.tar", {"1.jpg": b"three", "../secret.jpg": b"no", "/abs.jpg": b"no", "skip/1.jpg": b"no"}
    )
    source = source_of(tmp_path, tar="**/*.tar", exclude="**/skip/*")
    listing = source.enumerate()
    assert dict(zip(listing.paths, listing.sizes_bytes, strict=True)) == {
        "a/000.tar/2.PNG": 3,
        "a/000.tar/x/1.jpg": 3,
        f"a/000.tar/{'é' * 90}.jpg": 4,
        "a/001.tar/1.jpg": 5,
    }
    assert listing.notes == ("3 members of 2 tar files are no images",)
    assert source.read("a/000.tar/x/1.jpg", 3) == b"one"
    assert source.read(f"a/000.tar/{'é' * 90}.jpg", 4) == b"long"
    assert source.read("a/001.tar/1.jpg", 5) == b"three"
    for path, size, reason in (
        ("a/001.tar/1.jpg", 6, "changed file: 6 bytes when indexed, 5 now"),
        ("a/001.tar/gone.jpg", 6, "missing file: no longer in tar 'a/001.tar'"),
        ("a/002.tar/1.jpg", 6, "unreadable file: tar 'a/002.tar': "),
        ("b/1.jpg", 6, "missing file: is in no tar file"),
    ):
        with pytest.raises(DecodeError, match=reason):
            source.read(path, size)


def test_tars_that_are_cut_short_or_none(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.jpg": bytes([n]) * 600 for n in range(4)}).read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: 512 + 1024 + 512 + 100])
    (tmp_path / "headers.tar").write_bytes(whole[: 2 * (512 + 1024)])
    source = source_of(tmp_path, tar="*.tar")
    listing = source.enumerate()
    assert [path for path in listing.paths if not path.startswith("whole")] == [
        "half.tar/0.jpg",
        "half.tar/1.jpg",
        "headers.tar/0.jpg",
        "headers.tar/1.jpg",
    ]
    assert listing.notes == ("2 tar files have no end and may lack images, first 'half.tar'",)
    assert source.read("half.tar/0.jpg", 600) == b"\0" * 600
    with pytest.raises(DecodeError, match=r"damaged image: tar 'half\.tar' is cut short"):
        source.read("half.tar/1.jpg", 600)
    write_tar(tmp_path / "z.tar", {"1.jpg": b"x"}, mode="w:gz")
    with pytest.raises(errors.InvalidInput, match=r"z\.tar.*uncompressed"):
        source.enumerate()


@pytest.mark.parametrize("as_struct", [True, False])
def test_parquet_of_image_bytes(tmp_path: Path, as_struct: bool) -> None:
    images = [f"image {n}".encode() for n in range(7)]
    names = [f"folder/{n}.png" if n % 2 else None for n in range(7)]
    if as_struct:
        table = pa.table(
            {"image": [{"bytes": b, "path": n} for b, n in zip(images, names, strict=True)], "label": range(7)}
        )
    else:
        table = pa.table({"image": images, "path": names})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-0.parquet", row_group_size=3)
    source = source_of(tmp_path, parquet="data/*.parquet")
    listing = source.enumerate()
    assert list(listing.paths) == [
        f"data/train-0.parquet/{n:08d}" + (f"/folder/{n}.png" if n % 2 else "") for n in range(7)
    ]
    assert [source.read(path, UNKNOWN_BYTES) for path in listing.paths] == images
    before = source.describe()
    pq.write_table(table.slice(1), tmp_path / "data" / "train-0.parquet")
    assert source.describe() != before
    with pytest.raises(DecodeError, match=r"missing file: 'data/train-0\.parquet' has 6 rows"):
        source_of(tmp_path, parquet="data/*.parquet").read("data/train-0.parquet/00000006", UNKNOWN_BYTES)


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x", None], "x": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DecodeError, match="empty file"):
        source_of(tmp_path, parquet="*.parquet").read("a.parquet/00000001", UNKNOWN_BYTES)
    with pytest.raises(errors.InvalidInput, match="no column 'jpg'; its columns are image, x"):
        source_of(tmp_path, parquet="*.parquet", image_column="jpg").enumerate()
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "b.parquet").write_bytes(b"text")
    with pytest.raises(DecodeError, match=r"unreadable file: Parquet file 'b\.parquet'"):
        source_of(tmp_path, parquet="*.parquet").read("b.parquet/00000001", UNKNOWN_BYTES)


PNG_OF_A_MEGABYTE = bytes(2**20)
POOLS: list[pa.MemoryPool] = []  # a pool must outlive its buffers


def written(table: pa.Table, path: Path, **options: Any) -> Path:
    """Write Parquet with large pages and dictionaries, as hostile files have them."""
    large = {"data_page_size": 2**30, "dictionary_pagesize_limit": 2**30, "write_batch_size": 1, "compression": "zstd"}
    pq.write_table(table, path, **large | options)
    return path


@pytest.mark.parametrize(
    ("column", "found"),
    [
        pytest.param(pa.array([6_000_000_000]), "int64", id="integers: as many zero bytes"),
        pytest.param(pa.array(["a"]), "string", id="text"),
        pytest.param(pa.array([1.5]), "double", id="floats"),
        pytest.param(pa.array([[1, 2]]), "list<element: int64>", id="lists"),
        pytest.param(pa.array([{"path": "a"}]), "struct<path: string>", id="struct without bytes"),
        pytest.param(pa.array([{"bytes": 5}]), "struct<bytes: int64>", id="struct with integers"),
        pytest.param(pa.array([b"ab"], pa.binary(2)), r"fixed_size_binary\[2\]", id="fixed width"),
    ],
)
def test_parquet_columns_of_other_types(tmp_path: Path, column: pa.Array, found: str) -> None:
    """All files are named at once, and a file that changes its type later fails its rows."""
    source = source_of(tmp_path, parquet="*.parquet")
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": column}), tmp_path / f"{name}.parquet")
    with pytest.raises(errors.InvalidInput, match=rf"^2 of 2 .* column 'image' is {found}, expected binary.* 'b\."):
        source.enumerate()
    with pytest.raises(DecodeError, match=rf"^unreadable file: Parquet file 'a\.parquet': column 'image' is {found}"):
        source.read("a.parquet/00000000", UNKNOWN_BYTES)


def test_parquet_of_junk(tmp_path: Path) -> None:
    """Whatever single byte of a file changes, it gives other bytes or one error, and never anything else."""
    good = written(pa.table({"image": [b"one", b"two"], "path": ["1.jpg", "2.jpg"]}), tmp_path / "a.parquet")
    content = good.read_bytes()
    random = np.random.default_rng(0)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        good.write_bytes(damaged)
        source = source_of(tmp_path, parquet="*.parquet")
        with contextlib.suppress(errors.InvalidInput):
            for path in source.enumerate().paths:
                with contextlib.suppress(DecodeError):
                    assert isinstance(source.read(path, UNKNOWN_BYTES), bytes)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        pytest.param({"image": [PNG_OF_A_MEGABYTE] * 2400}, {}, id="a dictionary repeats one image"),
        pytest.param({"image": [{"bytes": PNG_OF_A_MEGABYTE, "path": "x"}] * 2400}, {}, id="in a struct"),
        pytest.param({"image": [b"x"] * 400, "path": ["x" * 2**20] * 400}, {}, id="names"),
        pytest.param({"image": [PNG_OF_A_MEGABYTE] * 400}, {"use_dictionary": False}, id="a page of zeros"),
    ],
)
def test_small_parquets_of_gigabytes(tmp_path: Path, table: dict[str, Any], options: dict[str, Any]) -> None:
    """They are refused, or read image by image; memory stays below what any file may take."""
    chunks = {name: pa.chunked_array([pa.array(values[:400])] * (len(values) // 400)) for name, values in table.items()}
    path = written(pa.table(chunks), tmp_path / "a.parquet", **options)
    assert path.stat().st_size < 2**15
    source = source_of(tmp_path, parquet="*.parquet")
    with arrow_memory() as pool:
        try:
            paths = source.enumerate().paths
        except errors.InvalidInput as error:
            message = str(error)
        else:
            message = ""
            assert all(len(source.read(path, UNKNOWN_BYTES)) == 2**20 for path in paths[::300])
    assert not message or re.search("would grow|take more than", message)
    assert pool.max_memory() < 2**28


def test_parquet_pages_that_are_larger_than_declared(tmp_path: Path) -> None:
    """The footer says 100 kB, the page holds 400 MB: found before the page is decompressed."""
    table = pa.table({"image": [PNG_OF_A_MEGABYTE] * 400})
    path = written(table, tmp_path / "a.parquet", use_dictionary=False)
    size = pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    content = path.read_bytes()
    assert content.count(varint(2 * size, 5)) >= 1
    path.write_bytes(content.replace(varint(2 * size, 5), varint(200_000, 5)))
    source = source_of(tmp_path, parquet="*.parquet")
    (first, *_) = source.enumerate().paths
    with arrow_memory() as pool, pytest.raises(DecodeError, match="claims 100000 bytes, its pages more"):
        source.read(first, UNKNOWN_BYTES)
    assert pool.max_memory() < 2**20


def varint(value: int, size: int) -> bytes:
    """A number of Thrift's compact protocol in `size` bytes."""
    return bytes((value >> 7 * at) & 127 | (128 if at < size - 1 else 0) for at in range(size))


@contextlib.contextmanager
def arrow_memory() -> Iterator[pa.MemoryPool]:
    """Count the memory that Arrow takes."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(before)


def test_parquet_is_read_in_any_order_by_moving_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards, each read by threads nearly in order, begin a row group few times, not once a row."""
    images = [f"image {n}".encode() for n in range(400)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=200)
    begun = []
    real = ParquetColumns.batches

    def batches(columns: ParquetColumns, path: str, group: int) -> Iterator[pa.Array]:
        begun.append(group)
        return (batch.slice(row, 1) for batch in real(columns, path, group) for row in range(len(batch)))

    monkeypatch.setattr(ParquetColumns, "batches", batches)
    source = source_of(tmp_path, parquet="*.parquet")
    random = np.random.default_rng(0)
    nearly = [row + 8 * int(random.integers(2)) for row in range(100)]
    for row in [row + start for row in nearly for start in (0, 100, 250)]:
        assert source.read(f"a.parquet/{row:08d}", UNKNOWN_BYTES) == images[row]
    assert len(begun) <= 4
    for row in random.permutation(400):
        assert source.read(f"a.parquet/{row:08d}", UNKNOWN_BYTES) == images[row]


@pytest.mark.parametrize(
    "content",
    [
        ["a/1.jpg", "b/2.jpg"],
        (
            "a/1.jpg",
            "b/2.jpg",
        ),
        ("/authors/own/root", ["a/1.jpg", "b/2.jpg"]),
        [("a/1.jpg", 0), ("b/2.jpg", 19_166)],
        {"a/1.jpg": {"frames": [1, 2.5, None, True]}, "b/2.jpg": frozenset()},
        collections.OrderedDict([("a/1.jpg", 1), ("b/2.jpg", {2})]),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_of_plain_things(tmp_path: Path, content: object, protocol: int) -> None:
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_list(path) == ["a/1.jpg", "b/2.jpg"]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickles_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pkl"
    for content in (
        ["a.jpg", Malicious(tmp_path / "ran")],
        {"a.jpg": np.zeros(2)},
        [Path("a.jpg")],
        collections.defaultdict(list, {"a.jpg": [1]}),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(errors.UnsafeFile, match="would have to run"):
            read_list(path)
    assert not (tmp_path / "ran").exists()


def test_pickles_that_hold_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "list.pkl"
    for content, outline in (
        ([1, 2], "list of int"),
        ("a.jpg", "found str"),
        ({1: "a.jpg"}, "dict of int"),
        ([("a.jpg", 0, 1)], "list of tuple"),
        ([(0, "a.jpg")], "list of tuple"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(errors.InvalidInput, match=outline):
            read_list(path)
    huge_table = b"\x80\x02]r" + (2**28).to_bytes(4, "little") + b"X\x01\0\0\0aa."  # 4 GB for 18 bytes
    for content in (b"", b"not a pickle", pickle.dumps(["a.jpg"])[:-5], huge_table):
        path.write_bytes(content)
        with pytest.raises(errors.InvalidInput, match="is not a pickle of paths"):
            read_list(path)


def tar_header(name: bytes, *, size: int, kind: bytes = b"0") -> bytes:
    """A tar header that claims any size, negative ones too."""
    header = bytearray(tarfile.BLOCKSIZE)
    header[: len(name)] = name
    header[100:124] = b"0000644\0" + b"0000000\0" * 2
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    header[136:148] = b"00000000000\0"
    header[156:157] = kind
    header[257:265] = b"ustar\00000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(tar_header(b"././@LongLink", size=2**40, kind=b"L"), id="name of a terabyte"),
        pytest.param(tar_header(b"x", size=2**40, kind=b"x"), id="attributes of a terabyte"),
        pytest.param(tar_header(b"b.jpg", size=2**80), id="no file is so large"),
        pytest.param(tar_header(b"b.jpg", size=-1024), id="leads back"),
        pytest.param(tar_header(b"x", size=-1024, kind=b"x"), id="attributes lead back"),
        pytest.param(
            (tar_header(b"././@LongLink", size=1, kind=b"L") + bytes(512)) * 3000, id="3000 names of one file"
        ),
    ],
)
def test_hostile_tar_headers(tmp_path: Path, header: bytes) -> None:
    """Alone they make the tar unusable; behind good images they end it."""
    (tmp_path / "x.tar").write_bytes(header + bytes(1024))
    source = source_of(tmp_path, tar="*.tar")
    with pytest.raises(errors.InvalidInput, match=r"^1 of 1 tar files cannot be used: tar 'x\.tar': "):
        source.enumerate()
    (tmp_path / "x.tar").write_bytes(tar_header(b"a.jpg", size=3) + b"one".ljust(512, b"\0") + header + bytes(1024))
    listing = source.enumerate()
    assert listing.paths == ["x.tar/a.jpg"]
    assert listing.notes == ("1 tar files have no end and may lack images, first 'x.tar'",)
    assert source.read("x.tar/a.jpg", 3) == b"one"


def test_tar_members_that_are_not_plain_files(tmp_path: Path) -> None:
    """Links, devices and sparse files are counted and left out; of two members with one name the later one counts."""
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in (("a.jpg", b"first"), ("./a.jpg", b"second"), ("huge.jpg", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
            info = tarfile.TarInfo(f"{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    content = (tmp_path / "x.tar").read_bytes()
    content = content.replace(archive.members[2].tobuf(), tar_header(b"huge.jpg", size=2**50))
    (tmp_path / "y.tar").write_bytes(content)
    source = source_of(tmp_path, tar="x.tar")
    listing = source.enumerate()
    assert listing.paths == ["x.tar/a.jpg", "x.tar/huge.jpg"]
    assert listing.notes == (
        "5 members of 1 tar files are no images",
        "1 images have the name of a later one in the same tar file, which is taken",
    )
    assert source.read("x.tar/a.jpg", 6) == b"second"
    source = source_of(tmp_path, tar="y.tar")
    assert source.enumerate().sizes_bytes == [6, 2**50]
    with pytest.raises(DecodeError, match=r"^damaged image: tar 'y\.tar' is cut short$"):
        source.read("y.tar/huge.jpg", 2**50)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_containers_that_are_no_regular_files_or_lie_elsewhere(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_tar(tmp_path / "secret.tar", {"1.jpg": b"x"})
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "secret.parquet")
    (root / f"linked.{kind}").symlink_to(tmp_path / f"secret.{kind}")
    os.mkfifo(root / f"pipe.{kind}")  # opening it would wait for ever
    (root / f"zero.{kind}").symlink_to("/dev/zero")
    source = source_of(root, **{kind: f"*.{kind}"})
    with pytest.raises(errors.InvalidInput, match=r"^3 of 3 .* cannot be used: ") as caught:
        source.enumerate()
    for reason in (rf"linked\.{kind}': outside the root", rf"pipe\.{kind}': .*named pipe", rf"zero\.{kind}': outside"):
        assert re.search(reason, str(caught.value))
    for name in ("linked", "pipe", "zero"):
        with pytest.raises(DecodeError, match=r"unreadable file: .*(outside the root|named pipe)"):
            source.read(f"{name}.{kind}/00000000", UNKNOWN_BYTES)


def test_an_interrupt_ends_the_scan_of_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan under way sees it at its next header, whatever its tar still holds; no other scan begins."""
    for number in range(100):
        write_tar(tmp_path / f"{number:03d}.tar", {"1.jpg": b"x"})
    endless_began, interrupted, scans = threading.Event(), threading.Event(), []
    endless_threads = set()
    real_scan = tar.scan

    def scan(file: io.BufferedReader, subject: str, stop: threading.Event) -> tar.Archive:
        scans.append(subject)
        if subject == "tar '000.tar'":  # its image lets the main thread go on to what interrupts it
            endless_began.wait()
        else:
            endless_threads.add(threading.get_ident())
        return real_scan(file, subject, stop)

    def endless(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        yield tarfile.TarInfo("1.jpg")
        while threading.get_ident() in endless_threads:
            endless_began.set()
            interrupted.wait()
            yield tarfile.TarInfo("2.jpg")

    class Interrupted(tar.ListingBuilder):
        def add(self, path: str, size_bytes: int) -> None:
            interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(tar, "scan", scan)
    monkeypatch.setattr(tar, "_members", endless)
    monkeypatch.setattr(tar, "ListingBuilder", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        source_of(tmp_path, tar="*.tar").enumerate()
    assert 1 < len(scans) < 100
