"""Tokens kept on disk: the encoder runs once for an image, other students and images have files of their own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.heads.mast3r.feature_cache import FeatureCache
from store.errors import InvalidConfig
from tests.eval.heads.mast3r.goldens import images
from tests.eval.heads.mast3r.miniature import mixture, model, recipe, train
from train.run import log

PLAIN = {"crops": False, "colours": False, "monocular": 0}


def test_a_second_training_does_not_run_the_encoder(tmp_path: Path) -> None:
    chosen = recipe(augment=PLAIN, features=str(tmp_path / "features"), resolutions=[(84, 56)])
    first, second = model(chosen), model(chosen)
    train(tmp_path / "one", chosen, model=first, mixture=mixture())
    train(tmp_path / "two", chosen, model=second, mixture=mixture())
    caches = first.encoder.cache, second.encoder.cache
    assert [(cache.found, cache.encoded) for cache in caches if isinstance(cache, FeatureCache)] == [(26, 6), (32, 0)]
    losses = [[record["loss"] for record in log.read(tmp_path / run)] for run in ("one", "two")]
    assert losses[0] == losses[1]


def test_files_are_of_one_student_and_image_and_end_at_the_limit(tmp_path: Path) -> None:
    def encode(pixels: Tensor) -> Tensor:
        return pixels.flatten(1, 2).float()

    pair = images(2, 4, 6)
    tokens = FeatureCache(tmp_path, student="a", most_bytes=400).tokens(pair, encode)
    assert torch.equal(tokens, encode(pair))
    (kept,) = tmp_path.glob("*/*")  # the second one, of 288 bytes, has no room
    again = FeatureCache(tmp_path, student="a", most_bytes=400)
    assert torch.equal(again.tokens(pair, encode), tokens)
    other = FeatureCache(tmp_path, student="b", most_bytes=0)
    other.tokens(pair, encode)
    turned = FeatureCache(tmp_path, student="a", most_bytes=0)
    turned.tokens(pair[:1].transpose(1, 2), encode)
    assert [(c.found, c.encoded) for c in (again, other, turned)] == [(1, 1), (0, 2), (0, 1)]
    kept.write_bytes(kept.read_bytes()[:-5])
    assert torch.equal(FeatureCache(tmp_path, student="a", most_bytes=400).tokens(pair, encode), tokens)


def test_random_crops_need_no_cache(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"features: with random crops or colours no image comes twice"):
        recipe(features=str(tmp_path))
