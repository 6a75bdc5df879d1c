"""The segmentation probe: windows, loss and IoU against known values; a whole probe on a miniature dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from eval.encoders.open_encoder import pad_to_cells
from eval.probes import datasets, head_training, segmentation
from eval.probes import segmentation as seg
from eval.probes import segmentation_crops as views
from eval.probes.feature_store import FeatureStore
from eval.probes.settings import CropSettings, SegmentationSettings
from tests.eval.probes.probing import calls_of, camvid_tree, class_map, colour_encoder, stripes

SMALL = CropSettings(short_side=24, long_cap=99, crop=16, stride=11)


def test_iou_of_the_known_example() -> None:
    confusion = seg.Confusion(2)
    confusion.add(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 255]))
    np.testing.assert_array_equal(confusion.iou(), [0.5, 0.5])
    assert confusion.mean_iou() == 50
    assert confusion.pixel_accuracy() == pytest.approx(200 / 3)


def test_mean_iou_pools_the_dataset_and_skips_classes_that_never_occur() -> None:
    confusion = seg.Confusion(4)
    assert np.isnan(confusion.mean_iou())
    confusion.add(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 0]]))  # an image's own mean would be (3/4 + 0) / 2
    confusion.add(np.array([[1, 1]]), np.array([[1, 1]]))
    confusion.add(np.array([[3]]), np.array([[255]]))
    np.testing.assert_array_equal(confusion.iou(), [3 / 4, 2 / 3, np.nan, np.nan])
    assert confusion.mean_iou() == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)


def test_loss_is_averaged_over_ignored_pixels_too() -> None:
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = 255
    known = labels != 255
    plain = functional.cross_entropy(logits, labels, ignore_index=255)
    assert float(seg.pixel_loss(logits, labels)) == pytest.approx(float(plain) * float(known.double().mean()), rel=1e-6)
    assert float(seg.pixel_loss(logits, torch.full_like(labels, 255))) == 0


@given(height=st.integers(16, 60), width=st.integers(16, 60), crop=st.integers(4, 16), overlap=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, crop: int, overlap: int) -> None:
    places = views.windows(height, width, CropSettings(crop=crop, stride=crop - overlap))
    covered = np.zeros((height, width), dtype=int)
    for top, left in places:
        assert 0 <= top <= height - crop
        assert 0 <= left <= width - crop
        covered[top : top + crop, left : left + crop] += 1
    assert covered.min() >= 1
    assert len(set(places)) == len(places)


def test_windows_of_the_protocol() -> None:
    assert views.fitted_size(480, 640, short_side=512, long_cap=2048) == (512, 683)
    assert views.windows(512, 683, CropSettings()) == [(0, 0), (0, 171)]
    assert views.fitted_size(1024, 2048, short_side=512, long_cap=2048) == (512, 1024)
    assert views.windows(512, 1024, CropSettings()) == [(0, 0), (0, 341), (0, 512)]
    assert views.fitted_size(100, 1000, short_side=512, long_cap=2048) == (205, 2048)


@pytest.mark.parametrize("size", [(24, 37), (16, 16), (11, 40)])
def test_sliding_a_per_pixel_model_equals_running_it_on_the_whole(size: tuple[int, int]) -> None:
    image = torch.randn(5, *size)
    padded = functional.pad(image, (0, max(0, 16 - size[1]), 0, max(0, 16 - size[0])))
    places = views.windows(padded.shape[1], padded.shape[2], SMALL)
    cut = torch.stack([padded[:, top : top + 16, left : left + 16] for top, left in places])
    torch.testing.assert_close(seg.merge_windows(cut.square(), places, size), image.square())


def test_overlaps_are_averaged() -> None:
    logits = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    merged = seg.merge_windows(logits, [(0, 0), (0, 1)], (2, 3))
    torch.testing.assert_close(merged, torch.tensor([[[0, 0.5, 1], [0, 0.5, 1]]]))


def test_head_is_batch_norm_and_a_linear_layer_per_patch() -> None:
    head = seg.SegmentationHead(6, 4)
    assert float(head.classify.bias.detach().abs().max()) == 0
    assert 0.003 < float(head.classify.weight.detach().std()) < 0.03
    tokens = torch.randn(3, 8, 6)
    logits = head(tokens, (2, 4)).detach()
    flat = tokens.reshape(-1, 6)
    normed = (flat - flat.mean(0)) / torch.sqrt(flat.var(0, unbiased=False) + head.norm.eps)
    expected = normed @ head.classify.weight.detach()[:, :, 0, 0].T
    torch.testing.assert_close(logits.permute(0, 2, 3, 1).reshape(-1, 4), expected, rtol=1e-4, atol=1e-6)
    # 32-px crop, cells of 14: a grid of 3 x 3, stretched over the crop without removing the padding
    assert seg.enlarge(head(torch.randn(1, 9, 6), (3, 3)), (32, 32)).shape == (1, 4, 32, 32)


def test_crops_are_functions_of_the_generator_and_labels_follow_pixels() -> None:
    classes = class_map(40, 50, seed=1).astype(np.uint8)
    image = stripes(classes, seed=1)
    crops = CropSettings(short_side=40, crop=32, stride=21)
    seen = []
    for view in range(6):
        first, second = (views.training_crop(image, classes, crops, np.random.default_rng([0, view])) for _ in "ab")
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        assert (first[0].shape, first[1].shape) == ((32, 32, 3), (32, 32))
        pixels, labels = first
        known = labels != 255
        assert (pixels[~known] == views.PAD_RGB).all()
        # The strongest colour still tells the class, but for pixels on borders between classes.
        assert np.mean(pixels[known].argmax(-1) == labels[known]) > 0.85
        seen.append(pixels)
    assert len({pixels.tobytes() for pixels in seen}) == 6
    sizes = {
        int((views.training_crop(image, classes, crops, np.random.default_rng(s))[1] == 255).sum()) for s in range(9)
    }
    assert len(sizes) > 1  # some factor below 0.8 makes an image smaller than the crop


def test_crops_of_a_single_class_are_sampled_again() -> None:
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[:24, :24] = 1  # 14 % of the image
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    settings_ = CropSettings(short_side=64, crop=24, stride=16, min_factor=1, max_factor=1)
    shares = []
    for seed in range(60):
        part = views.training_crop(image, labels, settings_, np.random.default_rng(seed))[1]
        shares.append(max(part.mean(), 1 - part.mean()))
    assert np.mean(np.array(shares) < 0.75) > 0.5  # one sample alone would do it in about 15 %
    nothing = views.training_crop(image, np.full_like(labels, 255), settings_, np.random.default_rng(0))[1]
    assert (nothing == 255).all()


def test_padding_to_cells_is_even_with_the_odd_pixel_right_and_below() -> None:
    pixels = np.zeros((1, 5, 6, 3), dtype=np.uint8)
    padded = pad_to_cells(pixels, 4)
    assert padded.shape == (1, 8, 8, 3)
    inside = (padded[0] == 0).all(-1)
    assert np.argwhere(inside).min(0).tolist() == [1, 1]
    assert np.argwhere(inside).max(0).tolist() == [5, 6]
    assert (padded[0, 0, 0] == views.PAD_RGB).all()
    assert pad_to_cells(np.zeros((1, 512, 512, 3), dtype=np.uint8), 14).shape == (1, 518, 518, 3)


def test_learning_rate_of_the_protocol() -> None:
    def rate(step: int) -> float:
        return segmentation.learning_rate(step, SegmentationSettings()) / 1e-3

    assert rate(0) == pytest.approx(1e-6)
    assert rate(750) == pytest.approx((1 - 750 / 40_000) * (1 - 0.5 * (1 - 1e-6)))
    assert rate(1500) == pytest.approx(1 - 1500 / 40_000)
    assert rate(39_999) == pytest.approx(1 / 40_000)


def test_every_item_comes_once_an_epoch() -> None:
    sampled = np.concatenate(list(head_training.batches(10, batch=4, iterations=5, seed=3)))
    assert sorted(sampled[:10].tolist()) == sorted(sampled[10:].tolist()) == list(range(10))
    again = np.concatenate(list(head_training.batches(10, batch=4, iterations=5, seed=3)))
    np.testing.assert_array_equal(sampled, again)
    other = np.concatenate(list(head_training.batches(10, batch=4, iterations=5, seed=4)))
    assert sampled.tolist() != other.tolist()
    assert len(next(head_training.batches(3, batch=8, iterations=1, seed=0))) == 8


def small(**changes: object) -> SegmentationSettings:
    values = {"crops": SMALL, "views": 4, "iterations": 60, "batch": 4, "lr": 0.05, "warm_up": 0.05, **changes}
    return SegmentationSettings(**values)


def test_one_hot_features_of_every_pixel_reach_100(tmp_path: Path) -> None:
    root = camvid_tree(tmp_path / "camvid")
    train, test = (datasets.segmentation("camvid", root, split) for split in ("train", "test"))
    feature_store = FeatureStore(root=tmp_path / "features", dataset="camvid")
    encoder = colour_encoder(cell_px=1, one_hot=True)
    figures = segmentation.run(encoder, train=train, test=test, feature_store=feature_store, settings=small())
    assert figures["miou"] == figures["pixel_accuracy"] == 100
    assert figures["iou"] == [1.0, 1.0, 1.0] + [None] * 8
    calls = calls_of(encoder)
    for changed in (small(seed=1), small(lr=0.01, iterations=5, batch=2)):
        segmentation.run(encoder, train=train, test=test, feature_store=feature_store, settings=changed)
    assert calls_of(encoder) == calls  # heads and their training don't ask for new features
    segmentation.run(
        encoder, train=train, test=test, feature_store=feature_store, settings=small(crop_seed=1, iterations=1)
    )
    assert calls_of(encoder) > calls


def test_a_probe_is_repeatable_and_better_than_chance_on_coarse_cells(tmp_path: Path) -> None:
    root = camvid_tree(tmp_path / "camvid", size=(26, 30))  # resized to 24 x 28: windows in both directions
    train, test = (datasets.segmentation("camvid", root, split) for split in ("train", "test"))
    figures = [
        segmentation.run(
            colour_encoder(cell_px=3),  # 16 px are no multiple: each crop is padded to 18
            train=train,
            test=test,
            feature_store=FeatureStore(root=tmp_path / name, dataset="camvid"),
            settings=small(iterations=40),
        )
        for name in ("first", "second")
    ]
    assert figures[0] == figures[1]
    assert figures[0]["miou"] > 60
