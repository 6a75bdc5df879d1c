"""Losses and their gradients against those of the authors' code; batches without anything to learn from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.heads.mast3r import activations
from eval.heads.mast3r.losses import Criterion, Matching, PairTruth, Regression, ViewTruth, validation
from eval.heads.mast3r.losses.matching import at, average_precision, info_nce, matching_loss
from eval.heads.mast3r.losses.regression import norm_factor
from store.errors import InvalidInput
from tests.eval.heads.mast3r.goldens import read, read_json

Outputs = tuple[dict[str, Tensor], dict[str, Tensor]]
Loss = Callable[[Outputs, PairTruth], tuple[Tensor, Any]]
INF = float("inf")


def points(alpha: float | None = 0.2, **settings: Any) -> Loss:
    return Criterion(regression=Regression(**settings), alpha=alpha, matching=None)


def descriptors(**settings: Any) -> Loss:
    return lambda outputs, truth: matching_loss(outputs, truth, Matching(**settings))


LOSSES: dict[str, Loss] = {
    "train_criterion": Criterion(),
    "regression_metric_aware": points(),
    "regression_all_normalised": points(metric_aware=False),
    "regression_no_sky": points(sky_loss=0.0),
    "regression_gt_scale": points(gt_scale=True),
    "regression_max_metric_scale": points(max_metric_scale=10.496),
    "regression_log": points(in_log=True),
    "regression_avg_log1p": points(metric_aware=False, norm="avg_log1p"),
    "regression_plain_mean": points(alpha=None, gt_scale=True, sky_loss=0.0),
    "test_scale_shift_inv": points(alpha=None, gt_scale=True, sky_loss=0.0, scale_and_shift=True),
    "matching_proper": descriptors(),
    "matching_all": descriptors(mode="all"),
    "matching_dual": descriptors(mode="dual"),
    "matching_prod": descriptors(conf_mode="prod"),
    "matching_noconf": descriptors(alpha=None),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read("mast3r_losses.io")


@pytest.fixture(scope="module")
def truth(golden: dict[str, Tensor]) -> PairTruth:
    one, two = (
        ViewTruth(
            points=golden[f"input.gt{view}.pts3d_world"],
            pose=golden[f"input.gt{view}.camera_pose"],
            valid=golden[f"input.gt{view}.valid_mask"].bool(),
            sky=golden[f"input.gt{view}.sky_mask"].bool(),
        )
        for view in (1, 2)
    )
    return PairTruth(
        one=one,
        two=two,
        metric=golden["input.gt1.is_metric_scale"].bool(),
        pixels1=golden["input.gt1.corres_xy"],
        pixels2=golden["input.gt2.corres_xy"],
        matched=golden["input.valid_corres"].bool(),
    )


@pytest.fixture
def outputs(golden: dict[str, Tensor]) -> Outputs:
    one, two = (
        {
            name: golden[f"input.pred{view}.{name}"].clone().requires_grad_()
            for name in ("pts3d", "conf", "desc", "desc_conf")
        }
        for view in (1, 2)
    )
    return one, {"pts3d_in_other_view": two.pop("pts3d"), **two}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str, golden: dict[str, Tensor], truth: PairTruth, outputs: Outputs) -> None:
    loss, _ = LOSSES[name](outputs, truth)
    assert loss.item() == pytest.approx(golden[f"output.{name}.loss"].item(), rel=1e-5)
    gradients = {key: value for key, value in golden.items() if key.startswith(f"output.{name}.grad.")}
    if gradients:
        loss.backward()
    for key, expected in gradients.items():
        view, output = key.rsplit(".", 2)[1:]
        half = outputs[int(view[-1]) - 1]
        found = half.get(output, half.get("pts3d_in_other_view"))
        assert found is not None
        torch.testing.assert_close(found.grad, expected, atol=1e-7, rtol=0)


def test_parts_of_the_published_criterion(truth: PairTruth, outputs: Outputs) -> None:
    details = read_json("mast3r_losses")["train_criterion"]["details"]
    names = {
        "conf_loss_1": "confident_1",
        "conf_loss2": "confident_2",
        "Regr3D_pts3d_1": "regression_1",
        "Regr3D_pts3d_2": "regression_2",
        "matching_conf_loss": "confident_matching",
        "MatchingLoss": "matching",
    }
    _, parts = Criterion()(outputs, truth)
    assert {theirs: parts[ours].item() for theirs, ours in names.items()} == pytest.approx(
        {theirs: details[theirs] for theirs in names}, rel=1e-5
    )


def test_single_matches_norms_precision_and_activations(
    golden: dict[str, Tensor], truth: PairTruth, outputs: Outputs
) -> None:
    assert truth.pixels1 is not None
    assert truth.pixels2 is not None
    assert truth.matched is not None
    desc1, desc2 = at(outputs[0]["desc"], truth.pixels1.long()), at(outputs[1]["desc"], truth.pixels2.long())
    for mode in ("proper", "all", "dual"):
        found = info_nce(desc1, desc2, truth.matched, Matching(mode=mode))  # type: ignore[arg-type]
        torch.testing.assert_close(found, golden[f"output.infonce_{mode}.per_match"], rtol=1e-5, atol=1e-6)
    predicted = outputs[0]["pts3d"], outputs[1]["pts3d_in_other_view"]
    for mode in ("avg_dis", "avg_log1p", "avg_warp-log1p", "median_dis", "sqrt_dis"):
        factor = norm_factor(predicted, (truth.one.valid, truth.two.valid), mode)  # type: ignore[arg-type]
        torch.testing.assert_close(factor, golden[f"output.norm_factor.{mode}"], rtol=1e-5, atol=0)
    precision = average_precision(outputs, truth, negatives=40)
    assert -precision.item() == pytest.approx(golden["output.ap_loss.loss"].item(), rel=1e-5)
    loss, _ = validation(outputs, truth, negatives=40)
    assert loss.item() == pytest.approx(
        (golden["output.regression_plain_mean.loss"] + golden["output.ap_loss.loss"]).item(), rel=1e-5
    )
    for mode in ("exp", "square", "linear"):
        found = activations.points(golden["input.act.xyz"], mode)
        torch.testing.assert_close(found, golden[f"output.act.depth_{mode}"], rtol=2e-5, atol=5e-5)
    for name, bounds in {
        "conf_exp_0_inf": ("exp", 0, INF),
        "conf_exp_1_5": ("exp", 1, 5),
        "conf_exp_1_inf": ("exp", 1, INF),
        "conf_sigmoid_0_1": ("sigmoid", 0, 1),
    }.items():
        found = activations.confidence(golden["input.act.conf"], bounds)  # type: ignore[arg-type]
        torch.testing.assert_close(found, golden[f"output.act.{name}"], rtol=1e-5, atol=5e-5)


def test_blocks_compete_within_themselves(truth: PairTruth, outputs: Outputs) -> None:
    whole, _ = matching_loss(outputs, truth, Matching(block=64))
    blocks = [
        matching_loss(outputs, truth, Matching(block=16), generator=torch.Generator().manual_seed(seed))[0].item()
        for seed in (0, 0, 1)
    ]
    assert blocks[0] == blocks[1] != blocks[2]
    assert max(blocks) < whole.item()  # fewer negatives each


def test_unknown_points_and_empty_batches_leave_finite_gradients(truth: PairTruth, outputs: Outputs) -> None:
    unknown = replace(
        truth,
        one=replace(truth.one, points=torch.where(truth.one.valid[..., None], truth.one.points, torch.nan)),
        two=replace(truth.two, points=torch.where(truth.two.valid[..., None], truth.two.points, torch.nan)),
    )
    loss, _ = Criterion()(outputs, unknown)
    expected, _ = Criterion()(outputs, truth)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    nothing = torch.zeros_like(truth.one.valid)
    assert truth.matched is not None
    empty = replace(
        unknown,
        one=replace(unknown.one, valid=nothing, sky=None),
        two=replace(unknown.two, valid=nothing, sky=None),
        matched=torch.zeros_like(truth.matched),
    )
    zero, parts = Criterion()(outputs, empty)
    assert zero.item() == 0
    assert all(part.item() == 0 for part in parts.values())
    (loss + zero).backward()
    assert all(torch.isfinite(t.grad).all() for half in outputs for t in half.values() if t.grad is not None)


def test_truth_that_does_not_fit(truth: PairTruth, outputs: Outputs) -> None:
    assert truth.pixels2 is not None
    for changed, expected in (
        (replace(truth, one=replace(truth.one, valid=truth.one.valid[:, 1:])), "first view"),
        (replace(truth, pixels1=None), "no correspondences"),
        (replace(truth, pixels2=truth.pixels2 + 14), "outside of the view of 18x14"),
    ):
        with pytest.raises(InvalidInput, match=expected):
            Criterion()(outputs, changed)
    with pytest.raises(InvalidInput, match="fewer pixels"):
        average_precision(outputs, truth, negatives=14 * 18)
