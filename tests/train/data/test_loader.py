"""From caches to batches: which rows, whose tokens, into which memory; and what does not fit together."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import store
from store.errors import InvalidConfig, MissingShard, NotSealed
from tests.train.builders import DATASETS, TEACHERS, Seer, build_cache, mean_colours, teacher_info, tiny
from train.data.buffers import row_bytes
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, RowSelection
from train.data.open_caches import describe, open_mixture
from train.data.sampler import Sampler
from train.objective.target_statistics import set_exact
from train.objective.targets import TargetNorms
from train.recipe.config import Recipe

FAILED = {("faces", "pixels"): [3], ("faces", "alpha"): [0, 9], ("rooms", "beta"): [1, 2]}


def opened(tmp_path: Path, recipe: Recipe | None = None, **options: Any) -> Mixture:
    build_cache(tmp_path / "cache", **options)
    return open_mixture(recipe or tiny(), [str(tmp_path / "cache")])


def batches(mixture: Mixture, *, steps: int, batch: int = 6, **options: Any) -> list[Batch]:
    with loader(mixture, plan=plan_of(mixture, batch=batch), steps=steps, batch=batch, **options) as over:
        return [copied(one) for one in over]


def loader(mixture: Mixture, *, steps: int, batch: int = 6, **options: Any) -> Loader:
    return Loader(
        sources=mixture.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        steps=range(steps),
        batch=batch,
        device=torch.device("cpu"),
        **options,
    )


def copied(batch: Batch) -> Batch:
    """A batch is valid until the next one; this stays."""
    tokens = {name: tensor.clone() for name, tensor in batch.tokens.items()}
    return Batch(step=batch.step, rows=batch.rows, pixels=batch.pixels.clone(), tokens=tokens, read=batch.read)


def plan_of(mixture: Mixture, *, batch: int = 6) -> Callable[[int], RowSelection]:
    sampler = Sampler(seed=0, batch=batch, groups=mixture.group_rows)
    return lambda step: mixture.locate(sampler.sample_batch(step))


def rows_of(mixture: Mixture, read: list[Batch]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for batch in read:
        for source, row in zip(batch.rows.source, batch.rows.row, strict=True):
            rows.setdefault(mixture.sources[source].dataset.name, []).append(int(row))
    return rows


def test_batches_hold_the_stored_bytes_of_every_usable_row_once_per_pass(tmp_path: Path) -> None:
    mixture = opened(tmp_path, failed=FAILED)
    read = batches(mixture, steps=7)  # 21 of each group: three passes of 7 faces, more than four of 5 rooms
    rows = rows_of(mixture, read)
    assert sorted(rows["faces"]) == sorted(3 * [1, 2, 4, 5, 6, 7, 8])
    assert set(rows["rooms"]) == {0, 3, 4, 5, 6}
    for batch in read:
        assert sorted(batch.rows.slot) == list(range(6))
        for position, (source, row) in enumerate(zip(batch.rows.source, batch.rows.row, strict=True)):
            stored = mixture.sources[source].dataset.read([row], ["pixels", "alpha", "beta"])
            assert np.array_equal(batch.pixels[position].numpy(), stored["pixels"][0])
            assert all(np.array_equal(batch.tokens[name][position].numpy(), stored[name][0]) for name in batch.tokens)


def test_without_sharing_only_own_tokens_are_needed_and_read(tmp_path: Path) -> None:
    mixture = opened(tmp_path, tiny(sharing__mode="none"), failed=FAILED)
    assert mixture.group_rows == {"people": 7, "scenes": 5}
    assert {source.dataset.name: source.reads for source in mixture.sources} == {
        "faces": ("alpha",),
        "rooms": ("beta",),
    }
    for batch in batches(mixture, steps=3):
        faces = np.array([mixture.sources[source].dataset.name == "faces" for source in batch.rows.source])
        assert np.array_equal(batch.read, [faces, ~faces])
        assert not batch.tokens["beta"][faces].any()
        assert batch.tokens["beta"][~faces].any(dim=2).all()
    everything = open_mixture(tiny(sharing__mode="none", targets__norm="ema"), [str(tmp_path / "cache")])
    assert {source.reads for source in everything.sources} == {("alpha", "beta")}
    generic = open_mixture(tiny(sharing__mode="generic", sharing__generic_groups=["people"]), [str(tmp_path / "cache")])
    with pytest.raises(InvalidConfig, match="none of dinov2, generic is here; groups: people, scenes"):
        open_mixture(tiny(sharing__mode="generic"), [str(tmp_path / "cache")])
    assert {s.dataset.name: s.reads for s in generic.sources} == {"faces": ("alpha", "beta"), "rooms": ("beta",)}


def test_several_caches_train_together(tmp_path: Path) -> None:
    build_cache(tmp_path / "one", failed={("faces", "alpha"): [0]})
    build_cache(tmp_path / "two", datasets={"faces": ("people", "train", 4), "cats": ("people", "train", 3)}, seed=1)
    mixture = open_mixture(tiny(), [str(tmp_path / "one"), str(tmp_path / "two")])
    names = [(source.dataset.name, source.cache, len(source.rows)) for source in mixture.groups["people"]]
    assert names == [("cats", 1, 3), ("faces", 0, 9), ("faces", 1, 4)]
    seen = {
        (int(source), int(row))
        for batch in batches(mixture, steps=16, batch=2)  # one of each group: a pass of people is 16 steps
        for source, row in zip(batch.rows.source, batch.rows.row, strict=True)
        if mixture.sources[source].dataset.group == "people"
    }
    assert len(seen) == 16
    assert len({cache["uuid"] for cache in describe(mixture)["caches"]}) == 2


def test_what_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    other = {
        "alpha": Seer(prefix=1, channels=4, groups=("people",), see=lambda p: mean_colours(p, prefix=1, channels=4))
    }
    build_cache(tmp_path / "other", datasets={"faces": DATASETS["faces"]}, teachers=other, size_px=42)
    recipe = tiny(student__image_size=30, data__datasets=["held", "face"], data__teachers=["alpha", "gamma"])
    with pytest.raises(InvalidConfig) as caught:
        open_mixture(recipe, [str(tmp_path / "cache"), str(tmp_path / "cache")])
    message = str(caught.value)
    assert "the recipe is for 30 px, the cache has 28 px" in message
    assert "the same cache is given twice" in message
    assert "data.datasets[0]: 'held' has split 'val', not 'train'" in message
    assert (
        "data.datasets[1]: 'face' is not in this cache (did you mean 'faces'?); available: faces, held, rooms"
        in message
    )
    with pytest.raises(InvalidConfig) as caught:
        open_mixture(tiny(), [str(tmp_path / "cache"), str(tmp_path / "other")])
    message = str(caught.value)
    assert "image sizes of the caches differ: 28 px, 42 px" in message
    assert "teacher 'alpha' in 'faces': channels is 4, elsewhere 8" in message
    assert "teacher 'alpha' in 'faces': patch_grid is (3, 3), elsewhere (2, 2)" in message


def test_lacking_tokens_and_empty_groups_are_refused(tmp_path: Path) -> None:
    build_cache(tmp_path / "one", datasets={"faces": DATASETS["faces"]})
    build_cache(tmp_path / "two", datasets={"rooms": DATASETS["rooms"]}, teachers={"beta": TEACHERS["beta"]})
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(InvalidConfig, match="dataset 'rooms' has no tokens of alpha"):
        open_mixture(tiny(), both)
    assert open_mixture(tiny(sharing__mode="none"), both).group_rows == {"people": 10, "scenes": 7}
    with pytest.raises(
        InvalidConfig, match="group 'people': no row is ok in pixels, alpha, beta and meets 'row > 100'"
    ):
        open_mixture(tiny(data__subset="row > 100"), both[:1])


def test_unsealed_caches_are_refused_with_the_command(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    for status in (tmp_path / "cache" / "features.zarr" / "faces").glob("pixels_status/c*"):
        status.unlink()
    with pytest.raises(NotSealed, match="codistill store seal"):
        open_mixture(tiny(), [str(tmp_path / "cache")])


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("row < 4 and not row == 2", {0, 1, 3}),
        ('row in [1, 5, 50] or path == "faces/7.png"', {1, 5, 7}),
        ("2 < row <= 4", {3, 4}),
        ("source_width * 2 > 214 and row - 1 >= 7", {8, 9}),
        ("source_width / 8 > 13.4", {8, 9}),  # whole numbers divide as in Python
        ("row not in [0, 1, 2, 3, 4, 5] and view != -1 and status == 1 and not flip", {6, 8}),
    ],
)
def test_a_subset_is_an_expression_over_the_manifest(expression: str, rows: set[int], tmp_path: Path) -> None:
    mixture = opened(tmp_path, tiny(data__subset=expression, data__datasets=["faces"]))
    assert set(rows_of(mixture, batches(mixture, steps=5))["faces"]) == rows


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("vieww < 4", r"unknown column 'vieww' \(did you mean 'view'\?\)"),
        ("__import__('os').system('true')", "is not understood"),
        ("row <", "not an expression"),
        ("row in other", "is not understood"),
        ("path < 4", "these types do not go together: .*string"),
        ("row + 1", "these types do not go together: .*must evaluate to bool"),
        ('view in [0, "front"]', "these types do not go together"),
        ("source_width * 2147483647 > 0", "on the rows of 'faces': overflow"),
    ],
)
def test_a_subset_that_is_no_expression_is_refused(expression: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=message):
        opened(tmp_path, tiny(data__subset=expression))


def test_exact_statistics_are_those_of_the_mixture(tmp_path: Path) -> None:
    """Equal to sampling each group equally often, over all ok rows; or over the subset alone if asked."""
    mixture = opened(tmp_path, tiny(data__subset="row < 3"), failed=FAILED)
    infos = {name: teacher_info(channels=seer.channels, prefix_tokens=seer.prefix) for name, seer in TEACHERS.items()}
    usable = {"faces": [1, 2], "rooms": [0]}
    for over_subset in (False, True):
        norms = TargetNorms(infos)
        set_exact(norms, mixture, over_subset=over_subset)
        for name, seer in TEACHERS.items():
            parts = []
            for source in mixture.sources:
                ok = np.flatnonzero((source.dataset.status(name) == 1) & (source.dataset.status("pixels") == 1))
                rows = usable[source.dataset.name] if over_subset else ok
                tokens = source.dataset.read(rows, [name])[name].astype(np.float64)
                parts.append(tokens[:, seer.prefix :].reshape(-1, seer.channels))
            mean = np.mean([part.mean(axis=0) for part in parts], axis=0)
            square = np.mean([np.square(part - mean).mean(axis=0) for part in parts], axis=0)
            patch_norm = norms.stored(name).patch
            assert patch_norm.mean.numpy() == pytest.approx(mean, rel=1e-5, abs=1e-6)
            assert patch_norm.std.numpy() == pytest.approx(np.sqrt(square), rel=1e-5)


def test_statistics_of_the_whole_cache_do_not_depend_on_the_datasets_trained_on(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    infos = {name: teacher_info(channels=seer.channels, prefix_tokens=seer.prefix) for name, seer in TEACHERS.items()}
    means = []
    for options in (
        {},
        {"targets__statistics": "cache"},
        {"targets__statistics": "cache", "data__datasets": ["faces"]},
    ):
        mixture = open_mixture(tiny(**options), [str(tmp_path / "cache")])
        norms = TargetNorms(infos)
        set_exact(norms, mixture, over_subset=False)
        means.append(torch.cat([norms.stored(name).patch.mean for name in infos]))
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[1], means[2])


def test_memory_is_bounded_and_used_again(tmp_path: Path) -> None:
    mixture = opened(tmp_path)
    addresses = set()
    with loader(mixture, plan=plan_of(mixture), steps=30, prefetch=2) as over:
        for batch in over:
            addresses.add(batch.pixels.data_ptr())
    assert len(addresses) <= 3
    assert row_bytes(mixture.teachers, image_size=28) == 28 * 28 * 3 + 2 * (5 * 8 + 4 * 12)


def test_a_failing_read_reaches_the_consumer_and_no_thread_stays(tmp_path: Path) -> None:
    mixture = opened(tmp_path)
    for shard in (tmp_path / "cache" / "features.zarr" / "rooms" / "beta" / "tokens").glob("c.*"):
        shard.unlink()
    with pytest.raises(MissingShard, match="codistill extract run"):
        batches(mixture, steps=3)
    assert not [thread for thread in threading.enumerate() if thread.name == "codistill-feed"]


def test_leaving_early_stops_the_readers(tmp_path: Path) -> None:
    mixture = opened(tmp_path)
    with loader(mixture, plan=plan_of(mixture), steps=1000) as over:
        for batch in over:
            if batch.step == 2:
                break
    assert not [thread for thread in threading.enumerate() if thread.name == "codistill-feed"]


def test_the_sealed_status_of_the_caches_is_described(tmp_path: Path) -> None:
    """Another row that failed gives another description, whatever else is equal."""
    one, two = describe(opened(tmp_path / "a")), describe(opened(tmp_path / "b", failed={("rooms", "beta"): [1]}))
    status = [description["caches"][0]["datasets"]["rooms"]["status"] for description in (one, two)]
    assert status[0]["pixels"] == status[1]["pixels"]
    assert status[0]["beta"] != status[1]["beta"]
    assert one["teachers"]["alpha"]["identity"] == {"model": "alpha"}
    assert store.open(tmp_path / "a" / "cache").uuid == one["caches"][0]["uuid"]
