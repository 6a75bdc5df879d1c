"""`CacheDataset`: which rows it has, what a sample and a batch hold, and what is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

import store
from codistill.torch import Batch, CacheDataset, normalise
from store import errors
from tests.train.builders import build_cache
from tests.train.codes import build_coded

SUBSET_RATIO = 16.0
FAILED = {("faces", "alpha"): [1, 2], ("rooms", "pixels"): [3]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_cache(tmp_path_factory.mktemp("plain") / "cache", failed=FAILED).location


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Codes of a part of the patches (alpha) and of all (beta) in `train`, float16 in `val`."""
    return build_coded(tmp_path_factory.mktemp("mixed") / "cache", {"alpha": SUBSET_RATIO, "beta": 8.0}).location


def test_usable_rows_are_numbered_group_by_group_and_failed_ones_left_out(plain: str) -> None:
    data = CacheDataset(plain)
    assert dict(data.groups) == {"people": 8, "scenes": 6}
    sources, rows = data.locate(range(len(data)))
    assert [data.datasets[source].name for source in sources] == ["faces"] * 8 + ["rooms"] * 6
    assert rows.tolist() == [0, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 4, 5, 6]
    assert len(CacheDataset(plain, teachers=["beta"])) == 16  # alpha's failures do not matter
    assert len(CacheDataset(plain, split=None)) == 19
    assert repr(data) == "CacheDataset(14 rows: people 8, scenes 6; teachers alpha, beta)"


@pytest.mark.parametrize("split", ["train", None])
@pytest.mark.parametrize("which", ["plain", "mixed"])
def test_samples_and_batches_hold_what_is_stored_in_the_order_asked_for(
    which: str, split: str | None, request: pytest.FixtureRequest
) -> None:
    data = CacheDataset(request.getfixturevalue(which), split=split)
    order = [len(data) - 1, 0, 9, 3, 3, 8]
    batch = data.collate(data.__getitems__(order))
    for position, index in enumerate(order):
        sample = data[index]
        dataset, row = data.datasets[sample["dataset"]], int(sample["row"])
        stored = dataset.read([row], ["pixels", "alpha", "beta"])
        for name in ("alpha", "beta"):
            assert torch.equal(sample["tokens"][name].view(torch.int16), as_bits(stored[name][0]))
        assert (sample["pixels"].numpy() == stored["pixels"][0]).all()
        assert torch.equal(batch.pixels[position], sample["pixels"])
        assert (int(batch.rows[position]), int(batch.datasets[position])) == (row, int(sample["dataset"]))
        raw = dataset.read([row], ["alpha", "beta"], raw=True)
        for name, values in raw.items():
            of_batch = batch.codes[name] if values.dtype == np.uint8 else batch.tokens[name]
            assert (of_batch[position].numpy() == values[0]).all()
    assert torch.equal(batch.images, normalise(batch.pixels))
    assert torch.equal(data[-1]["pixels"], batch.pixels[0])


def as_bits(tokens: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tokens.copy()).view(torch.int16)  # NaN equals itself


