"""A run is bound to the datasets, rows and teachers that it used, whatever else is in the cache or comes later."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store.errors import Conflict, Damaged
from tests.train.builders import DATASETS, SIZE_PX, TEACHERS, Seer, build_cache, mean_colours, tiny, write_shard
from tests.train.stories import same_run, stop_after
from train.__main__ import main as train_command
from train.loop import train as run_training
from train.recipe.config import Recipe
from train.run import directory
from train.run.output import CACHE, ROWS

MORE = {**DATASETS, "cats": ("people", "train", 6), "cats-held": ("people", "val", 3)}
GAMMA = Seer(prefix=0, channels=6, groups=("people",), see=partial(mean_colours, prefix=0, channels=6))


def recipe(**values: Any) -> Recipe:
    return tiny(schedule__steps=5, checkpoint__every_steps=2, machine__threads=1, **values)


def begin(cache: Path, out: Path, recipe: Recipe) -> None:
    """A run that is stopped after three of its five steps."""
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 3)
        assert not run_training(recipe, caches=[str(cache)], out=out, quiet=True).finished


def grow(cache: Path) -> None:
    """Add datasets for training and measuring, a teacher of all datasets, and a dataset that is not sealed."""
    built = build_cache(cache, datasets=MORE, teachers={**TEACHERS, "gamma": GAMMA})
    images = built["faces"].image_list()
    unsealed = built.create_dataset("new", images=images, group="people", split="train", mode="train", views=1)
    unsealed.create_teacher(
        "alpha", identity={"model": "alpha"}, groups=("people",), patch_grid=(2, 2), prefix_tokens=1, channels=8
    )


def replace_shard(cache: Path, other: Path, dataset: str, shard: int, arrays: Sequence[str]) -> None:
    """Take shards of another cache of the builders in place of a cache's own, and seal it."""
    for array in arrays:
        key = store.open(cache)[dataset].array(array).shard_key(shard)
        shutil.copyfile(other / key, cache / key)
    store.seal(cache)


