"""The format is what docs/format.md says, and a cache of version 1 reads for ever."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

import store
from store.format.schema import FAILED, OK
from store.format.statistics import Moments
from store.inspection.info import inspect
from store.verify.problems import Kind
from store.verify.verify import verify
from tests.store import make_golden

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/store/cache-v1"
JPEG = ROOT / "tests/golden/store/cache-jpeg"
CODES = ROOT / "tests/golden/store/cache-codes"
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = CODE.findall((ROOT / "docs/format.md").read_text())
SAID = [
    "(16, 8) float32",  # patches of a row of codes
    "4 people/002.png",  # the reader prints every ok row and its image
    "[1 1 1 2] (28, 28, 3)",
    "(28, 28, 3) uint8",  # of the cache with JPEG pixels
    "[('people', 6, 5, 0.7), ('rooms', 2, 2, 0.7)]",
    "nan]",  # row 3 failed
]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy, so that no test can change the original."""
    shutil.copytree(JPEG / "cache", tmp_path / "jpeg/cache")
    shutil.copytree(CODES / "cache", tmp_path / "demo/compact")
    return Path(shutil.copytree(GOLDEN / "cache", tmp_path / "demo/cache"))


@pytest.mark.parametrize(("block", "said"), list(zip(BLOCKS, SAID, strict=True)))
def test_the_examples_run(
    golden: Path, block: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(golden.parent.parent)
    exec(compile(block, "docs/format.md", "exec"), {})
    assert said in capsys.readouterr().out


def test_the_reader_has_15_lines_and_the_page_is_one() -> None:
    assert len([line for line in BLOCKS[1].splitlines() if line.strip()]) <= 15
    assert len((ROOT / "docs/format.md").read_text().splitlines()) < 270


@pytest.mark.parametrize("teacher", ["vit", "part"])
@pytest.mark.parametrize("row", [0, 1, 2, 4, 5])
def test_codes_are_read_without_codistill_as_with_it(
    golden: Path, teacher: str, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(golden.parent.parent)
    block = BLOCKS[0].replace('["people/vit"], 2', f'["people/{teacher}"], {row}')
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/format.md", "exec"), namespace)
    people = store.open(golden.parent / "compact")["people"]
    read = people.read([row], [teacher])[teacher][0, people.teacher(teacher).prefix_tokens :].astype(np.float64)
    stored = people.stored_tokens(teacher, [row])
    read = read if stored is None else read[stored[0]]
    assert namespace["patches"].shape == read.shape
    assert (np.abs(namespace["patches"] - read) <= 2.0**-11 * np.abs(read) + 1e-4).all()  # rounding to float16


def test_a_cache_of_codes_of_version_1_reads(golden: Path) -> None:
    cache = store.open(golden.parent / "compact")
    people = cache["people"]
    assert people.teachers == ("part", "vit")
    assert (people.teacher("vit").code.ratio, people.teacher("part").code.subset.kept) == (4.0, 2)
    assert cache["rooms"].teacher("vit").code is None  # held out
    assert cache["rooms"].teacher("vit").identity_digest == people.teacher("vit").identity_digest
    same = []
    with np.load(CODES / "expected.npz") as expected:
        assert len(expected.files) == 3 * 2 * 5
        for name in expected.files:
            kind, teacher, row = name.split(".")
            if kind == "codes":
                read = people.read([int(row)], [teacher], raw=True)[teacher][0]
                np.testing.assert_array_equal(read, expected[name])
                true = expected[f"true.{teacher}.{row}"]
                same.append(people.encoder(teacher).encode(true[None], np.array([int(row)]))[0][0] == read)
            elif kind == "decoded":
                read = people.read([int(row)], [teacher])[teacher][0]
                np.testing.assert_allclose(read, expected[name], rtol=2.0**-10, atol=1e-3)
    assert np.concatenate(same).mean() > 0.99  # a near-tie may fall otherwise on another processor
    assert verify(golden.parent / "compact").problems == ()
    assert not any(array.changed for array in store.seal(cache).arrays)


def test_every_kind_of_problem_is_documented() -> None:
    text = (ROOT / "docs/verify.md").read_text()
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in text] == []


def test_a_cache_of_version_1_reads(golden: Path) -> None:
    cache = store.open(golden)
    assert cache.datasets == ("people", "rooms")
    assert cache.recipe == {"image_size": 28, "shard_rows": 4, "flip": 0.0, "seed": 0}
    people = cache["people"]
    assert (people.group, people.split, people.views, people.images, people.rows) == ("people", "train", 2, 3, 6)
    assert (cache["rooms"].first_view, cache["rooms"].split) == (3, "val")
    assert people.teachers == ("dinov2", "mast3r")
    assert people.teacher("dinov2").prefix_tokens == 1
    assert people.status("pixels").tolist() == [OK, OK, OK, FAILED, OK, OK]
    assert people.valid_rows(["dinov2", "mast3r"]).tolist() == [0, 1, 2, 5]
    with np.load(GOLDEN / "expected.npz") as expected:
        assert len(expected.files) == 20
        for name in expected.files:
            dataset, array, row = name.split(".")
            np.testing.assert_array_equal(cache[dataset].read([int(row)], [array])[array][0], expected[name])


def test_a_cache_with_jpeg_pixels_reads(golden: Path) -> None:
    rooms = store.open(golden.parent.parent / "jpeg/cache")["rooms"]
    zarr_group = zarr.open_group(golden.parent.parent / "jpeg/cache/features.zarr", mode="r")
    with np.load(JPEG / "expected.npz") as expected:
        assert len(expected.files) == 4
        for name in expected.files:
            _, array, row = name.split(".")
            np.testing.assert_array_equal(rooms.read([int(row)], [array])[array][0], expected[name])
        for row in range(rooms.rows):  # by the codec that zarr-python finds by its entry point
            np.testing.assert_array_equal(zarr_group["rooms/pixels"][row], expected[f"rooms.pixels.{row}"])
    assert verify(golden.parent.parent / "jpeg/cache").ok


def test_the_tables_of_a_cache_of_version_1_are_read(golden: Path) -> None:
    people = store.open(golden)["people"]
    manifest = people.manifest(columns=["row", "path", "view", "crop_top", "status", "error"]).to_pylist()
    assert manifest[2] == {"row": 2, "path": "people/001.png", "view": 0, "crop_top": 2, "status": OK, "error": None}
    assert manifest[3]["error"] == "decode: truncated file"
    assert people.read_trailer("dinov2", 1).errors == {4: "overflow: channel 3 exceeds float16"}
    patches = np.concatenate([people.read([row], ["dinov2"])["dinov2"][0, 1:] for row in (0, 1, 2, 5)]).astype(
        np.float64
    )
    expected = Moments(
        count=np.full(6, 16.0),
        mean=patches.mean(axis=0),
        m2=np.square(patches - patches.mean(axis=0)).sum(axis=0),
        min=patches.min(axis=0),
        max=patches.max(axis=0),
    )
    assert people.statistics("dinov2").patch.agrees(expected)


def test_a_cache_of_version_1_is_whole_and_sealing_it_again_adds_checksums_alone(golden: Path) -> None:
    report = verify(golden)
    assert report.problems == ()
    assert len(report.notes) == 6  # its records have no checksums
    assert all("was sealed by an earlier version" in note for note in report.notes)
    assert inspect(store.open(golden)).datasets[0].arrays[0].ok == 5
    tables, before = manifests(golden), files(golden)
    store.seal(golden)
    assert (verify(golden).problems, verify(golden).notes) == ((), ())
    sealed = files(golden)
    assert {path.parent.name for path in sealed if sealed[path] != before[path]} == {"seal", "manifest"}
    assert manifests(golden) == tables
    assert not any(array.changed for array in store.seal(golden).arrays)
    assert files(golden) == sealed


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def manifests(root: Path) -> list[pa.Table]:
    return [dataset.manifest() for dataset in store.open(root)]


def test_this_version_still_writes_the_same_rows(tmp_path: Path) -> None:
    make_golden.main(tmp_path)
    new, old = store.open(tmp_path / "cache"), store.open(GOLDEN / "cache")
    for dataset in old:
        for array in ("pixels", *dataset.teachers):
            for shard in range(dataset.shards):
                written, known = (cache[dataset.name].read_trailer(array, shard) for cache in (new, old))
                np.testing.assert_array_equal(written.crc32c, known.crc32c)
                assert written.identity_digest == known.identity_digest
                assert written.pixels_digest == known.pixels_digest
