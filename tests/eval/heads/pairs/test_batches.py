"""Batches: portraits transposed with everything that belongs to them, correspondences, resolutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.heads.mast3r import is_symmetrised
from eval.heads.mast3r.losses.truth import in_first_camera
from eval.heads.pairs import PLAIN, RESOLUTIONS, Augmentation, PairBatch, collate, prepare
from eval.heads.pairs.batches import resolution_at
from eval.heads.pairs.matches import draw_matches
from eval.heads.pairs.resize import crop_view
from store.errors import InvalidInput
from tests.eval.heads.pairs.room import room_pairs, room_views

COUNT = 96


def batch_of(augmentation: Augmentation, *, upright: bool) -> PairBatch:
    """Two pairs at 42 x 28; with `upright`, the second view of the first pair is a portrait."""
    rng = np.random.default_rng(0)
    pairs = [room_pairs().pair(index, rng) for index in (0, 1)]
    if upright:
        pairs[0] = pairs[0][0], crop_view(pairs[0][1], (18, 0), (32, 48))
    prepared = [prepare(pair, (42, 28), rng, augmentation) for pair in pairs]
    return collate(prepared, [draw_matches(pair, rng, count=COUNT) for pair in prepared])


@pytest.mark.parametrize("augmentation", [PLAIN, Augmentation(colours=False)])
def test_portraits_lie_and_everything_follows(augmentation: Augmentation) -> None:
    batch = batch_of(augmentation, upright=True)
    assert batch.view1.true_shape.tolist() == [[28, 42], [28, 42]]
    assert batch.view2.true_shape.tolist() == [[42, 28], [28, 42]]
    for view in (batch.view1, batch.view2):
        assert view.image.shape == (2, 28, 42, 3)
        rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(42.0), indexing="ij")
        for number in range(2):
            inward = torch.linalg.inv(view.camera_pose[number])
            camera = view.pts3d[number] @ inward[:3, :3].T + inward[:3, 3]
            torch.testing.assert_close(camera[..., 2], view.depthmap[number], atol=1e-4, rtol=1e-4)
            pixels = camera @ view.intrinsics[number].T  # of the stored image: its rows are exchanged for a portrait
            known = view.valid_mask[number]
            for found, expected in ((pixels[..., 0], columns), (pixels[..., 1], rows)):
                assert ((found / pixels[..., 2] - expected)[known].abs() < 2e-3).all()


@pytest.mark.parametrize("upright", [False, True])
def test_correspondences_show_the_same_point(upright: bool) -> None:
    batch = batch_of(Augmentation(colours=False), upright=upright)
    assert batch.valid_corres.shape == (2, COUNT)
    assert (batch.valid_corres.sum(dim=1) <= COUNT // 2).all()
    shown = []
    for view in (batch.view1, batch.view2):
        x, y = view.corres.unbind(-1)
        shown.append(view.pts3d[torch.arange(2)[:, None], y, x])
    distance = (shown[0] - shown[1]).norm(dim=-1)
    inside = batch.valid_corres & (distance < 0.4)  # the published rule clips to the border, where points differ
    assert inside.sum() > 0.8 * batch.valid_corres.sum()
    assert distance[inside].median() < 0.06
    assert distance[~batch.valid_corres].median() > 0.4


def test_symmetrised_batches_and_the_truth_of_the_losses() -> None:
    batch = batch_of(PLAIN, upright=False)
    both = batch.symmetrised()
    assert is_symmetrised(both.view1.instance, both.view2.instance)
    assert torch.equal(both.view1.image[1], batch.view2.image[0])
    assert torch.equal(both.view2.corres[1], batch.view1.corres[0])
    assert both.valid_corres.shape == (4, COUNT)
    one, two = in_first_camera(batch.truth())
    torch.testing.assert_close(one[..., 2], batch.view1.depthmap, atol=1e-4, rtol=1e-4)
    assert two.shape == (2, 28, 42, 3)
    assert batch.truth().metric.tolist() == [True, True]


def test_the_same_view_twice() -> None:
    rng = np.random.default_rng(0)
    pair = room_pairs().pair(0, rng)
    one, two = prepare(pair, (42, 28), rng, replace(PLAIN, monocular=1.0))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.camera_pose, two.camera_pose)
    assert one.instance != two.instance
    assert not np.array_equal(prepare(pair, (42, 28), rng, PLAIN)[1].image, one.image)


def test_colours_change_independently_and_nothing_else_does() -> None:
    pair = room_pairs().pair(0, np.random.default_rng(0))
    plain, changed = (
        prepare(pair, (42, 28), np.random.default_rng(1), replace(PLAIN, colours=colours)) for colours in (False, True)
    )
    ratios = [new.image.mean() / old.image.mean() for new, old in zip(changed, plain, strict=True)]
    assert abs(ratios[0] - ratios[1]) > 0.01
    assert np.array_equal(plain[0].depthmap, changed[0].depthmap)
    again = prepare(pair, (42, 28), np.random.default_rng(1), replace(PLAIN, colours=True))
    assert np.array_equal(again[1].image, changed[1].image)


def test_resolutions_are_a_function_of_seed_and_step() -> None:
    choices = RESOLUTIONS["dune-448"]
    drawn = [resolution_at(choices, seed=0, step=step) for step in range(600)]
    assert drawn == [resolution_at(choices, seed=0, step=step) for step in range(600)]
    assert drawn != [resolution_at(choices, seed=1, step=step) for step in range(600)]
    assert all(70 < drawn.count(choice) < 135 for choice in choices)
    assert all(side % 14 == 0 for name in ("dune-336", "dune-448") for size in RESOLUTIONS[name] for side in size)


def test_views_of_other_sizes_are_refused() -> None:
    rng = np.random.default_rng(0)
    views = room_views()
    whole = views[0], views[1]
    cut = crop_view(views[0], (0, 0), (32, 16)), crop_view(views[1], (0, 0), (32, 16))
    matches = [draw_matches(pair, rng, count=20) for pair in (whole, cut)]
    with pytest.raises(InvalidInput, match="views of 32 x 16, 64 x 48 px in one batch"):
        collate([whole, cut], matches)
    with pytest.raises(InvalidInput, match="0 pairs"):
        collate([], [])
