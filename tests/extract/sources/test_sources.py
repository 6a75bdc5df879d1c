"""Sources: which images a dataset has, in which order, and what keeps one of them from being read."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extract.catalogue import DatasetEntry
from extract.sources import UNKNOWN_BYTES, Listing, Source, open_source
from extract.sources.glob import compile_globs
from store import errors
from store.errors import DecodeError

NAMES = ["b/2.png", "b/10.png", "B/1.png", "a.png", "é.png", "z z.png", "new\nline.png", "日本/1.png", "b.png"]


def source_of(root: Path, **options: Any) -> Source:
    return open_source(DatasetEntry(name="d", group="g", root=root, **options))


def tree(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_folder_in_byte_order_without_hidden_files(tmp_path: Path) -> None:
    tree(tmp_path, [*NAMES, ".hidden.png", ".cache/1.png", "b/._2.png", "notes.txt"])
    listing = source_of(tmp_path).enumerate()
    assert list(listing.paths) == sorted(NAMES, key=lambda name: name.encode())
    assert list(listing.sizes_bytes) == [len(name.encode()) for name in listing.paths]
    assert listing.notes == ("1 files do not match **/*.{jpg,jpeg,JPG,JPEG,png,PNG,webp,tif,tiff,bmp,gif}",)


def test_patterns_and_exclusions(tmp_path: Path) -> None:
    tree(tmp_path, ["train/a/1.png", "train/a/2.jpg", "train/b/1.png", "val/a/1.png"])
    listing = source_of(tmp_path, pattern=["train/*/*.png", "**/*.jpg"], exclude="**/b/*").enumerate()
    assert list(listing.paths) == ["train/a/1.png", "train/a/2.jpg"]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("**/*.png", ["a.png", "x/y/a.png", "x/\n.png"], ["a.jpg", "a.png/b"]),
        ("*.png", ["a.png"], ["x/a.png"]),
        ("x/**", ["x/a", "x/y/z"], ["y/a"]),
        ("[ab]?.{jpg,p[nb]g}", ["a1.jpg", "b2.png", "bb.pbg"], ["c1.jpg", "a1.gif", "a.jpg"]),
        ("[!a].x", ["b.x", "^.x"], ["a.x"]),
        ("a+(b).x", ["a+(b).x"], ["aab.x"]),
    ],
)
def test_globs(pattern: str, matching: list[str], others: list[str]) -> None:
    compiled = compile_globs([pattern])
    assert all(compiled.fullmatch(name) for name in matching)
    assert not any(compiled.fullmatch(name) for name in others)


@pytest.mark.parametrize("pattern", ["{a,b", "[ab"])
def test_unclosed_globs(pattern: str) -> None:
    with pytest.raises(errors.InvalidInput, match="is not closed"):
        compile_globs([pattern])


def test_links(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.png", "in/1.png"])
    tree(tmp_path / "other", ["secret.png"])
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "leaves.png").symlink_to(tmp_path / "other" / "secret.png")
    (root / "dangling.png").symlink_to(root / "nothing")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "folder").symlink_to(tmp_path / "other")
    source = source_of(root)
    listing = source.enumerate()
    assert list(listing.paths) == ["a.png", "dangling.png", "in/1.png", "inside.png", "leaves.png", "loop.png"]
    assert "1 folders behind symbolic links not entered, first 'folder'" in listing.notes
    assert source.read("inside.png", UNKNOWN_BYTES) == b"a.png"
    for name, reason in (
        ("leaves.png", "outside the root: "),
        ("dangling.png", "missing file: "),
        ("loop.png", "unreadable file: too many levels"),
        ("folder/secret.png", "outside the root: "),
    ):
        with pytest.raises(DecodeError, match=reason):
            source.read(name, UNKNOWN_BYTES)


def test_what_happens_after_indexing_is_noticed(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.png", "b.png", "c.png"])
    source = source_of(root)
    (root / "a.png").unlink()
    (root / "b.png").write_bytes(b"another file")
    with pytest.raises(DecodeError, match="missing file"):
        source.read("a.png", 5)
    with pytest.raises(DecodeError, match="changed file: 5 bytes when indexed, 12 now"):
        source.read("b.png", 5)
    assert source.read("c.png", 5) == b"c.png"
    root.rename(tmp_path / "moved")
    with pytest.raises(errors.MissingFile, match="cannot be read"):  # an unmounted disk says nothing about its images
        source.read("c.png", 5)
    root.mkdir()
    with pytest.raises(errors.MissingFile, match="Is it mounted"):
        source.read("c.png", 5)


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**30 + 1)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).write_bytes(b"latin")
    source = source_of(tmp_path)
    listing = source.enumerate()
    assert list(listing.paths) == ["caf\\udce9.png", "huge.png", "pipe.png"]
    for name, reason in (
        ("pipe.png", "not a regular file"),
        ("huge.png", "too large"),
        ("caf\\udce9.png", "not UTF-8"),
        ("\0.png", "NUL"),
        ("x" * 300, "name too long"),
    ):
        with pytest.raises(DecodeError, match=reason):
            source.read(name, UNKNOWN_BYTES)


def test_machine_trouble_is_not_the_images_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tree(tmp_path, ["a.png"]))

    def stale(*_: object, **__: object) -> int:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(OSError, match="Stale") as caught:
        source.read("a.png", 5)
    assert not isinstance(caught.value, errors.CodistillError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_images_that_may_not_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Permissions do not stop root, who may run the tests; bad sectors cannot be made."""
    source = source_of(tree(tmp_path, ["a.png"]))

    def refused(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(DecodeError, match=f"unreadable file: {os.strerror(number).lower()}"):
        source.read("a.png", 5)


def write_list(path: Path, names: list[str]) -> Path:
    if path.suffix == ".txt":
        path.write_bytes("\n".join([*names, "", ""]).encode())
    else:
        pq.write_table(pa.table({"path": names, "label": list(range(len(names)))}), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_lists(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path / "root", ["a.png", "b/1 1.png", "é.png", "not listed.png"])
    names = ["é.png", "b//1 1.png", str(root / "a.png"), "./a.png", "gone.png", "b/excluded.png"]
    source = source_of(root, list=write_list(tmp_path / f"list.{kind}", names), exclude="**/excluded.*")
    listing: Listing = source.enumerate()
    assert list(zip(listing.paths, listing.sizes_bytes, strict=True)) == [
        ("a.png", 5),
        ("b/1 1.png", 9),
        ("gone.png", UNKNOWN_BYTES),
        ("é.png", 6),
    ]
    assert "1 paths are listed more than once and taken once" in listing.notes
    assert "1 listed files are not there; their rows will fail" in listing.notes
    assert len(source.describe()["list_sha256"]) == 64


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.png"])
    for names in (["../secret.png"], ["a/../../x.png"], ["/etc/passwd"]):
        source = source_of(root, list=write_list(tmp_path / "list.txt", ["a.png", *names]))
        with pytest.raises(errors.InvalidInput, match="1 paths are outside the root"):
            source.enumerate()
    (tmp_path / "broken.parquet").write_bytes(b"text")
    pq.write_table(pa.table({"file": ["a.png"]}), tmp_path / "column.parquet")
    for name, reason in (
        ("broken.parquet", "cannot be read"),
        ("column.parquet", "no column 'path'"),
        ("a.csv", "unknown kind"),
    ):
        with pytest.raises(errors.InvalidInput, match=reason):
            source_of(root, list=tmp_path / name).enumerate()
    with pytest.raises(errors.MissingFile, match="does not exist"):
        source_of(root, list=tmp_path / "none.txt").enumerate()


def test_lists_that_are_hostile(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["a.png"])
    (tmp_path / "long.txt").write_bytes(b"a.png\n" + b"x" * 2**17)
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would wait for ever
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png\n")
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"path": ["a.png", None]}), tmp_path / "gaps.parquet")
    pq.write_table(pa.table({"path": pa.array(["x" * 2**20] * 400)}), tmp_path / "bomb.parquet", compression="zstd")
    for name, reason in (
        ("long.txt", "line 2 is longer than 65536 bytes"),
        ("pipe.txt", "not a regular file but a named pipe. Expected a file"),
        ("latin.txt", "cannot be read as .txt"),
        ("numbers.parquet", "column 'path' is int64, expected string"),
        ("gaps.parquet", "1 of 2 rows have no path"),
        ("bomb.parquet", "take more than 268 MB, with repeats|would grow from"),
    ):
        with pytest.raises(errors.InvalidInput, match=f"^list '.*{name}'.*(?:{reason})"):
            source_of(root, list=tmp_path / name).enumerate()
    source = source_of(root, list=write_list(tmp_path / "nul.txt", ["a.png", "b\0.png"]))
    assert source.enumerate().sizes_bytes == [5, UNKNOWN_BYTES]
    with pytest.raises(DecodeError, match="NUL"):
        source.read("b\0.png", UNKNOWN_BYTES)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match="correct `root` in the catalogue"):
        source_of(tmp_path / "none").enumerate()
