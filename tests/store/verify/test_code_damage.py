"""Damage of codes: every kind is found and named, and a repair brings back the same bytes, or says why it cannot."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import store
from store import errors
from store.cache import sealed_tables
from store.format.layout import checksum
from store.format.trailer import Trailer, decode
from store.verify.code_repair import undo_one_byte
from store.verify.problems import Kind
from store.verify.repair import repair
from store.verify.verify import verify
from tests.store import bit_flips, caches, fake_recomputer
from tests.store.caches import CODED, CODED_TEACHERS, DATASETS, contents
from tests.store.damage import INDEX_BYTES, flip, overwrite
from tests.thoroughness import cases

FLOWERS = "features.zarr/flowers"
STRIDE = 57 + 4
FLIPS_OF_A_KIND = cases(thorough=10, usual=1)
SHARD_FLIPS = 12
ROUNDS = cases(thorough=12, usual=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code_damage") / "cache"
    caches.make_cache(root, teachers=CODED_TEACHERS)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def shard(root: Path, number: int, teacher: str = "vit") -> Path:
    return root / FLOWERS / teacher / f"codes/c.{number}.0"


def rewrite_trailer(root: Path, number: int, change: Callable[[Trailer], Trailer]) -> None:
    path, rows = shard(root, number), len(store.open(root)["flowers"].shard_rows_of(number))
    data = path.read_bytes()
    trailer = decode(data[rows * STRIDE :], where="test", index_bytes=INDEX_BYTES)
    overwrite(path, data[: rows * STRIDE] + change(trailer).encode() + data[-INDEX_BYTES:])


def flip_row(root: Path) -> None:
    flip(shard(root, 1), 2 * STRIDE + 20)


def exchange_rows(root: Path) -> None:
    path = shard(root, 1)
    data = path.read_bytes()
    overwrite(path, data[STRIDE : 2 * STRIDE] + data[:STRIDE] + data[2 * STRIDE :])


def fill_hole(root: Path) -> None:
    flip(shard(root, 0), 3 * STRIDE + 5)


def flip_index(root: Path) -> None:
    flip(shard(root, 1), -20)


def flip_trailer(root: Path) -> None:
    flip(shard(root, 1), 4 * STRIDE + 2500)


def append_garbage(root: Path) -> None:
    overwrite(shard(root, 2), shard(root, 2).read_bytes() + b"garbage")


def flip_mean(root: Path) -> None:
    flip(root / FLOWERS / "vit/code/mean/c.0.0", 5)


def flip_checksum_of_book(root: Path) -> None:
    flip(root / FLOWERS / "vit/code/book_4/c.0.0", -2)


def cut_decoder(root: Path) -> None:
    path = root / FLOWERS / "vit/code/decoder/c.0.0.0"
    overwrite(path, path.read_bytes()[:100])


def delete_rotation(root: Path) -> None:
    (root / FLOWERS / "vit/code/rotation/c.0.0.0").unlink()


def exchange_code(root: Path) -> None:
    shutil.copy(root / FLOWERS / "part/code/decoder/c.0.0.0", root / FLOWERS / "vit/code/decoder/c.0.0.0")


def flip_code_document(root: Path) -> None:
    flip(root / FLOWERS / "vit/code/signs/zarr.json", 100)


def delete_code_group(root: Path) -> None:
    (root / FLOWERS / "vit/code/zarr.json").unlink()


def break_codes_document(root: Path) -> None:
    (root / FLOWERS / "vit/codes/zarr.json").write_text("{")


def delete_codes_document(root: Path) -> None:
    (root / FLOWERS / "vit/codes/zarr.json").unlink()


def change_gain(root: Path) -> None:
    path = root / FLOWERS / "vit/codes/zarr.json"
    path.write_text(path.read_text().replace('"ratio": 4.0', '"ratio": 5.0'))


def change_sealed_distortion(root: Path) -> None:
    path = root / FLOWERS / "vit/distortion/c.0.0.0"
    values = np.frombuffer(path.read_bytes()[:-4], "<f8").reshape(2, 3, 8).copy()
    values[1, 1] *= 1 + 1e-6
    overwrite(path, sealed_tables.small_array_bytes(values))


def flip_sealed_cosine(root: Path) -> None:
    flip(root / FLOWERS / "vit/cosine/c.0.0", 700)


def delete_sealed_floor(root: Path) -> None:
    shutil.rmtree(root / FLOWERS / "vit/floor")


# These become what they were, bit for bit.
REPAIRED: list[tuple[Callable[[Path], None], Kind]] = [
    (flip_row, Kind.ROW_CHECKSUM),
    (exchange_rows, Kind.ROW_DIFFERS),
    (fill_hole, Kind.HOLE_NOT_ZERO),
    (flip_index, Kind.INDEX_DAMAGED),
    (flip_trailer, Kind.TRAILER_DAMAGED),
    (append_garbage, Kind.OBJECT_SIZE),
    (flip_mean, Kind.CODE_DAMAGED),
    (flip_checksum_of_book, Kind.CODE_DAMAGED),
    (cut_decoder, Kind.CODE_DAMAGED),
    (delete_rotation, Kind.CODE_DAMAGED),
    (exchange_code, Kind.CODE_DAMAGED),
    (flip_code_document, Kind.METADATA_DAMAGED),
    (delete_code_group, Kind.METADATA_DAMAGED),
    (break_codes_document, Kind.METADATA_DAMAGED),
    (delete_codes_document, Kind.METADATA_DAMAGED),
    (change_gain, Kind.METADATA_DAMAGED),
    (change_sealed_distortion, Kind.SEALED_STATISTICS_DIFFER),
    (flip_sealed_cosine, Kind.SEALED_DAMAGED),
    (delete_sealed_floor, Kind.SEALED_DAMAGED),
]


def halve_distortion(root: Path) -> None:
    rewrite_trailer(root, 1, lambda t: replace(t, distortion=replace(t.distortion, sums=t.distortion.sums / 2)))


def forget_a_token(root: Path) -> None:
    def change(trailer: Trailer) -> Trailer:
        assert trailer.distortion is not None
        floor = trailer.distortion.floor.copy()
        floor[1, 0] -= 1
        return replace(trailer, distortion=replace(trailer.distortion, floor=floor))

    rewrite_trailer(root, 1, change)


def lose_distortion(root: Path) -> None:
    rewrite_trailer(root, 1, lambda trailer: replace(trailer, distortion=None))


def blank_trailer(root: Path) -> None:
    path = shard(root, 1)
    data = bytearray(path.read_bytes())
    data[4 * STRIDE + 900 : 4 * STRIDE + 964] = bytes(64)
    overwrite(path, bytes(data))


def delete_shard(root: Path) -> None:
    shard(root, 2).unlink()


def other_pixels(root: Path) -> None:
    rewrite_trailer(root, 1, lambda trailer: replace(trailer, pixels_digest="0" * 64))


# Here the trailer is lost as well: the rows and what is measured of them are what they were, the provenance says so.
RECOMPUTED: list[tuple[Callable[[Path], None], Kind]] = [
    (halve_distortion, Kind.TRAILER_INCONSISTENT),
    (forget_a_token, Kind.TRAILER_INCONSISTENT),
    (lose_distortion, Kind.TRAILER_INCONSISTENT),
    (blank_trailer, Kind.TRAILER_DAMAGED),
    (delete_shard, Kind.SHARD_GONE),
    (other_pixels, Kind.OTHER_PIXELS),
]


def damage_and_repair(root: Path, function: Callable[[Path], None], kind: Kind) -> None:
    function(root)
    report = verify(root)
    assert kind in {problem.kind for problem in report.problems}
    assert repair(root, report).left == []
    assert verify(root).problems == ()


@pytest.mark.parametrize(("function", "kind"), REPAIRED, ids=[function.__name__ for function, _ in REPAIRED])
def test_a_repair_restores_the_same_bytes(
    root: Path, whole: Path, function: Callable[[Path], None], kind: Kind
) -> None:
    damage_and_repair(root, function, kind)
    assert contents(root) == contents(whole)


@pytest.mark.parametrize(("function", "kind"), RECOMPUTED, ids=[function.__name__ for function, _ in RECOMPUTED])
def test_a_repair_restores_the_same_rows_and_sums_where_the_trailer_was_lost(
    root: Path, whole: Path, function: Callable[[Path], None], kind: Kind
) -> None:
    damage_and_repair(root, function, kind)
    ours, theirs = store.open(root)["flowers"], store.open(whole)["flowers"]
    rows = theirs.valid_rows(["vit"])
    np.testing.assert_array_equal(
        ours.read(rows, ["vit"], raw=True)["vit"], theirs.read(rows, ["vit"], raw=True)["vit"]
    )
    assert ours.distortion("vit").agrees(theirs.distortion("vit"))
    assert ours.statistics("vit").patch.agrees(theirs.statistics("vit").patch)


def test_only_bad_rows_are_recomputed_unless_the_trailer_was_lost(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "asked"
    flip_row(root)
    repair(root, verify(root), catalogue=log)
    assert log.read_text().splitlines() == ["flowers/vit 1"]
    log.unlink()
    blank_trailer(root)
    repair(root, verify(root), catalogue=log)
    assert log.read_text().splitlines() == ["flowers/vit 4"]


@pytest.mark.parametrize("function", [flip_mean, delete_rotation, exchange_code, flip_code_document])
def test_a_damaged_code_is_found_and_mended_before_the_first_seal(
    root: Path, whole: Path, function: Callable[[Path], None]
) -> None:
    shutil.rmtree(root / "seal")
    function(root)
    report = verify(root, quick=True)
    assert {problem.kind for problem in report.problems} <= {Kind.CODE_DAMAGED, Kind.METADATA_DAMAGED}
    assert not report.ok
    repair(root, report)
    assert verify(root, quick=True).ok
    assert contents(root) == contents(whole)


def test_a_seal_refuses_a_damaged_code(root: Path) -> None:
    shutil.rmtree(root / "seal")
    flip_mean(root)
    with pytest.raises(errors.Damaged, match=r"left out of the seal: 1\. .*vit/code/mean"):
        store.seal(root)


def test_flips_in_any_file_are_found_never_read_as_good_and_undone(root: Path, whole: Path) -> None:
    generator, expected = random.Random(3), bit_flips.contents_for_readers(root)
    before, missed, accepted, differing = contents(whole, seals=True), [], [], []
    kinds = {
        kind: paths
        for kind, paths in bit_flips.files_by_kind(root).items()
        if kind not in ("images", "pixels", "manifest")
    }
    assert {"codes", "mean", "decoder", "signs", "distortion", "cosine", "floor", "zarr.json of code"} <= set(kinds)
    for first, (kind, paths) in enumerate(kinds.items()):
        for number in range(first, first + FLIPS_OF_A_KIND):
            path, mask = generator.choice(paths), 1 << generator.randrange(8)
            offset = generator.randrange(path.stat().st_size)
            flip(path, offset, mask)
            report = verify(root, quick=number % 2 == 1 and kind != "codes")
            missed += [(kind, offset, mask)] if report.ok else []
            accepted += [(kind, offset, mask)] if bit_flips.read(root, expected) == "other values" else []
            repair(root, report)
            differing += [(kind, offset, mask)] if contents(root, seals=True) != before else []
    assert (missed, accepted, differing) == ([], [], [])


def test_every_byte_flip_in_a_shard_of_codes_is_found_and_repaired(root: Path, whole: Path) -> None:
    generator, expected = random.Random(8), contents(whole)
    shards = sorted(path for path in root.rglob("c.*.0") if path.parent.name == "codes")
    for _ in range(ROUNDS):
        hit = generator.sample(shards, min(SHARD_FLIPS, len(shards)))
        for path in hit:
            flip(path, generator.randrange(path.stat().st_size), generator.randrange(1, 256))
        report = verify(root)
        assert {problem.key for problem in report.problems} >= {str(path.relative_to(root)) for path in hit}
        assert repair(root, report).left == []
        assert contents(root) == expected


def test_a_wrong_byte_of_a_code_is_undone_without_another_copy(root: Path, whole: Path) -> None:
    shutil.rmtree(root / "features.zarr/rooms")
    for name in ("images", "manifest", "seal"):
        for path in (root / name).glob("rooms.*"):
            path.unlink()
    expected = contents(root)
    for array in ("mean", "decoder", "signs", "book_4"):
        (path,) = (root / FLOWERS / "vit/code" / array).glob("c.*")
        flip(path, path.stat().st_size // 3, 0x91)
        done = repair(root, verify(root))
        assert done.documents == [str(path.relative_to(root))]
        assert contents(root) == expected
    delete_rotation(root)
    done = repair(root, verify(root))
    assert done.documents == []
    assert "nothing here shows what it was" in done.notes[0]
    flip_row(root)
    left = repair(root, verify(root)).left
    assert "its code must be whole first" in str(left[0])


def test_a_wrong_byte_is_found_by_the_checksum() -> None:
    data = np.random.default_rng(0).bytes(3000)
    chunk = data + checksum(data).to_bytes(4, "little")
    for position, mask in ((0, 1), (1234, 0xFF), (2999, 0x80), (3001, 4)):
        wrong = bytearray(chunk)
        wrong[position] ^= mask
        assert chunk in list(undo_one_byte(bytes(wrong)))


def test_a_trailer_that_measures_another_code_is_inconsistent_with_its_moments(root: Path) -> None:
    def change(trailer: Trailer) -> Trailer:
        assert trailer.distortion is not None
        sums = trailer.distortion.sums.copy()
        sums[1, :, 3] *= 1.1
        return replace(trailer, distortion=replace(trailer.distortion, sums=sums))

    rewrite_trailer(root, 0, change)
    (problem,) = [p for p in verify(root, quick=True).problems if p.kind is Kind.TRAILER_INCONSISTENT]
    assert "distortion is not that of tokens with these moments" in problem.message


def test_a_code_that_does_not_fit_its_tokens_is_reported_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    code = caches.code_of(CODED)
    shrinking = replace(code, rotation=code.rotation * np.float32(0.8)).with_digest()
    monkeypatch.setattr(caches, "code_of", lambda teacher: shrinking)
    root = tmp_path / "cache"
    cache = caches.make_cache(root, DATASETS[:1], [CODED])
    assert any("does not quite fit" in line and "slope of patch" in line for line in store.seal(cache).warnings)
    before, report = contents(root), verify(root)
    assert [problem.kind for problem in report.problems] == [Kind.CODE_UNFIT]
    assert "slope of" in report.problems[0].message
    repair(root, report)
    assert contents(root) == before
