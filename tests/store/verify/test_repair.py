"""Repairs: whole again, bit for bit where the trailer survives; no good row is lost whatever happens."""

import contextlib
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import store
from store import errors
from store.format import statistics
from store.format.trailer import Trailer
from store.storage.open_files import OpenFile
from store.verify.problems import Kind
from store.verify.repair import RepairReport, _Repairer, repair
from store.verify.report import check_and_repair
from store.verify.verify import VerifyReport, verify
from tests.store import caches, damage, fake_recomputer
from tests.store.caches import contents, same_rows
from tests.store.damage import DINO, RECOMPUTED, REPAIRED, REPORTED, shard_path
from tests.thoroughness import cases

FLIPS_A_ROUND = 12
ROUNDS = cases(thorough=25, usual=10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repair") / "cache"
    caches.make_cache(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def repaired(root: Path, log: Path | None = None) -> tuple[VerifyReport, RepairReport]:
    report = verify(root)
    return report, repair(store.open(root), report, catalogue=log)


@pytest.mark.parametrize(("function", "kind"), REPAIRED, ids=[function.__name__ for function, _ in REPAIRED])
def test_a_repair_restores_the_same_bytes(
    root: Path, whole: Path, function: Callable[[Path], None], kind: Kind
) -> None:
    function(root)
    _, done = repaired(root)
    assert done.left == []
    assert verify(root).problems == ()
    assert contents(root) == contents(whole)


@pytest.mark.parametrize(("function", "kind"), RECOMPUTED, ids=[function.__name__ for function, _ in RECOMPUTED])
def test_a_repair_restores_the_same_rows_where_the_trailer_was_lost(
    root: Path, whole: Path, function: Callable[[Path], None], kind: Kind
) -> None:
    function(root)
    _, done = repaired(root)
    assert done.left == []
    assert verify(root).problems == ()
    assert same_rows(root, whole)


@pytest.mark.parametrize(("function", "kind"), REPORTED, ids=[function.__name__ for function, _ in REPORTED])
def test_problems_that_people_must_decide_are_not_touched(
    root: Path, function: Callable[[Path], None], kind: Kind
) -> None:
    function(root)
    before = contents(root)
    report = verify(root)
    with contextlib.suppress(errors.UnsupportedFormat):  # where not even the root can be read
        repair(store.open(root), report)
    assert contents(root) == before


def test_every_single_byte_flip_in_a_shard_is_found_and_repaired(root: Path, whole: Path) -> None:
    generator = random.Random(5)
    shards = sorted(path for path in root.rglob("c.*.0.0*") if "statistics" not in path.parts)
    expected = contents(whole)
    for _ in range(ROUNDS):
        hit = generator.sample(shards, FLIPS_A_ROUND)
        for path in hit:
            damage.flip(path, generator.randrange(path.stat().st_size), generator.randrange(1, 256))
        report, done = repaired(root)
        assert {problem.key for problem in report.problems} >= {str(path.relative_to(root)) for path in hit}
        assert done.left == []
        assert contents(root) == expected


def test_only_the_bad_rows_are_recomputed(root: Path, tmp_path: Path) -> None:
    damage.flip_token_row(root)
    damage.flip_pixels_row(root)
    damage.flip_index(root)
    log = tmp_path / "asked"
    repaired(root, log)
    assert log.read_text().splitlines() == ["flowers/pixels 1", "flowers/dino 1"]


def test_lost_manifest_rows_are_restored_from_the_seal_without_the_source(
    root: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recomputer.uninstall(monkeypatch)
    damage.blank_pixels_trailer(root)
    _, done = repaired(root)
    assert done.left == []
    assert store.open(root)["flowers"].manifest().equals(store.open(whole)["flowers"].manifest())


def test_pixels_that_the_source_no_longer_gives_are_left_and_reported_with_their_tokens(
    root: Path, tmp_path: Path
) -> None:
    damage.flip_pixels_row(root)
    damage.flip_token_row(root)
    before = contents(root)
    _, done = repaired(root, tmp_path / fake_recomputer.CHANGED)
    pixels, tokens = done.left
    assert (pixels.array, pixels.shard, pixels.rows) == ("pixels", 1, (6,))
    assert pixels.dependents == {"dino": [6], "mast": [6]}
    assert "other pixels than were recorded" in str(pixels)
    assert "Tokens computed from these pixels: dino rows 6; mast rows 6" in str(pixels)
    assert (tokens.array, tokens.shard) == ("dino", 1)
    assert "pixels must be whole first" in tokens.reason
    assert contents(root) == before


def test_tokens_that_other_pixels_would_change_are_not_accepted_without_a_trailer(root: Path, tmp_path: Path) -> None:
    damage.delete_pixels(root)
    _, done = repaired(root, tmp_path / fake_recomputer.CHANGED)
    assert "Has a source image changed?" in str(done.left[0])
    assert not shard_path(root, "pixels", 1).exists()


def test_without_a_recomputer_the_rest_is_repaired(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_recomputer.uninstall(monkeypatch)
    damage.flip_index(root)
    damage.flip_trailer(root)
    damage.flip_token_row(root)
    _, done = repaired(root)
    assert done.repaired == [("flowers", "pixels", 0), ("flowers", "mast", 1)]
    (left,) = done.left
    assert "Run: pip install 'codistill[extract]'" in str(left)
    assert [problem.kind for problem in verify(root).problems] == [Kind.ROW_CHECKSUM]


def test_the_next_repair_continues_a_killed_one_without_losing_rows(root: Path, whole: Path, tmp_path: Path) -> None:
    damage.quarantine_object(root)
    log = tmp_path / "asked"
    _, done = repaired(root, log)
    assert done.repaired == [("flowers", "dino", 1)]
    assert log.read_text().splitlines() == ["flowers/dino 1"]
    assert contents(root) == contents(whole)


def test_a_failure_to_publish_puts_the_damaged_shard_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage.flip_token_row(root)
    before = contents(root)
    report = verify(root)

    def full(self: store.ShardWriter, manifest: object = None) -> bool:
        raise OSError("no space left on device")

    monkeypatch.setattr(store.ShardWriter, "finish", full)
    with pytest.raises(OSError, match="no space"):
        repair(store.open(root), report)
    assert contents(root) == before


def test_damage_that_a_damaged_document_hides_is_repaired_with_it(root: Path, whole: Path) -> None:
    damage.misspell_attributes(root)
    damage.flip_token_row(root)
    damage.flip(root / "features.zarr/zarr.json", 70)
    shown: list[str] = []
    outcome = check_and_repair(
        root, quick=False, confirm=bool, catalogue=None, device="cpu", progress=False, say=shown.append
    )
    assert not outcome.wrong
    assert shown[2:5] == [
        "repaired 'features.zarr/zarr.json'",
        "repaired 'features.zarr/flowers/dino/tokens/zarr.json'",
        "repaired shard 1 of 'flowers/dino'",
    ]
    assert contents(root) == contents(whole)


def test_a_damaged_record_is_not_asked_which_pixels_a_lost_shard_had(root: Path, whole: Path) -> None:
    damage.flip(root / "seal/flowers.pixels.safetensors", -70)  # in the digest of shard 0
    damage.delete_pixels(root)
    shard_path(root, "pixels", 0).unlink()
    _, done = repaired(root)
    assert done.left == []
    assert verify(root).problems == ()
    assert same_rows(root, whole)


def test_documents_of_which_nothing_is_known_are_named(root: Path) -> None:
    damage.delete_dataset_document(root)
    _, done = repaired(root)
    assert done.documents == []
    assert done.notes == [
        "'features.zarr/rooms/zarr.json' is left as it is: nothing here shows what it was; restore it from another "
        "copy, or see docs/verify.md"
    ]


def test_a_repair_that_cannot_mend_leaves_the_cache_as_it_was_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage.flip_token_row(root)
    damage.delete_tokens(root)
    before = contents(root)
    trailer = store.ShardWriter._trailer

    def with_other_moments(self: store.ShardWriter, manifest: object) -> Trailer:
        written = trailer(self, manifest)
        return replace(written, moments=(None, statistics.empty(DINO.channels)))

    monkeypatch.setattr(store.ShardWriter, "_trailer", with_other_moments)
    for _ in range(2):
        lines: list[str] = []
        outcome = check_and_repair(
            root,
            quick=False,
            confirm=lambda problems: True,
            catalogue=None,
            device="cpu",
            progress=False,
            say=lines.append,
        )
        assert outcome.wrong
        left = [line for line in lines if "left as it is" in line]
        assert [line.partition(":")[0] for line in left] == [
            f"shard {k} of 'flowers/dino' is left as it is" for k in (1, 2)
        ]
        assert "prefix moments of 0 tokens, expected 4 rows of 1" in left[0]
        assert not any("Problem(" in line for line in lines)
        assert contents(root) == before  # no object in quarantine either


def test_a_good_row_that_changes_while_it_is_copied_gets_no_new_checksum(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage.flip_token_row(root)
    before = contents(root)
    report = verify(root)
    read_into = OpenFile.read_into

    def flipped(self: OpenFile, buffers: list[np.ndarray], offset: int, length: int) -> int:
        done = read_into(self, buffers, offset, length)
        if len(buffers) == 2:  # one row and its checksum
            buffers[0][0] ^= 1
        return done

    publish = _Repairer._publish

    def publish_with_bad_reads(self: _Repairer, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenFile, "read_into", flipped)
            publish(self, *arguments)

    monkeypatch.setattr(_Repairer, "_publish", publish_with_bad_reads)
    done = repair(store.open(root), report)
    assert "reads differently now" in str(done.left[0])
    assert contents(root) == before


def test_a_repaired_row_that_differs_is_noted_in_the_provenance(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage.flip_token_row(root)
    exact = fake_recomputer.tokens_of
    monkeypatch.setattr(fake_recomputer, "tokens_of", lambda spec, row: exact(spec, row) * np.float16(1.001))
    repaired(root)
    provenance = store.open(root)["flowers"].read_trailer("dino", 1).provenance
    assert provenance == {"device": "tests", "recomputed": {"rows": [5], "made_by": "fake recomputer"}}
    assert verify(root).ok


def test_a_cache_on_an_object_store_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    location = "memory://bucket/test_repair"
    cache = caches.make_cache(location)
    keys = [f"features.zarr/flowers/dino/tokens/c.{shard}.0.0" for shard in range(3)]
    before = [cache.storage.read(key) for key in keys]
    damaged = [before[1], before[0][:-9] + before[0][-8:], before[2][:70] + b"?" + before[2][71:]]
    for key, data in zip(keys, damaged, strict=True):
        cache.storage.replace(key, data)
    report = verify(location)
    kinds = {(problem.shard, problem.kind) for problem in report.problems}
    assert kinds == {(0, Kind.MISPLACED), (1, Kind.MISPLACED), (1, Kind.OBJECT_SIZE), (2, Kind.HOLE_NOT_ZERO)}
    assert repair(store.open(location), report).left == []
    assert verify(location).ok
    assert [cache.storage.read(key) for key in keys] == before
