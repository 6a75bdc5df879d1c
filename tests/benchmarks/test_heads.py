"""What the benchmark of the heads measures: a perfect model has no error, patches find a shift."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.heads.overfit import close, in_first_camera, measure, patches
from eval.heads.pairs import Pair
from tests.eval.heads.pairs.room import room_pairs


class Perfect:
    """Predicts the true points, and the true point in space as descriptor."""

    def __init__(self, pair: Pair) -> None:
        self.points = torch.from_numpy(in_first_camera(pair)).float()

    def __call__(self, one: Tensor, two: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        grown = torch.cat([self.points, torch.ones_like(self.points[..., :1])], dim=-1)
        desc = functional.normalize(functional.normalize(grown, dim=-1), dim=-1)
        conf = torch.ones(1, *self.points.shape[1:3])
        first: dict[str, Any] = {"desc": desc[:1], "desc_conf": conf, "conf": conf}
        second = {**first, "desc": desc[1:]}
        return {**first, "pts3d": self.points[:1]}, {**second, "pts3d_in_other_view": self.points[1:]}


def test_a_perfect_model_has_no_error() -> None:
    pair = room_pairs().pair(0, np.random.default_rng(0))
    true = in_first_camera(pair)
    found = measure(Perfect(pair), pair, true + 0.1 * np.linalg.norm(true, axis=-1).mean() / 3**0.5)  # type: ignore[arg-type]
    assert found["points_error_percent"] == pytest.approx(0, abs=1e-4)
    assert found["points_error_of_mean_map_percent"] == pytest.approx(10, abs=0.1)
    assert found["within_2px_percent"] > 95
    assert found["pnp_rotation_degrees"] < 0.5
    assert found["translation_error_m"] < 0.05


def test_patches_find_a_shift() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    rows, columns = np.mgrid[6:18, 8:28]
    here = np.stack([columns.ravel(), rows.ravel()], axis=1)
    shifted = np.roll(image, 5, axis=1)
    assert close(patches(image), patches(shifted), here, here + np.array([5, 0])) == 100
    assert close(patches(image), patches(shifted), here, here) == 0