@pytest.mark.parametrize("statistics", ["used", "cache", "subset"])
def test_a_run_goes_on_with_what_it_began_with(
    statistics: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = {"data__subset": "row != 3"} if statistics == "subset" else {}
    own, cache = recipe(targets__statistics=statistics, **subset), tmp_path / "cache"
    build_cache(cache)
    run_training(own, caches=[str(cache)], out=tmp_path / "whole", quiet=True)
    begin(cache, tmp_path / "pieces", own)
    grow(cache)
    assert run_training(own, caches=[str(cache)], out=tmp_path / "pieces", resume=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "note: goes on with" in line]
    for name in ("dataset 'cats'", "dataset 'cats-held'", "dataset 'new'", "teacher 'gamma'"):
        assert name in note


def test_a_run_without_a_checkpoint_begins_again_with_what_it_began_with(tmp_path: Path) -> None:
    """The statistics of its targets are computed again, over the datasets that it began with."""
    own, cache = recipe(targets__statistics="cache"), tmp_path / "cache"
    build_cache(cache)
    run_training(own, caches=[str(cache)], out=tmp_path / "whole", quiet=True)
    begin(cache, tmp_path / "pieces", own)
    shutil.rmtree(tmp_path / "pieces" / "checkpoints")
    build_cache(cache, datasets=MORE)
    assert run_training(own, caches=[str(cache)], out=tmp_path / "pieces", resume=True, quiet=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")


def test_rows_that_come_later_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of used datasets that had failed are computed again: one of a teacher, one of the pixels."""
    own, cache = recipe(), tmp_path / "cache"
    build_cache(cache, failed={("faces", "beta"): [1], ("rooms", "pixels"): [5]})
    build_cache(tmp_path / "mended")
    run_training(own, caches=[str(cache)], out=tmp_path / "whole", quiet=True)
    begin(cache, tmp_path / "pieces", own)
    replace_shard(cache, tmp_path / "mended", "faces", 0, ["beta"])
    replace_shard(cache, tmp_path / "mended", "rooms", 1, ["pixels", "alpha", "beta"])
    assert len(store.open(cache)["rooms"].valid_rows(["alpha", "beta"])) == 7
    assert run_training(own, caches=[str(cache)], out=tmp_path / "pieces", resume=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")
    assert "1 rows of 'faces', 1 rows of 'rooms'" in capsys.readouterr().err


def other_status(cache: Path) -> None:
    build_cache(cache.with_name("failed"), failed={("faces", "beta"): [1]})
    replace_shard(cache, cache.with_name("failed"), "faces", 0, ["beta"])


def other_pixels(cache: Path) -> None:
    dataset = store.open(cache)["faces"]
    for array in ("pixels", *TEACHERS):
        (cache / dataset.array(array).shard_key(0)).unlink()
    write_shard(dataset, 0, np.zeros((10, SIZE_PX, SIZE_PX, 3), np.uint8), TEACHERS, {})
    store.seal(cache)


def other_images(cache: Path) -> None:
    store.open(cache).delete_dataset("faces")
    build_cache(cache, datasets={**DATASETS, "faces": ("people", "train", 9)})


def other_identity(cache: Path) -> None:
    dataset = store.open(cache)["faces"]
    dataset.delete_teacher("beta")
    dataset.create_teacher(
        "beta", identity={"model": "another"}, groups=("scenes",), patch_grid=(2, 2), prefix_tokens=0, channels=12
    )


def no_dataset(cache: Path) -> None:
    store.open(cache).delete_dataset("faces")


CHANGES = {
    other_status: r"'faces': beta of row 1: stored ok, now failed",
    other_pixels: r"pixels of 'faces': shard 0: stored \w{12}, now \w{12}",
    other_images: r"'faces': pixels_identity: stored '\w+', asked '\w+'\. 'faces': rows: stored 10, asked 9",
    other_identity: r"teacher 'beta'.identity_digest: stored '\w+', asked '\w+'",
    no_dataset: r"'faces' is used and gone",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a finished and an unfinished run."""
    folder = tmp_path_factory.mktemp("runs")
    build_cache(folder / "cache")
    run_training(recipe(), caches=[str(folder / "cache")], out=folder / "finished", quiet=True)
    begin(folder / "cache", folder / "unfinished", recipe())
    return folder


def content(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_used_and_changed_is_refused_with_both_values(
    change: Callable[[Path], None], runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "copy")
    change(tmp_path / "copy" / "cache")
    for name in ("finished", "unfinished"):
        run = tmp_path / "copy" / name
        before = content(run)
        with pytest.raises(Conflict, match=CHANGES[change]):
            run_training(recipe(), caches=[str(run.with_name("cache"))], out=run, resume=True, quiet=True)
        assert content(run) == before


def test_a_finished_run_needs_no_cache_but_refuses_another(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "copy")
    build_cache(tmp_path / "other", seed=1)
    run, before = tmp_path / "copy" / "finished", content(tmp_path / "copy" / "finished")
    uuids = store.open(runs / "cache").uuid, store.open(tmp_path / "other").uuid
    for name in ("finished", "unfinished"):
        with pytest.raises(Conflict, match=rf"^another cache: uuid {uuids[0]}, asked {uuids[1]}\. Give run") as caught:
            run_training(
                recipe(seed=1), caches=[str(tmp_path / "other")], out=run.with_name(name), resume=True, quiet=True
            )
        assert len(str(caught.value)) < 400
    shutil.rmtree(tmp_path / "copy" / "cache")
    assert run_training(recipe(), caches=["nowhere"], out=run, resume=True, quiet=True).finished
    with pytest.raises(Conflict, match="seed: stored 0, asked 1"):
        run_training(recipe(seed=1), caches=["nowhere"], out=run, resume=True, quiet=True)
    assert content(run) == before


def test_the_command_of_a_finished_run_needs_no_cache(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(runs / "finished", tmp_path / "out")
    stored = str(out / "recipe.json")
    assert train_command(["run", stored, "--cache", str(tmp_path / "gone"), "--out", str(out), "--resume"]) == 0
    assert "trained 5 steps" in capsys.readouterr().out


def test_a_run_of_before_there_were_recorded_rows_goes_on(runs: Path, tmp_path: Path) -> None:
    """Its cache.json has the status of its rows, which must be what it was."""
    shutil.copytree(runs, tmp_path / "copy")
    run, cache = tmp_path / "copy" / "unfinished", tmp_path / "copy" / "cache"
    (run / ROWS).unlink()
    description = json.loads((run / CACHE).read_text())
    for dataset in description["caches"][0]["datasets"].values():
        del dataset["pixels_identity"]
    (run / CACHE).write_text(json.dumps(description))
    shutil.copytree(run, tmp_path / "other")
    build_cache(cache, datasets=MORE)
    assert run_training(recipe(), caches=[str(cache)], out=run, resume=True, quiet=True).finished
    assert same_run(runs / "finished", run)
    other_status(cache)
    with pytest.raises(Conflict, match=r"'faces': status.beta: stored '\w+', asked '\w+'"):
        run_training(recipe(), caches=[str(cache)], out=tmp_path / "other", resume=True, quiet=True)


def test_recorded_rows_that_cannot_be_read_are_damage(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "copy")
    file = tmp_path / "copy" / "unfinished" / ROWS
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(Damaged, match=r"rows\.npz' cannot be read"):
        directory.read_selection(file.parent)
