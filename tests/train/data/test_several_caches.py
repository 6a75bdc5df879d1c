"""Whole runs on more than one cache: further views, other datasets, a subset, a second stage at another size."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.position import resample_pos_embed
from store.errors import Conflict, InvalidConfig
from tests.train import golden
from tests.train.builders import DATASETS, TEACHERS, Seer, build_cache, mean_colours, tiny
from tests.train.stories import same_run, stop_after, weights
from train.data.loader import Batch
from train.loop import train as run_training
from train.recipe.config import overridden
from train.recipe.named import find
from train.run import directory, load, log
from train.step import Stepper, StepResult


def stored_statistics(run: Path, teacher: str) -> np.ndarray[Any, Any]:
    """Mean and std of the patch tokens, as the run's checkpoint has them."""
    tensors = weights(run)
    return np.stack([tensors[f"norms.norms.{teacher}.patch.{name}"].numpy() for name in ("mean", "std")])


def patch_statistics(by_group: list[list[np.ndarray[Any, Any]]]) -> np.ndarray[Any, Any]:
    """Mean and std of patch tokens where every group counts alike."""
    parts = [np.concatenate([one.reshape(-1, one.shape[-1]) for one in group]) for group in by_group]
    mean = np.mean([part.mean(axis=0) for part in parts], axis=0)
    return np.stack([mean, np.sqrt(np.mean([np.square(part - mean).mean(axis=0) for part in parts], axis=0))])


def patches_of(caches: dict[str, Any], name: str, teacher: str, rows: list[int] | None = None) -> list[Any]:
    """Patch tokens (rows, N, C) of a dataset in every cache that has it, in float64."""
    datasets = [cache[name] for cache in caches.values() if name in cache.datasets]
    prefix = TEACHERS[teacher].prefix
    return [
        one.read(rows or np.arange(one.rows), [teacher])[teacher].astype(np.float64)[:, prefix:] for one in datasets
    ]


