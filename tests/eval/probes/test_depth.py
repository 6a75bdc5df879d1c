"""The depth probe: head, loss and error against known values and the protocol's literal order; a whole probe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from eval.probes import datasets, depth, head_training
from eval.probes.depth_crops import recolour, rotate, training_crop
from eval.probes.feature_store import FeatureStore
from eval.probes.settings import DepthCropSettings, DepthSettings
from store.errors import InvalidInput, JobFailed
from tests.eval.probes.probing import calls_of, colour_encoder, save

CROPS = DepthCropSettings(border=(0, 0, 0, 0), crop_height=16, crop_width=24)


def test_a_zero_head_predicts_the_middle() -> None:
    head = depth.DepthHead(12)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    predicted = head(torch.randn(2, 6, 8), torch.randn(2, 4), (2, 3))
    assert predicted.shape == (2, 1, 8, 12)
    torch.testing.assert_close(predicted, torch.full_like(predicted, 5.0005))


def test_the_linear_layer_commutes_with_enlarging() -> None:
    head = depth.DepthHead(7, bins=16)
    torch.nn.init.normal_(head.score.bias)
    torch.nn.init.normal_(head.score.weight)
    patches, cls, grid = torch.randn(2, 12, 4), torch.randn(2, 3), (3, 4)
    # As the protocol says it: append CLS to every patch, enlarge the features four times, then the layer.
    maps = torch.cat([patches, cls[:, None].expand(-1, 12, -1)], -1).transpose(1, 2).reshape(2, 7, 3, 4)
    scores = head.score(functional.interpolate(maps, scale_factor=4, mode="bilinear").permute(0, 2, 3, 1))
    weights = scores.relu() + 0.1
    expected = (weights / weights.sum(-1, keepdim=True) * torch.linspace(0.001, 10, 16)).sum(-1)
    torch.testing.assert_close(head(patches, cls, grid)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_loss_is_the_scale_invariant_one_over_known_pixels() -> None:
    predicted, true = torch.rand(2, 1, 4, 5) * 5 + 0.5, torch.rand(2, 4, 5) * 5 + 0.5
    true[0, :2] = 0
    known = true > 0
    g = np.log(predicted[:, 0][known].numpy() + 0.001) - np.log(true[known].numpy() + 0.001)
    expected = np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2)
    assert float(depth.depth_loss(predicted, true)) == pytest.approx(expected, rel=1e-5)
    mean_only = float(depth.depth_loss(predicted, true, mean_only=True))
    assert mean_only == pytest.approx(np.sqrt(0.15) * abs(g.mean()), rel=1e-5)


@pytest.mark.parametrize("known", [0, 1, 20])
def test_gradients_are_finite_with_one_pixel_with_none_and_at_a_perfect_prediction(known: int) -> None:
    predicted = torch.full((1, 1, 4, 5), 2.0, requires_grad=True)
    true = torch.zeros(1, 4, 5)
    true.view(-1)[:known] = 2.0
    loss = depth.depth_loss(predicted, true)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-9)
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


def test_the_error_is_the_mean_over_images_of_their_root_mean_squares() -> None:
    true = np.full((4, 4), 5.0)
    errors = [depth.root_mean_squared_error(true + off, true, crop=(0, 0, 0, 0)) for off in (1, 3)]
    assert np.mean(errors) == 2
    edge = true.copy()
    edge[0], edge[1, 0], edge[1, 1] = 0, 10, 0.001  # unknown, and the ends of the open interval
    guess = np.where(edge == true, true + 1, 99)
    assert depth.root_mean_squared_error(guess, edge, crop=(0, 0, 0, 0)) == 1
    assert np.isnan(depth.root_mean_squared_error(guess, np.zeros((4, 4)), crop=(0, 0, 0, 0)))
    assert depth.root_mean_squared_error(guess, edge, crop=(2, 4, 0, 4)) == 1


def test_eigens_crop_is_what_is_scored() -> None:
    true, guess = np.full((480, 640), 2.0), np.full((480, 640), 9.0)
    guess[45:471, 41:601] = 2.5
    assert depth.root_mean_squared_error(guess, true, crop=DepthSettings().scored) == pytest.approx(0.5)


def test_mirrored_predictions_are_turned_back_and_averaged() -> None:
    head = depth.DepthHead(3, bins=8)
    torch.nn.init.normal_(head.score.weight)
    patches = torch.randn(1, 6, 3)
    mirrored = patches.reshape(1, 2, 3, 3).flip(2).reshape(1, 6, 3)
    alone = depth.predict(head, patches[:, None], None, grid=(2, 3), size=(10, 15))
    both = depth.predict(head, torch.stack([patches, mirrored], 1), None, grid=(2, 3), size=(10, 15))
    torch.testing.assert_close(alone, both)
    assert alone.shape == (1, 10, 15)


def test_rotation_keeps_every_depth_value_and_fills_with_zero() -> None:
    random = np.random.default_rng(0)
    deep = random.integers(30_000, 60_000, (40, 50)).astype(np.uint16)  # beyond 15 bits
    pixels, turned = rotate(np.full((40, 50, 3), 200, dtype=np.uint8), deep, 2.5)
    assert turned.dtype == np.uint16
    assert set(turned.ravel().tolist()) <= {*deep.ravel().tolist(), 0}
    assert (turned[0, 0], turned[20, 25]) == (0, deep[20, 25])
    assert (pixels[0, 0] == 0).all()


def test_crops_are_functions_of_the_generator_and_depth_follows_pixels() -> None:
    ramp = np.tile(np.arange(40, dtype=np.uint16) * 6, (30, 1))
    image = np.repeat(ramp[:, :, None], 3, 2).astype(np.uint8)
    plain = DepthCropSettings(
        border=(2, 28, 4, 36), crop_height=16, crop_width=24, rotation_deg=0, gamma=0, brightness=0, colour=0
    )
    for seed in range(8):
        pixels, depths = training_crop(image, ramp, plain, np.random.default_rng(seed))
        assert (pixels.shape, depths.shape) == ((16, 24, 3), (16, 24))
        np.testing.assert_array_equal(pixels[:, :, 1], depths)
        assert 4 * 6 <= depths.min() <= depths.max() < 36 * 6
    first, second = (training_crop(image, ramp, CROPS, np.random.default_rng(5))[0] for _ in "ab")
    np.testing.assert_array_equal(first, second)
    with pytest.raises(InvalidInput, match="32 x 26 px inside the border, expected at least 544 x 416"):
        training_crop(image, ramp, DepthCropSettings(border=(2, 28, 4, 36)), np.random.default_rng(0))


def test_recolouring_stays_in_its_ranges() -> None:
    grey = np.full((2, 2, 3), 128, dtype=np.uint8)
    for seed in range(30):
        recoloured = recolour(grey, DepthCropSettings(), np.random.default_rng(seed)) / 255
        low, high = (128 / 255) ** 1.1 * 0.75 * 0.9, (128 / 255) ** 0.9 * 1.25 * 1.1
        assert low - 0.01 <= recoloured.min() <= recoloured.max() <= high + 0.01


def test_learning_rate_of_the_protocol() -> None:
    def rate(step: int) -> float:
        return depth.learning_rate(step, DepthSettings()) / 1e-4

    assert rate(0) == pytest.approx(1e-3)
    assert rate(19_200) == pytest.approx(0.5, rel=1e-6)
    assert rate(38_400) == pytest.approx(1e-8)


def test_a_loss_that_is_not_finite_fails_the_probe() -> None:
    losses = [torch.tensor(value) for value in (1.0, float("nan"), 2.0)]
    with pytest.raises(JobFailed, match="loss of step 1 is not finite"):
        head_training.tail_mean(losses)
    assert head_training.tail_mean([torch.tensor(float(value)) for value in range(20)]) == 18.5


def nyud_tree(root: Path) -> Path:
    """Rooms whose brightness is their depth."""
    for split, count in (("train", 4), ("test", 3)):
        lines = []
        for number in range(count):
            metres = np.random.default_rng([number, count]).uniform(1, 8, (3, 4)).repeat(8, 0).repeat(8, 1)
            grey = (metres * 25).astype(np.uint8)
            save(root / "room" / f"rgb_{split}_{number}.png", np.repeat(grey[:, :, None], 3, 2))
            save(root / "room" / f"depth_{split}_{number}.png", (metres * 1000).astype(np.uint16))
            lines.append(f"/room/rgb_{split}_{number}.png /room/depth_{split}_{number}.png 518.8\n")
        (root / f"nyu_{split}.txt").write_text("".join(lines))
    return root


def small(**changes: object) -> DepthSettings:
    values = {
        "crops": CROPS,
        "views": 3,
        "iterations": 150,
        "batch": 4,
        "lr": 0.2,
        "mean_only": 5,
        "warm_up": 0.1,
        "scored": (0, 0, 0, 0),
        **changes,
    }
    return DepthSettings(**values)


@pytest.mark.parametrize("cls", [True, False])
def test_depth_is_learnt_from_features_stored_once(cls: bool, tmp_path: Path) -> None:
    root = nyud_tree(tmp_path / "nyu")
    train, test = datasets.depth(root, "train"), datasets.depth(root, "test")
    feature_store = FeatureStore(root=tmp_path / "features", dataset="nyu")
    encoder = colour_encoder(cell_px=4, cls=cls)
    figures = depth.run(encoder, train=train, test=test, feature_store=feature_store, settings=small())
    assert (figures["train_images"], figures["test_images"]) == (4, 3)
    calls = calls_of(encoder)
    untrained = depth.run(
        encoder, train=train, test=test, feature_store=feature_store, settings=small(iterations=1, lr=1e-6)
    )
    assert calls_of(encoder) == calls
    assert figures["rmse"] < 0.7 * untrained["rmse"]


def test_the_gradient_is_clipped_and_the_first_losses_have_the_mean_term_only(tmp_path: Path) -> None:
    train = datasets.depth(nyud_tree(tmp_path / "nyu"), "train")
    encoder = colour_encoder()
    stored = depth.crop_features(
        encoder, train, feature_store=FeatureStore(root=tmp_path / "features", dataset="nyu"), settings=small()
    )

    def fitted(**changes: object) -> tuple[depth.DepthHead, float]:
        return depth.fit(stored, grid=(4, 6), settings=small(**changes), device=encoder.device)

    held = fitted(iterations=5, clip=1e-20, weight_decay=0)[0].score.weight  # AdamW's eps swallows such gradients
    free = fitted(iterations=5, weight_decay=0)[0].score.weight
    first = fitted(iterations=1, lr=1e-12, weight_decay=0)[0].score.weight
    torch.testing.assert_close(held, first)
    assert not torch.allclose(free, first, atol=1e-3)
    assert fitted(iterations=1, mean_only=1)[1] < fitted(iterations=1, mean_only=0)[1]


def test_pairs_of_different_sizes_are_refused(tmp_path: Path) -> None:
    root = nyud_tree(tmp_path / "nyu")
    save(root / "room" / "depth_test_1.png", np.ones((8, 8), dtype=np.uint16))
    test = datasets.depth(root, "test")
    feature_store = FeatureStore(root=tmp_path / "features", dataset="nyu")
    with pytest.raises(InvalidInput, match=r"rgb_test_1\.png.*Expected one size"):
        depth.whole_features(colour_encoder(), test, feature_store=feature_store, settings=small())
