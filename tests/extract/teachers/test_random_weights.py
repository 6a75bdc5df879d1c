"""Teachers without a weight file: the same on every machine, and known by their identity."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extract.catalogue import load_catalogue
from extract.teachers import dinov2, mast3r, random_weights
from extract.teachers.loading import load
from store.errors import InvalidConfig, InvalidInput
from tests.extract.builders import small_catalogue

SMALL = {"embed_dim": 64, "depth": 2}
GOLDEN = [1059818723, 3208513066, 1060433579, 1052123202]  # bits of the first row of a matrix 2 x 4, seed 7
MODELS = ["dinov2", "multihmr", "mast3r", "dust3r", "croco", "timm:test_vit", "timm:test_efficientnet"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large architectures with fewer and narrower blocks."""
    monkeypatch.setattr(dinov2, "LARGE", dinov2.LARGE | SMALL)
    monkeypatch.setattr(mast3r, "LARGE", mast3r.LARGE | SMALL | {"mlp_hidden": 256})


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_teacher_is_a_function_of_its_seed(model: str) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8))
    torch.manual_seed(1)
    first = load(model, weights="random:5")
    torch.manual_seed(2)
    again, other = load(model, weights="random:5"), load(model, weights="random:6")
    assert first.identity(56) == again.identity(56)
    assert first.identity(56)["random_weights_seed"] == 5
    assert first.fingerprint() != other.fingerprint()
    assert first.provenance()["random_weights_seed"] == 5
    patches, same = (teacher(pixels)[1] for teacher in (first, again))
    assert torch.equal(patches, same)
    assert 1e-2 < float(patches.std()) < 1e2
    assert float(patches.std(dim=1).mean()) > 1e-3  # depends on the image


def test_values_are_the_documented_ones() -> None:
    """Golden, so that another version of numpy or torch that gives others is noticed: caches would not be extended."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.LayerNorm(2), torch.nn.Conv2d(3, 1, 2))
    random_weights.fill(network, 7)
    state = network.state_dict()
    assert state["0.bias"].tolist() == [0, 0]
    assert state["1.weight"].tolist() == [1, 1]
    np.testing.assert_array_equal(state["0.weight"].numpy().view(np.uint32)[0], GOLDEN)
    assert abs(float(state["2.weight"].abs().max())) <= 0.02 * 3**0.5


def test_a_seed_is_a_number_and_a_catalogue_needs_no_file(tmp_path: Path) -> None:
    teacher = '[[teacher]]\nname = "trial"\nmodel = "timm:test_vit"\nweights = "{}"\n'
    (tmp_path / "images").mkdir()
    catalogue = load_catalogue(small_catalogue(tmp_path, teachers=teacher.format("random:12")))
    assert catalogue.teacher_named("trial").random_seed == 12
    assert "random weights of 'trial'" in catalogue.random_note
    with pytest.raises(InvalidConfig, match="'random:SEED' with a whole number, found 'random:x'"):
        load_catalogue(small_catalogue(tmp_path, teachers=teacher.format("random:x")))
    with pytest.raises(InvalidInput, match="stride"):
        load("dinov2", weights="random", stride=16)
