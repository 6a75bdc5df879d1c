"""Matches, canonical views and focal lengths: the authors' lists exactly, ties, and input that cannot be matched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from eval.heads import matching
from eval.heads.matching import canonical, nearest
from store.errors import InvalidInput

GOLDEN = Path(__file__).parents[3] / "golden" / "heads" / "matching.io.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(GOLDEN)


def check(found: tuple[np.ndarray, ...], golden: dict[str, np.ndarray], name: str) -> None:
    for values, key in zip(found, ("xy1", "xy2", "conf"), strict=False):
        np.testing.assert_array_equal(values, golden[f"output.{name}.{key}"])


def test_lists_of_matches(golden: dict[str, np.ndarray]) -> None:
    one, two = golden["input.desc1"], golden["input.desc2"]
    for subsample in (1, 4, 8):
        check(matching.fast_reciprocal(one, two, subsample), golden, f"fast_sub{subsample}")
    for subsample in (4, 8):
        back = matching.fast_reciprocal(two, one, subsample)
        check(back[::-1], golden, f"fast_sub{subsample}_from_view2")
    points = (torch.from_numpy(golden[f"input.pts{view}"]) for view in (1, 2))
    check(matching.fast_reciprocal(*points, 4, metric="euclidean"), golden, "pts_kdtree_sub4")
    starts = np.stack([golden["input.pixel_tol.x"], golden["input.pixel_tol.y"]], axis=1)
    check(matching.fast_reciprocal(one, two, starts=starts, pixel_tol=5), golden, "pixel_tol")
    check(matching.both_ways(one, two, golden["input.conf1"], golden["input.conf2"]), golden, "both_ways")
    for name, found in zip(("nn1", "nn2"), matching.exhaustive(one, two), strict=True):
        np.testing.assert_array_equal(found, golden[f"output.exhaustive.{name}"])


def test_geometric_confidence(golden: dict[str, np.ndarray]) -> None:
    conf1, conf2 = golden["input.conf1"], golden["input.conf2"]
    xy1, xy2, conf = matching.both_ways(golden["input.desc1"], golden["input.desc2"], conf1, conf2, rule="geometric")
    expected = np.sqrt(conf1[xy1[:, 1], xy1[:, 0]] * conf2[xy2[:, 1], xy2[:, 0]])
    np.testing.assert_allclose(conf, expected, rtol=1e-6)


@pytest.mark.parametrize("search", [nearest.DotNeighbours, nearest.PointNeighbours])
def test_the_first_of_equal_keys_is_taken_whatever_the_blocks(
    search: Callable[[torch.Tensor], nearest.Neighbours], monkeypatch: pytest.MonkeyPatch
) -> None:
    different = torch.nn.functional.normalize(torch.randn(40, 3), dim=1)
    keys = torch.cat([different, different, different.flip(0)])
    monkeypatch.setattr(nearest, "KEY_BLOCK", 33)
    monkeypatch.setattr(nearest, "QUERY_BLOCK", 7)
    monkeypatch.setattr(nearest, "CLOSE_PAIRS", 10)
    assert search(keys)(different).tolist() == list(range(40))
    assert search(torch.ones(50, 3))(different).tolist() == [0] * 40


def test_nearly_equal_products_are_compared_exactly() -> None:
    query = torch.nn.functional.normalize(torch.randn(24), dim=0)
    keys = query.repeat(500, 1) * (1 - 3e-9)
    keys[377] = torch.nextafter(query, query.sign() * 2)  # larger by less than a float32 product shows
    assert nearest.DotNeighbours(keys)(query[None]).tolist() == [377]


def test_matches_are_mutual_without_repetition_and_away_from_the_border(golden: dict[str, np.ndarray]) -> None:
    nn1, nn2 = matching.exhaustive(golden["input.desc1"], golden["input.desc2"])
    xy1, xy2 = matching.fast_reciprocal(golden["input.desc1"], golden["input.desc2"], 3)
    one, two = xy1[:, 0] + 56 * xy1[:, 1], xy2[:, 0] + 40 * xy2[:, 1]
    assert (nn1[one] == two).all()
    assert (nn2[two] == one).all()
    assert len(np.unique(np.stack([one, two]), axis=1).T) == len(one)
    corners = np.array([[2, 10], [3, 3], [52, 36], [53, 10], [10, 37]])
    assert matching.away_from_border(corners, (40, 56)).tolist() == [False, True, True, False, False]


def test_starts_that_walk_on_for_ten_rounds_are_dropped() -> None:
    places = np.cumsum(1 / np.arange(1, 61))  # ever closer: each one's nearest of the other view is the next
    line = np.stack([places, np.zeros(60), np.zeros(60)], axis=1)[None]
    one, two = line[:, 0::2], line[:, 1::2]
    for start, expected in ((0, []), (25, [[29, 0]])):
        xy1, xy2 = matching.fast_reciprocal(one, two, starts=np.array([[start, 0]]), metric="euclidean")
        assert (xy1.tolist(), xy2.tolist()) == (expected, expected)


def test_bad_maps() -> None:
    maps = np.ones((4, 6, 3), np.float32)
    hole = maps.copy()
    hole[1, 2] = np.nan
    for arguments, named, expected in (
        ((maps, np.ones((4, 6, 2))), {}, "as many channels"),
        ((maps[0], maps), {}, "height, width, channels"),
        ((maps, hole), {}, "view 2: 1 of 24 pixels are not finite"),
        ((maps, maps, 0), {}, "subsample 0"),
        ((maps, maps), {"metric": "cosine"}, "expected dot or euclidean"),
        ((maps, maps), {"starts": np.array([[6, 0]])}, "outside"),
        ((maps, maps), {"starts": np.array([[0.5, 0]])}, "expected integers"),
    ):
        with pytest.raises(InvalidInput, match=expected):
            matching.fast_reciprocal(*arguments, **named)
    with pytest.raises(InvalidInput, match="confidences"):
        matching.both_ways(maps, maps, maps, maps)
    assert matching.fast_reciprocal(maps, maps, 20)[0].shape == (0, 2)  # the grid has no pixel in so small a view


@pytest.mark.parametrize("rule", ["avg-angle", "avg-reldepth"])
def test_canonical_views(golden: dict[str, np.ndarray], rule: Any) -> None:
    view = canonical.canonical_view(golden["input.canon.pts3d"], golden["input.canon.conf"], rule=rule)
    for name, found in (("canon", view.points), ("conf", view.confidence), ("relative_depth", view.relative_depth)):
        np.testing.assert_allclose(found, golden[f"output.canon.{rule}.{name}"], atol=1e-5)


def test_focal_lengths(golden: dict[str, np.ndarray]) -> None:
    points = golden["input.canon.pts3d"][0]
    for rule in ("weiszfeld", "median"):
        assert canonical.focal_from_points(points, rule=rule) == pytest.approx(
            golden[f"output.focal.{rule}"].item(), abs=1e-5
        )
    unit = 40 / (2 * np.tan(np.radians(30)))
    assert canonical.focal_from_points(points, bounds=(2, 3)) == pytest.approx(2 * unit)
    with pytest.raises(InvalidInput, match="usable direction"):
        canonical.focal_from_points(np.zeros((4, 4, 3)))
    with pytest.raises(InvalidInput, match="multiples of the cell"):
        canonical.canonical_view(np.ones((1, 30, 40, 3)), np.ones((1, 30, 40)))
