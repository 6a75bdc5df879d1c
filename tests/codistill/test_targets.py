"""Targets of a batch: standardised with the sealed statistics, whatever form each dataset stores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.torch import CacheDataset
from store import errors
from tests.train.builders import build_cache
from tests.train.codes import build_coded


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Codes of a part of the patches (alpha) and of all (beta) in `train`, float16 in `val`."""
    return build_coded(tmp_path_factory.mktemp("mixed") / "cache", {"alpha": 16.0, "beta": 8.0}).location


def test_a_plain_target_is_the_tokens_less_their_mean_over_their_deviation(tmp_path: Path) -> None:
    data = CacheDataset(build_cache(tmp_path / "cache"), datasets=["faces"])
    faces = data.datasets[0]
    tokens = faces.read(np.arange(10), ["alpha"])["alpha"].astype(np.float64)  # all rows: the sealed statistics
    expected = (tokens - tokens[:, 1:].mean((0, 1))) / tokens[:, 1:].std((0, 1))
    targets = data.targets()
    target = targets(data.batch(range(10)))["alpha"]
    np.testing.assert_allclose(target.patches.numpy(), expected[:, 1:], atol=2e-3)
    assert target.patches.mean().abs() < 1e-4
    assert target.mask.all()
    assert target.prefix.shape == (10, 1, 8)
    np.testing.assert_allclose(target.prefix.mean((0, 1)), 0, atol=1e-4)  # statistics of its own
    np.testing.assert_allclose(targets.restore("alpha", target.patches).numpy(), tokens[:, 1:], atol=2e-3)
    assert torch.equal(target.map[3, :, 1, 0], target.patches[3, 2])
    assert target.mask_map.shape == (10, 1, 2, 2)


@pytest.mark.parametrize("standardise", [True, False])
def test_codes_and_float16_in_one_batch_give_the_targets_of_their_tokens(mixed: str, standardise: bool) -> None:
    data = CacheDataset(mixed, split=None)
    indices = [0, 21, 9, 15, 10]
    assert {int(dataset) for dataset in data.batch(indices).datasets} == {0, 1, 2}
    targets = data.targets(standardise=standardise)
    found = targets(data.batch(indices))
    decoded = CacheDataset(mixed, split=None, raw=False)
    on_host = decoded.batch(indices)
    assert not on_host.codes
    of_decoded = decoded.targets(standardise=standardise)(on_host)
    for name, target in found.items():
        samples = torch.stack([data[index]["tokens"][name] for index in indices]).float()
        stored = samples.isfinite().all(-1)[:, samples.shape[1] - 16 :]
        assert torch.equal(target.mask, stored)
        assert torch.equal(of_decoded[name].mask, stored)
        assert stored.all() == (name == "beta")
        assert not target.patches[~stored].any()
        torch.testing.assert_close(target.patches, of_decoded[name].patches, atol=5e-3, rtol=0)
        torch.testing.assert_close(target.prefix, of_decoded[name].prefix, atol=5e-3, rtol=0)
        raw = targets.restore(name, target.patches)[stored] if standardise else target.patches[stored]
        torch.testing.assert_close(raw, samples[:, samples.shape[1] - 16 :][stored], atol=8e-3, rtol=0)


def test_images_that_do_not_learn_from_a_teacher_have_no_target(tmp_path: Path) -> None:
    data = CacheDataset(build_cache(tmp_path / "cache"), sharing="none")
    target = data.targets()(data.batch([0, 12]))["alpha"]
    assert target.eligible.tolist() == [True, False]
    assert target.mask.all(dim=1).tolist() == [True, False]
    assert not target.patches[1].any()
    assert not target.prefix[1].any()


def test_statistics_of_the_selected_rows_alone(tmp_path: Path) -> None:
    data = CacheDataset(build_cache(tmp_path / "cache")["faces"][:3])
    patches = data.targets(statistics="subset")(data.batch(range(3)))["beta"].patches
    assert patches.mean((0, 1)).abs().max() < 1e-3
    assert data.targets()(data.batch(range(3)))["beta"].patches.mean((0, 1)).abs().max() > 1e-2
    with pytest.raises(errors.InvalidInput, match="expected one of datasets, subset"):
        data.targets(statistics="all")
