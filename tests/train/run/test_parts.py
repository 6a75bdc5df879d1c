"""A student trains on all parts of a dataset as on one; a run that was begun goes on with the parts that it had."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import store
from eval.analyses.variance import explained_variance
from eval.runs.open_run import open_run
from tests.train.builders import DATASETS, SIZE_PX, TEACHERS, build_cache, tiny, write_shard
from tests.train.codes import SEERS, code_of
from tests.train.codes import SIZE_PX as CODED_SIZE_PX
from tests.train.stories import assert_close, same_run, stop_after
from train.loop import train as run_training
from train.recipe.config import Recipe
from train.run.output import CACHE

WHOLE = {**DATASETS, "faces": ("people", "train", 16), "held": ("people", "val", 9)}


def recipe(**values: Any) -> Recipe:
    return tiny(schedule__steps=5, checkpoint__every_steps=2, machine__threads=1, **values)


def append(location: Path, teachers: Any = TEACHERS, *, size_px: int = SIZE_PX) -> None:
    """Add to a cache of `DATASETS` what `WHOLE` has more, as parts, and seal it."""
    cache = store.open(location)
    for number, (name, (_, _, rows)) in enumerate(WHOLE.items()):
        first = cache[name]
        count = rows - first.rows
        if not count:
            continue
        paths = [f"{name}/{row}.png" for row in range(first.rows, rows)]
        columns = {"image_index": pa.array(range(count), pa.int64()), "path": paths}
        part = cache.create_part(name, images=pa.table({**columns, "bytes": pa.array([1] * count, pa.int64())}))
        for teacher in teachers:
            info = first.teacher(teacher)
            described = {key: getattr(info, key) for key in ("identity", "groups", "patch_grid", "prefix_tokens")}
            code = None if info.code is None else first.code(teacher)
            part.create_teacher(teacher, **described, channels=info.channels, code=code)
        shape = (rows, size_px, size_px, 3)
        pixels = np.random.default_rng([0, number]).integers(0, 256, shape, dtype=np.uint8)[first.rows :]
        for shard in range(part.shards):
            write_shard(part, shard, pixels, teachers, {})
    store.seal(cache)


@pytest.mark.parametrize("coded", [False, True])
def test_training_on_parts_is_training_on_one_dataset(coded: bool, tmp_path: Path) -> None:
    """Bit for bit: rows, their numbers, codes and statistics are the same."""
    options: dict[str, Any] = {}
    if coded:
        codes = {"alpha": code_of("alpha", ratio=4), "beta": code_of("beta", ratio=16)}  # 16x: some patches alone
        options = {"teachers": SEERS, "size_px": CODED_SIZE_PX, "codes": codes}
    build_cache(tmp_path / "one", datasets=WHOLE, **options)
    build_cache(tmp_path / "parts", **options)
    append(tmp_path / "parts", options.get("teachers", TEACHERS), size_px=options.get("size_px", SIZE_PX))
    for name in ("one", "parts"):
        run_training(recipe(), caches=[str(tmp_path / name)], out=tmp_path / f"run-{name}", quiet=True)
    assert_close(tmp_path / "run-one", tmp_path / "run-parts", tolerance=1e-9)
    described = json.loads((tmp_path / "run-parts" / CACHE).read_text())["caches"][0]["datasets"]
    assert {name: entry["used_rows"] for name, entry in described.items()} == {"faces": 16, "rooms": 7, "held": 9}
    opened = open_run(tmp_path / "run-parts", device="cpu")
    curves = explained_variance(opened.run, opened.mixture, datasets=["held"], shards=0)
    assert next(iter(curves["held"].values()))["teacher"]["tokens"] == 9 * (16 if coded else 4)


def test_a_run_goes_on_with_the_parts_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, cache = recipe(targets__statistics="cache"), tmp_path / "cache"
    build_cache(cache)
    run_training(own, caches=[str(cache)], out=tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 3)
        assert not run_training(own, caches=[str(cache)], out=tmp_path / "pieces", quiet=True).finished
    append(cache)
    assert run_training(own, caches=[str(cache)], out=tmp_path / "pieces", resume=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")
    assert "6 rows of 'faces', 4 rows of 'held'" in capsys.readouterr().err
    opened = open_run(tmp_path / "pieces", device="cpu")
    assert [len(source.rows) for source in opened.mixture.held_out] == [5]
    again = pickle.loads(pickle.dumps(opened.mixture.sources[0].dataset))
    assert again.rows == 10


def test_a_run_that_began_with_a_part_needs_it(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    append(tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 3)
        run_training(recipe(), caches=[str(tmp_path / "cache")], out=tmp_path / "run", quiet=True)
    store.open(tmp_path / "cache").delete_dataset("faces--part-0001")
    with pytest.raises(store.errors.Conflict, match=r"'faces': rows: stored 16, asked 10"):
        run_training(recipe(), caches=[str(tmp_path / "cache")], out=tmp_path / "run", resume=True, quiet=True)
