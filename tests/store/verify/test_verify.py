"""Every damage is found and gets its own name; nothing whole is called damaged."""

import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

import store
from store import errors
from store.inspection.info import inspect
from store.inspection.row_view import gather
from store.verify.problems import Kind
from store.verify.verify import verify
from tests.store import caches, damage
from tests.store.damage import RECOMPUTED, REPAIRED, REPORTED

ALL = [*REPAIRED, *RECOMPUTED, *REPORTED]
NAMES = [function.__name__ for function, _ in ALL]
IN_ROWS = {Kind.ROW_CHECKSUM, Kind.ROW_DIFFERS, Kind.ROW_NOT_FINITE, Kind.HOLE_NOT_ZERO, Kind.MOMENTS_DIFFER}
CONSEQUENCES = {
    Kind.OBJECT_SIZE: {Kind.ROW_CHECKSUM},
    Kind.MISPLACED: {Kind.SHARD_GONE},
    Kind.QUARANTINED: {Kind.SHARD_GONE},
    Kind.PIXELS_MISSING: {Kind.SHARD_GONE},
    Kind.METADATA_DIFFERS: {Kind.METADATA_DAMAGED},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "cache"
    caches.make_cache(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_cache_is_ok(root: Path, quick: bool) -> None:
    report = verify(root, quick=quick)
    assert report.ok, report.problems
    assert report.notes == ()
    assert (report.shards, report.rows) == (15, 3 * 10 + 3 * 7)


def test_a_cache_being_filled_is_ok(tmp_path: Path) -> None:
    cache = caches.create_datasets(tmp_path / "cache")
    assert verify(cache.location).ok
    caches.write_pixels(cache, damage.FLOWERS, 1)
    report = verify(cache.location)
    assert report.ok
    assert report.notes == ("'flowers/pixels' is not sealed",)
    store.seal(cache)
    caches.write_tokens(cache, damage.FLOWERS, damage.DINO, 1)
    caches.write_pixels(cache, damage.FLOWERS, 0)
    with cache["flowers"].write_shard("pixels", 2, provenance={}):  # another process is writing it
        report = verify(cache.location)
    assert report.ok
    assert len(report.notes) == 3


@pytest.mark.parametrize(
    ("images", "failed", "failed_tokens"),
    [(10, (), range(4, 8)), (10, (), (8, 9)), (10, (), range(10)), (10, range(10), ()), (1, (), ()), (1, (), (0,))],
    ids=["a shard", "the short last shard", "all tokens", "all pixels", "one row", "one failed row"],
)
def test_failed_rows_alone_are_no_problem(
    tmp_path: Path, images: int, failed: Collection[int], failed_tokens: Collection[int]
) -> None:
    tokens = {teacher.name: failed_tokens for teacher in caches.TEACHERS}  # one with a prefix token, one without
    spec = caches.DatasetSpec("d", "g", images=images, failed=failed, failed_tokens=tokens)
    cache = caches.make_cache(tmp_path, [spec])
    for quick in (False, True):
        report = verify(tmp_path, quick=quick)
        assert (report.problems, report.notes) == ((), ())
    again = store.seal(tmp_path)
    assert not any(array.changed for array in again.arrays)
    assert images > 1 or again.warnings == ()
    ok = sorted(set(range(images)) - set(failed) - set(failed_tokens))
    assert cache["d"].valid_rows(["dino", "mast"]).tolist() == ok
    for teacher in caches.TEACHERS:
        statistics = cache["d"].statistics(teacher.name)
        assert statistics.patch.count.tolist() == [len(ok) * 4.0] * teacher.channels
        assert (statistics.prefix is None) == (not ok or teacher.prefix_tokens == 0)
    assert [array.ok for array in inspect(store.open(tmp_path)).datasets[0].arrays][1:] == [len(ok)] * 2
    assert gather(cache["d"], [0]).rows[0].view == 0


@pytest.mark.parametrize(("function", "kind"), ALL, ids=NAMES)
def test_each_damage_is_reported_with_its_kind(root: Path, function: Callable[[Path], None], kind: Kind) -> None:
    function(root)
    report = verify(root)
    kinds = {problem.kind for problem in report.problems}
    assert kind in kinds
    assert kinds <= {kind, *CONSEQUENCES.get(kind, ())}, report.problems
    quick = {problem.kind for problem in verify(root, quick=True).problems}
    assert (kind in quick) == (kind not in IN_ROWS)


def test_problems_name_the_rows_and_are_plain_json(root: Path) -> None:
    damage.flip_token_row(root)
    (problem,) = verify(root).problems
    assert problem.as_json() == {
        "kind": "row_checksum",
        "key": "features.zarr/flowers/dino/tokens/c.1.0.0",
        "message": "row 5: checksum differs",
        "dataset": "flowers",
        "array": "dino",
        "shard": 1,
        "rows": [5],
    }
    assert str(problem) == "shard 1 of 'flowers/dino': row 5: checksum differs"


def test_a_live_writers_file_is_no_problem_and_an_unreadable_leftover_only_a_note(root: Path) -> None:
    tokens = root / "features.zarr/flowers/dino/tokens"
    (tokens / damage.temporary_name(root, pid=os.getpid())).write_bytes(b"half")
    report = verify(root)
    assert report.ok
    assert "is being written" in report.notes[0]


@pytest.mark.parametrize("array", ["pixels", "mast/tokens"])
@pytest.mark.parametrize("sealed", [True, False])
def test_an_array_without_layout_is_a_problem_and_read_through_zarr_if_it_was_not_sealed(
    root: Path, array: str, sealed: bool
) -> None:
    path, name = root / "features.zarr/flowers" / array / "zarr.json", array.split("/")[0]
    document = json.loads(path.read_text())
    document["attributes"] = {}
    path.write_text(json.dumps(document))
    flowers = store.open(root)["flowers"]
    if sealed:
        with pytest.raises(
            errors.Damaged, match=f"flowers/{array}/zarr.json' has no attribute 'layout', and codistill"
        ):
            flowers.read([0], [name])
    else:
        (root / f"seal/flowers.{name}.safetensors").unlink()
        flowers.read([0], [name])
        shown = inspect(store.open(root)).datasets[0]
        assert sum(array.notes != () for array in shown.arrays) == 1
        assert [array.ok for array in shown.arrays] == [9, 8, 9]
    report = verify(root)
    assert {(problem.kind, problem.key) for problem in report.problems} == {
        (Kind.METADATA_DAMAGED, f"features.zarr/flowers/{array}/zarr.json")
    }
    assert "layout" in report.problems[0].message


def test_no_cache_is_an_error_and_not_a_problem(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingCache):
        verify(tmp_path)
