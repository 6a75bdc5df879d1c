"""Losses and ground truth against the authors' numbers."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from eval.heads.hph import losses
from eval.heads.hph.losses import all_terms, total
from eval.heads.hph.targets import prepare
from eval.heads.recipes.hph import LossWeights
from tests.eval.heads.hph import golden

IMG_SIZE = 112


def given(kind: str) -> dict[str, Tensor]:
    prefix = f"input.loss.{kind}."
    return {name.removeprefix(prefix): t.clone() for name, t in golden.numbers().items() if name.startswith(prefix)}


@pytest.mark.parametrize("epoch", [0, 10])
def test_terms_and_gradients_equal_the_golden(epoch: int) -> None:
    expected, io = golden.losses()[f"epoch{epoch}"], golden.numbers()
    predicted = {name: tensor.requires_grad_() for name, tensor in given("pred").items()}
    terms = all_terms(predicted, given("gt"), img_size=IMG_SIZE)
    loss = total(terms, LossWeights(), epoch=epoch)
    found = {name: term.item() for name, term in terms.items()} | {"total": loss.item()}
    assert found == pytest.approx(expected, rel=1e-5)
    loss.backward()
    prefix = f"output.loss.epoch{epoch}.grad."
    gradients = {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}
    for name, gradient in gradients.items():
        torch.testing.assert_close(predicted[name].grad, gradient, rtol=1e-5, atol=1e-7)
    assert len(gradients) == (11 if epoch else 2)


def test_weights_and_detection_without_anybody() -> None:
    weights = {name.removeprefix("alpha_"): value for name, value in golden.losses()["weights"].items()}
    assert LossWeights(**weights) == LossWeights()
    scores = given("pred")["scores"][..., 0]
    found = losses.detection_loss(scores, torch.zeros_like(scores)).item()
    assert found == pytest.approx(golden.losses()["detection_loss_without_positives"], rel=1e-5)


def test_terms_over_nobody_count_nothing_and_leave_the_gradient_finite() -> None:
    predicted = {name: t if name == "scores" else t[:0] for name, t in given("pred").items()}
    true = {name: t * 0 if name == "scores" else t[:0] for name, t in given("gt").items()}
    predicted["scores"].requires_grad_()
    terms = all_terms(predicted, true, img_size=IMG_SIZE)
    loss = total(terms, LossWeights(), epoch=10)
    loss.backward()
    assert loss.item() == pytest.approx(10 * terms["bce"].item())
    assert predicted["scores"].grad is not None
    assert bool(predicted["scores"].grad.isfinite().all())


def test_a_term_that_is_not_finite_gives_no_gradient() -> None:
    predicted = {name: tensor.requires_grad_() for name, tensor in given("pred").items()}
    true = given("gt")
    true["transl"][0, 0] = float("nan")
    loss = total(all_terms(predicted, true, img_size=IMG_SIZE), LossWeights(), epoch=0)
    loss.backward()
    assert bool(loss.isfinite())
    assert predicted["transl"].grad is None


def bodies() -> tuple[dict[str, Tensor], Tensor]:
    """People of the golden images in (image, person) order, and the expected person of each row."""
    io, prefix = golden.numbers(), "input.gt_prep."
    there = io[f"{prefix}valid_humans"] > 0
    names = ("root_pose", "body_pose", "left_hand_pose", "right_hand_pose", "jaw_pose")
    rotvec = torch.cat([io[f"{prefix}smplx_{name}"] for name in names], dim=2)[there]
    return {
        "image": there.nonzero()[:, 0],
        "rotvec": rotvec,
        "shape": io[f"{prefix}smplx_shape"][there],
        "vertices": io[f"{prefix}body_vertices"],
        "joints": io[f"{prefix}body_joints"],
    }, io[f"{prefix}K"]


def compare(found: Mapping[str, Tensor], rows: list[int]) -> None:
    io, prefix = golden.numbers(), "output.gt_prep."
    expected = {name.removeprefix(prefix): tensor for name, tensor in io.items() if name.startswith(prefix)}
    assert torch.equal(found["idx_image_row_col"][rows], expected.pop("idx_image_row_col").long())
    torch.testing.assert_close(found["scores"], expected.pop("scores"))
    for name, tensor in expected.items():
        atol = 2e-3 if name in ("j2d", "loc") else 5e-5
        torch.testing.assert_close(found[name][rows], tensor, atol=atol, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_ground_truth_equals_the_golden() -> None:
    people, intrinsics = bodies()
    truth = prepare(**people, intrinsics=intrinsics, img_size=IMG_SIZE)
    compare(vars(truth), [0, 1, 2, 3])
    assert truth.v2d.shape == (4, 12, 2)


def test_people_behind_the_camera_are_left_out() -> None:
    people, intrinsics = bodies()
    first = people["joints"][:1].clone()
    first[:, 15, 2] = -1.0
    joined = {name: torch.cat([tensor[:1], tensor]) for name, tensor in people.items()}
    joined["joints"] = torch.cat([first, people["joints"]])
    compare(vars(prepare(**joined, intrinsics=intrinsics, img_size=IMG_SIZE)), [0, 1, 2, 3])