def test_a_batch_reads_each_dataset_once(plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, reads = CacheDataset(plain), []
    read = store.Dataset.read

    def counted(self: store.Dataset, rows: Any, *arguments: Any, **options: Any) -> Any:
        reads.append((self.name, list(rows)))
        return read(self, rows, *arguments, **options)

    monkeypatch.setattr(store.Dataset, "read", counted)
    data.batch([13, 0, 8, 1])
    assert reads == [("faces", [0, 3]), ("rooms", [6, 0])]


def test_torchs_own_collate_and_wrappers_work(mixed: str) -> None:
    data = CacheDataset(mixed, split=None)
    stacked = next(iter(DataLoader(Subset(data, [20, 1, 11]), batch_size=3)))
    assert stacked["tokens"]["alpha"].shape == (3, 17, 24)
    assert torch.equal(stacked["row"], data.batch([20, 1, 11]).rows)
    assert isinstance(next(iter(DataLoader(Subset(data, [20, 1]), batch_size=2, collate_fn=data.collate))), Batch)
    with pytest.raises(errors.InvalidInput, match="A wrapper"):
        data.collate([data[0], data[1]])


@pytest.mark.parametrize(
    ("rows", "subset", "expected"),
    [
        (slice(2, 9), "", [3, 4, 5, 6, 7, 8]),
        (range(9, 0, -3), "", [3, 6, 9]),
        ([9, 0, 9, 1], "", [0, 9]),
        ([True, False] * 5, "", [0, 4, 6, 8]),
        (None, "source_width >= 105 and not flip", [6, 8]),
        (slice(7), "flip", [3, 5]),
    ],
)
def test_rows_and_conditions_select_and_pickle_small(plain: str, rows: Any, subset: str, expected: list[int]) -> None:
    data = CacheDataset(plain, datasets=["faces"], rows=rows, subset=subset)
    assert data.locate(range(len(data)))[1].tolist() == expected
    pickled = pickle.dumps(data)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert again.locate(range(len(data)))[1].tolist() == expected
    assert again.digest == data.digest


def test_datasets_slices_and_several_caches_are_taken(plain: str, mixed: str, tmp_path: Path) -> None:
    cache, other = store.open(plain), build_cache(tmp_path / "other", seed=5)
    assert len(CacheDataset(cache["held"])) == 5  # named, so its split does not matter
    assert CacheDataset(cache["faces"][:4]).locate([0, 1])[1].tolist() == [0, 3]
    both = CacheDataset([plain, other])
    assert [(d.name, d.storage.location) for d in both.datasets] == [
        ("faces", plain),
        ("faces", other.location),
        ("rooms", plain),
        ("rooms", other.location),
    ]
    assert len(both) == 14 + 17
    with pytest.raises(errors.InvalidConfig, match=r"image sizes differ.*teacher 'alpha'.*channels is 24, elsewhere 8"):
        CacheDataset([plain, mixed])


def test_teachers_that_an_image_may_learn_from(plain: str) -> None:
    batch = CacheDataset(plain, sharing="none").batch([0, 9])
    assert {name: flags.tolist() for name, flags in batch.eligible.items()} == {
        "alpha": [True, False],
        "beta": [False, True],
    }
    assert not batch.tokens["alpha"][1].any()
    sample = CacheDataset(plain, sharing="none")[0]
    assert torch.isnan(sample["tokens"]["beta"]).all()  # nothing that could pass for a target


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"teachers": ["alhpa"]},
            r"'alhpa' is not in these datasets \(did you mean 'alpha'\?\); available: alpha, beta",
        ),
        ({"datasets": ["face"]}, r"'face' is not in .*did you mean 'faces'"),
        ({"split": "test"}, "no dataset with split 'test'.*splits here: train, val"),
        ({"rows": [1]}, r"rows of which dataset\? There are faces, rooms"),
        ({"rows": {"face": [1]}}, "did you mean 'faces'"),
        ({"rows": {"faces": [10]}}, r"rows 10 are not in 'faces', which has 0\.\.9"),
        ({"subset": "view > 3"}, "no row is ok in pixels, alpha, beta and meets 'view > 3'"),
        ({"subset": "veiw > 3"}, "did you mean 'view'"),
        ({"teachers": "alpha"}, r"teachers: expected a list of names.*found 'alpha'"),
        ({"teachers": [3]}, r"teachers: expected a list of names.*found 3 among them"),
        ({"teachers": []}, "teachers: the list is empty"),
        ({"generic_groups": "people"}, "generic_groups: expected a list of names"),
        ({"subset": 3}, "subset: expected a text, such as 'view < 4', found 3"),
        ({"sharing": "all"}, "sharing: expected one of full, generic, none, available, found 'all'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(plain: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=message) as refused:
        CacheDataset(plain, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cache", [3, None, [3], b"x"])
def test_what_is_no_cache_is_refused_in_a_line(cache: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="cache: expected a location, an opened cache"):
        CacheDataset(cache)


def test_rows_named_twice_are_taken_once_and_no_index_gives_an_empty_batch(plain: str, mixed: str) -> None:
    repeated = CacheDataset(plain, rows={"faces": [5, 3, 5]}, datasets=["faces"])
    assert repeated.locate(range(len(repeated)))[1].tolist() == [3, 5]
    for location in (plain, mixed):
        data = CacheDataset(location)
        samples = data.__getitems__([])
        batch = data.collate(samples)
        assert (len(batch), list(samples), batch.images.shape[0]) == (0, [], 0)
        for target in data.targets()(batch).values():
            assert (target.patches.shape[0], target.map.shape[0], target.mask.shape[0]) == (0, 0, 0)


def test_indices_out_of_bounds_end_a_loop(plain: str) -> None:
    data = CacheDataset(plain)
    assert len(list(data)) == 14
    for bad in (14, -15):
        with pytest.raises(IndexError, match="14 rows"):
            data[bad]
    with pytest.raises(errors.InvalidInput, match="use batch"):
        data[slice(3)]  # type: ignore[index]
    with pytest.raises(IndexError, match="index 14"):
        data.batch([0, 14])


def test_a_cache_that_changed_is_not_numbered_otherwise_in_silence(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache", failed=FAILED)
    pickled = pickle.dumps(CacheDataset(tmp_path / "cache"))
    (tmp_path / "cache").rename(tmp_path / "old")
    build_cache(tmp_path / "cache", seed=1)
    with pytest.raises(errors.Conflict, match="have changed since"):
        len(pickle.loads(pickled))