def test_more_views_and_other_datasets_train_in_one_run(tmp_path: Path) -> None:
    """Two caches with a further view of everything and a new dataset: all rows, one statistics, one exact resume."""
    more = {**DATASETS, "cats": ("people", "train", 3)}
    caches = {
        str(tmp_path / "one"): build_cache(tmp_path / "one"),
        str(tmp_path / "two"): build_cache(tmp_path / "two", datasets=more, seed=1, first_view=1),
    }
    recipe = tiny(schedule__steps=12, data__batch=8, checkpoint__every_steps=5, machine__threads=1)
    run_training(recipe, caches=list(caches), out=tmp_path / "whole", quiet=True)

    described = directory.read_description(tmp_path / "whole")["caches"]
    rows = [{name: info["used_rows"] for name, info in one["datasets"].items()} for one in described]
    assert rows == [{"faces": 10, "rooms": 7, "held": 5}, {"cats": 3, "faces": 10, "rooms": 7, "held": 5}]
    (held,) = {record["datasets"]["held"]["alpha"]["images"] for record in log.read(tmp_path / "whole", log.FIDELITY)}
    assert held == 8  # four of each cache, together
    for teacher in TEACHERS:
        people = [*patches_of(caches, "cats", teacher), *patches_of(caches, "faces", teacher)]
        expected = patch_statistics([people, patches_of(caches, "rooms", teacher)])
        assert stored_statistics(tmp_path / "whole", teacher) == pytest.approx(expected, rel=1e-4, abs=1e-5)

    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 7)
        run_training(recipe, caches=list(caches), out=tmp_path / "pieces", quiet=True)
    with pytest.raises(Conflict, match=r"^another cache: uuid \S+, \S+, asked \S+\. "):
        run_training(recipe, caches=list(caches)[:1], out=tmp_path / "pieces", resume=True, quiet=True)
    other_machine = overridden(
        recipe, {"machine.readers": 1, "machine.prefetch": 5, "machine.verify": False}, subject=""
    )
    assert run_training(other_machine, caches=list(caches), out=tmp_path / "pieces", resume=True, quiet=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")


def rows_trained_on(patched: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """Filled with (source, row) of every step that is taken from now on."""
    rows: set[tuple[int, int]] = set()
    before = Stepper.step

    def noting(self: Stepper, batch: Batch, *, stop: bool = False) -> StepResult:
        rows.update(zip(batch.rows.source.tolist(), batch.rows.row.tolist(), strict=True))
        return before(self, batch, stop=stop)

    patched.setattr(Stepper, "step", noting)
    return rows


@pytest.mark.parametrize("statistics", ["used", "subset"])
def test_a_subset_trains_on_its_rows_with_the_statistics_asked_for(
    statistics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all rows, unless those of the subset alone are asked for."""
    caches = {str(tmp_path / "cache"): build_cache(tmp_path / "cache")}
    rows = rows_trained_on(monkeypatch)
    recipe = tiny(data__subset="row < 3 and not flip", targets__statistics=statistics)
    run_training(recipe, caches=list(caches), out=tmp_path / "run", quiet=True)
    assert rows == {(0, 0), (0, 2), (1, 0), (1, 2)}
    used = {"used": None, "subset": [0, 2]}[statistics]
    for teacher in TEACHERS:
        expected = patch_statistics([patches_of(caches, name, teacher, used) for name in ("faces", "rooms")])
        assert stored_statistics(tmp_path / "run", teacher) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_second_stage_begins_from_a_released_file_on_a_cache_of_448_px(tmp_path: Path) -> None:
    """DUNE's 336 -> 448: encoder, projectors and statistics of the file, its position embedding resized once."""
    channels = {"dinov2": 128, "mast3r": 128, "multihmr": 48}
    prefix = {"dinov2": 1, "mast3r": 0, "multihmr": 0}
    teachers = {
        name: Seer(
            prefix=prefix[name],
            channels=width,
            groups=("people",),
            see=partial(mean_colours, prefix=prefix[name], channels=width),
        )
        for name, width in channels.items()
    }
    datasets = {"faces": ("people", "train", 4), "held": ("people", "val", 2)}
    build_cache(tmp_path / "cache", datasets=datasets, teachers=teachers, size_px=448)
    released = golden.FOLDER / "dune_student.safetensors"
    student = {"architecture": "tiny", "embed_dim": 64, "depth": 2, "num_heads": 2}
    small = {"student": student, "data.batch": 2, "schedule.steps": 2, "optim.precision": "fp32", "targets.norm": "ema"}
    recipe = overridden(find("dune-base-448"), {**small, "log.tensorboard": False}, subject="test recipe")
    out, cache = tmp_path / "run", [str(tmp_path / "cache")]
    with pytest.raises(InvalidConfig, match="Name what to start from"):
        run_training(recipe, caches=cache, out=out, quiet=True)
    recipe = overridden(recipe, {"start.checkpoint": str(released)}, subject="test recipe")
    assert run_training(recipe, caches=cache, out=out, quiet=True).finished
    assert all(np.isfinite(record["loss"]) for record in log.read(out, log.STEP))

    begun, norms = load.build_initial(recipe, directory.read_description(out))
    released_student = golden.student()
    assert released_student.distiller is not None
    assert released_student.norms is not None
    expected = dict(released_student.distiller.state_dict())
    position = expected.pop("encoder.pos_embed")
    tensors = dict(begun.state_dict())
    resized = resample_pos_embed(position, (32, 32), rule="stage")
    assert torch.equal(tensors.pop("encoder.pos_embed"), resized)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    statistics = released_student.norms.state_dict()
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in norms.state_dict().items())
    assert weights(out)["distiller.encoder.pos_embed"].shape == resized.shape


def test_a_second_stage_goes_on_without_the_first(tmp_path: Path) -> None:
    """The start checkpoint is needed until the first checkpoint of the run, and no longer."""
    build_cache(tmp_path / "small")
    build_cache(tmp_path / "large", size_px=42)
    run_training(tiny(schedule__steps=2), caches=[str(tmp_path / "small")], out=tmp_path / "first", quiet=True)
    recipe = tiny(start__checkpoint=str(tmp_path / "first"), schedule__steps=6, machine__threads=1)
    cache = [str(tmp_path / "large")]
    run_training(recipe, caches=cache, out=tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 2)
        run_training(recipe, caches=cache, out=tmp_path / "pieces", quiet=True)
    (tmp_path / "first").rename(tmp_path / "archived")
    with pytest.raises(InvalidConfig, match=r"start.checkpoint: '.*first' does not exist"):
        run_training(recipe, caches=cache, out=tmp_path / "another", quiet=True)
    assert run_training(recipe, caches=cache, out=tmp_path / "pieces", resume=True, quiet=True).finished
    assert same_run(tmp_path / "whole", tmp_path / "pieces")
