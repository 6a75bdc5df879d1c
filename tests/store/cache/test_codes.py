"""Tokens stored in a code: what is created, written, read decoded or raw, and refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store import errors
from store.cache import row_reads
from store.format.code_encode import EncodedRow
from store.format.distortion import merge
from store.format.moments import TokenMoments
from store.format.statistics import stacked
from store.storage.local import LocalStorage
from tests.store import caches
from tests.store.caches import CODED, CODED_IN_PART, CODED_TEACHERS, DATASETS, code_of, contents

FLOWERS = DATASETS[0]
OK_ROWS = [0, 1, 2, 4, 5, 6, 7, 8, 9]
VIT = "features.zarr/flowers/vit"
WRITES_OF_A_TEACHER = 2 + 1 + 2 * 7  # two documents, that of the group of the code, and seven arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codes") / "cache"
    caches.make_cache(root, DATASETS[:1], CODED_TEACHERS)
    return root


@pytest.fixture
def flowers(whole: Path) -> store.Dataset:
    return store.open(whole)["flowers"]


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def true_tokens(row: int, teacher: caches.TeacherSpec = CODED) -> np.ndarray:
    return caches.tokens_of(teacher, caches.pixels_of("flowers", row, FLOWERS.views))


def test_decoded_rows_are_the_code_of_the_true_tokens_in_the_order_asked_for(flowers: store.Dataset) -> None:
    code, rows = code_of(CODED), np.array([9, 0, 4, 4, 8])
    codes, _ = flowers.encoder("vit").encode(np.stack([true_tokens(row) for row in rows]), rows)
    raw = flowers.read(rows, ["vit", "pixels"], raw=True)
    np.testing.assert_array_equal(raw["vit"], codes)
    assert raw["pixels"].shape == (5, 28, 28, 3)
    decoded = flowers.read(rows, ["vit"])["vit"]
    assert decoded.dtype == np.float16
    np.testing.assert_array_equal(decoded, code.decode(codes, rows))
    error = decoded.astype(np.float64) - np.stack([true_tokens(row) for row in rows])
    assert 0 < np.square(error / code.std[1]).mean() < 0.12


def test_rows_are_decoded_in_blocks_of_any_size_alike(flowers: store.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).choice(OK_ROWS, 50)
    expected = {name: flowers.read([row], [name])[name][0] for name in ("vit", "part") for row in [0]}
    whole = flowers.read(rows, ["vit", "part"])
    for scratch, values in ((1, 1), (130, 300), (2**20, 300)):
        monkeypatch.setattr(row_reads, "SCRATCH_BYTES", scratch)
        monkeypatch.setattr(row_reads, "DECODED_VALUES", values)
        for name, read in flowers.read(rows, ["vit", "part"]).items():
            np.testing.assert_array_equal(read, whole[name])
    for name, row in expected.items():
        np.testing.assert_array_equal(whole[name][rows == 0], np.broadcast_to(row, whole[name][rows == 0].shape))


def test_rows_go_into_the_callers_buffers_decoded_and_raw(flowers: store.Dataset) -> None:
    decoded, raw = np.zeros((4, 17, 8), np.float16), np.zeros((4, 57), np.uint8)
    read = flowers.read([8, 1], ["vit"], out={"vit": decoded[1:3]})
    assert np.shares_memory(read["vit"], decoded)
    assert np.shares_memory(flowers.read([8, 1], ["vit"], out={"vit": raw[1:3]}, raw=True)["vit"], raw)
    np.testing.assert_array_equal(code_of(CODED).decode(raw[1:3], np.array([8, 1])), decoded[1:3])
    assert not decoded[[0, 3]].any()
    assert not raw[[0, 3]].any()
    with pytest.raises(errors.InvalidInput, match=r"expected float16 \(4, 17, 8\), found uint8 \(4, 57\)"):
        flowers.read(OK_ROWS[:4], ["vit"], out={"vit": raw})
    with pytest.raises(errors.InvalidInput, match=r"expected uint8 \(4, 57\), found float16 \(4, 17, 8\)"):
        flowers.read(OK_ROWS[:4], ["vit"], out={"vit": decoded}, raw=True)


def test_a_whole_shard_is_decoded_or_raw(flowers: store.Dataset) -> None:
    decoded, raw = flowers.read_shard("vit", 0), flowers.read_shard("vit", 0, raw=True)
    assert decoded.status.tolist() == [1, 1, 1, 2]
    np.testing.assert_array_equal(decoded.data[:3], flowers.read([0, 1, 2], ["vit"])["vit"])
    np.testing.assert_array_equal(raw.data[:3], flowers.read([0, 1, 2], ["vit"], raw=True)["vit"])
    assert np.isnan(decoded.data[3]).all()
    assert not raw.data[3].any()


def test_patches_that_are_not_stored_are_nan_and_named(flowers: store.Dataset) -> None:
    read, stored = flowers.read(OK_ROWS, ["part"])["part"], flowers.stored_tokens("part", OK_ROWS)
    assert stored is not None
    assert stored.shape == (len(OK_ROWS), 8)
    for row, tokens, kept in zip(OK_ROWS, read, stored, strict=True):
        assert np.flatnonzero(~np.isnan(tokens).any(axis=1)).tolist() == kept.tolist()
        standardised = code_of(CODED_IN_PART).standardised(true_tokens(row, CODED_IN_PART)[kept][None])
        assert np.isfinite(standardised).all()
    assert flowers.stored_tokens("vit", OK_ROWS) is None
    assert flowers.distortion("part").tokens("patch") == 8 * len(OK_ROWS)


def test_statistics_are_those_of_the_true_tokens(flowers: store.Dataset) -> None:
    moments = TokenMoments(prefix_tokens=1, tokens=17, channels=8, rows=len(OK_ROWS))
    for row in OK_ROWS:
        moments.add(true_tokens(row))
    statistics = flowers.statistics("vit")
    prefix, patch = moments.result()
    assert prefix is not None
    assert statistics.prefix is not None
    assert statistics.prefix.agrees(prefix)
    assert statistics.patch.agrees(patch)


def test_sealed_distortion_is_that_of_all_rows(flowers: store.Dataset) -> None:
    tokens = np.stack([true_tokens(row) for row in OK_ROWS])
    _, parts = flowers.encoder("vit").encode(tokens, np.array(OK_ROWS))
    assert flowers.distortion("vit").agrees(merge(parts))
    true = code_of(CODED).standardised(tokens)
    decoded = code_of(CODED).standardised(flowers.read(OK_ROWS, ["vit"])["vit"])
    noise = np.square(true - decoded)[:, 1:].sum() / np.square(true[:, 1:]).sum()
    assert flowers.distortion("vit").noise("patch") == pytest.approx(noise, rel=1e-2)


def test_rows_that_a_device_encoded_make_the_same_shard(whole: Path, tmp_path: Path) -> None:
    cache = caches.create_datasets(tmp_path, DATASETS[:1])
    dataset = cache["flowers"]
    caches.create_teacher(dataset, CODED)
    caches.write_pixels(cache, FLOWERS, 1)
    digest, encoder = dataset.read_trailer("pixels", 1).digest, dataset.encoder("vit")
    with dataset.write_shard("vit", 1, provenance={"device": "tests"}, pixels_digest=digest) as writer:
        for row in dataset.shard_rows_of(1):
            codes, parts = encoder.encode(true_tokens(row)[None], np.array([row]))
            moments = TokenMoments(prefix_tokens=1, tokens=17, channels=8, rows=1)
            moments.add(true_tokens(row))
            encoded = EncodedRow(codes=codes[0], moments=stacked(*moments.result()), distortion=parts[0])
            with pytest.raises(
                errors.InvalidInput, match=r"row 4: expected uint8 codes|row [567]: expected uint8 codes"
            ):
                writer.append(EncodedRow(codes=codes[0, 1:], moments=encoded.moments, distortion=encoded.distortion))
            writer.append(encoded)
        assert writer.finish()
    ours, theirs = dataset.read_trailer("vit", 1), store.open(whole)["flowers"].read_trailer("vit", 1)
    np.testing.assert_array_equal(ours.crc32c, theirs.crc32c)
    assert ours.moments is not None
    assert theirs.moments is not None
    assert ours.moments[1].agrees(theirs.moments[1])
    assert ours.distortion is not None
    assert theirs.distortion is not None
    assert ours.distortion.agrees(theirs.distortion)


def test_what_is_no_row_of_tokens_is_refused(whole: Path, tmp_path: Path) -> None:
    cache = caches.create_datasets(tmp_path, DATASETS[:1])
    caches.create_teacher(cache["flowers"], CODED)
    digest = store.open(whole)["flowers"].read_trailer("pixels", 0).digest
    infinite = true_tokens(0)
    infinite[3, 2] = np.inf
    with cache["flowers"].write_shard("vit", 0, provenance={}, pixels_digest=digest) as writer:
        with pytest.raises(errors.InvalidInput, match=r"row 0: expected float16 \(17, 8\) or an encoded row"):
            writer.append(true_tokens(0)[1:])
        with pytest.raises(errors.InvalidInput, match="not finite"):
            writer.append(infinite)
        with pytest.raises(errors.InvalidInput, match="expected float16"):
            writer.append(np.zeros(57, np.uint8))
        writer.append(true_tokens(0))


def test_a_flipped_bit_is_found_before_it_is_decoded(root: Path) -> None:
    path = root / VIT / "codes/c.1.0"
    data = bytearray(path.read_bytes())
    data[2 * 61 + 11] ^= 4  # row 6
    path.write_bytes(data)
    dataset = store.open(root)["flowers"]
    for raw in (True, False):
        with pytest.raises(errors.Damaged, match="shard 1 of 'flowers/vit': checksum of row 6 differs"):
            dataset.read([0, 6, 7], ["vit"], raw=raw)
        with pytest.raises(errors.Damaged, match="row 6"):
            dataset.read_shard("vit", 1, raw=raw)
        assert len(dataset.read([6], ["vit"], verify=False, raw=raw)["vit"]) == 1


def test_a_damaged_code_decodes_nothing_and_raw_rows_are_still_read(root: Path) -> None:
    path = root / VIT / "code/decoder/c.0.0.0"
    data = path.read_bytes()
    for damaged in (data[:100] + b"?" + data[101:], data[:-1], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        dataset = store.open(root)["flowers"]
        with pytest.raises(errors.Damaged, match=r"vit/code/decoder.*store verify .* --repair"):
            dataset.read([0], ["vit"])
        assert dataset.read([0], ["vit"], raw=True)["vit"].shape == (1, 57)
        path.write_bytes(data)


def test_arrays_of_another_code_are_refused_whatever_their_checksums(root: Path) -> None:
    other = Path(shutil.copytree(root / "features.zarr/flowers/part/code/mean", root / "mean"))
    shutil.copy(other / "c.0.0", root / VIT / "code/mean/c.0.0")
    with pytest.raises(errors.Damaged, match="its arrays have digest"):
        store.open(root)["flowers"].read([0], ["vit"])


def test_another_code_or_float16_in_its_place_is_a_conflict(root: Path) -> None:
    dataset, other = store.open(root)["flowers"], code_of(caches.TeacherSpec("other", 1, 8, (), (4, 4), ratio=2.0))
    before = contents(root, seals=True)
    caches.create_teacher(dataset, CODED)
    arguments: dict[str, Any] = {
        "identity": CODED.identity,
        "groups": CODED.groups,
        "patch_grid": CODED.patch_grid,
        "prefix_tokens": 1,
        "channels": 8,
    }
    with pytest.raises(
        errors.Conflict, match=f"code: stored '{code_of(CODED).spec.digest}', asked '{other.spec.digest}"
    ):
        dataset.create_teacher("vit", **arguments, code=other)
    with pytest.raises(errors.Conflict, match="stored as: stored 'codes', asked 'tokens'"):
        dataset.create_teacher("vit", **arguments)
    with pytest.raises(errors.InvalidInput, match="prefix_tokens: the code has 1, the teacher 2"):
        dataset.create_teacher("new", **(arguments | {"prefix_tokens": 2}), code=other)
    assert contents(root, seals=True) == before
    dataset.create_teacher("plain", **arguments)
    with pytest.raises(errors.Conflict, match="stored as: stored 'tokens', asked 'codes'"):
        dataset.create_teacher("plain", **arguments, code=other)
    assert dataset.teacher("plain").identity_digest == dataset.teacher("vit").identity_digest
    assert dataset.identity_digest("plain") != dataset.identity_digest("vit")
    with pytest.raises(errors.InvalidInput, match="it has no code"):
        dataset.code("plain")


def test_tokens_and_codes_of_one_teacher_are_damage(root: Path) -> None:
    tokens = root / VIT / "tokens/zarr.json"
    tokens.parent.mkdir()
    tokens.write_bytes((root / VIT / "codes/zarr.json").read_bytes())
    with pytest.raises(errors.Damaged, match="'flowers/vit' has both tokens and codes"):
        store.open(root)["flowers"].read([0], ["vit"])


class Killed(BaseException):
    """Stands for a process that ends."""


def test_a_creation_that_was_killed_anywhere_goes_on_with_the_same_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches.create_datasets(tmp_path / "empty", DATASETS[:1])
    caches.create_teacher(store.open(shutil.copytree(tmp_path / "empty", tmp_path / "whole"))["flowers"], CODED)
    expected, other = contents(tmp_path / "whole"), caches.TeacherSpec("vit", 1, 8, ("generic",), (4, 4), ratio=2.0)
    put, left = LocalStorage.put_if_absent, [0]

    def put_or_die(self: LocalStorage, key: str, data: bytes) -> bool:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return put(self, key, data)

    monkeypatch.setattr(LocalStorage, "put_if_absent", put_or_die)
    for writes in range(WRITES_OF_A_TEACHER):
        root = Path(shutil.copytree(tmp_path / "empty", tmp_path / f"killed-{writes}"))
        left[0] = writes
        with pytest.raises(Killed):
            caches.create_teacher(store.open(root)["flowers"], CODED)
        left[0] = 1000
        if (root / VIT / "codes/zarr.json").exists():
            with pytest.raises(errors.Conflict):
                caches.create_teacher(store.open(root)["flowers"], other)
        caches.create_teacher(store.open(root)["flowers"], CODED)
        assert contents(root) == expected


def test_a_deleted_teacher_leaves_nothing(root: Path) -> None:
    cache = store.open(root)
    cache["flowers"].delete_teacher("vit")
    assert [key for key in contents(root, seals=True) if "vit" in key] == []
    assert cache["flowers"].teachers == ("part",)
    caches.create_teacher(cache["flowers"], caches.TeacherSpec("vit", 1, 8, ("generic",), (4, 4), ratio=2.0))
    assert cache["flowers"].code("vit").spec.ratio == 2.0
