"""The whole objective against the authors' code: targets, student, loss, gradients, clipping, parameter groups.

The teachers' tokens come from the tiny teachers of the golden, computed once; the recorded ones are a part of them.
"""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.train import golden
from train.data.teacher_sharing import eligibility_table
from train.model.distiller import Distiller
from train.objective.losses import Loss, TeacherLoss, combine, teacher_loss
from train.objective.targets import TargetNorms
from train.objective.teacher_dropping import coefficients
from train.optim import clip_per_tensor, decays
from train.run.dune_checkpoint import to_released

FACTS = golden.scalars("dune_e2e")
GROUP_OF_DATASET = {"in19k": "dinov2", "gldv2": "dinov2", "Habitat512": "mast3r", "bedlam": "multihmr"}
SHARING = {"eval_none": "full", "train_none": "full", "train_own_data": "none", "train_own_generic": "generic"}


class Step(NamedTuple):
    distiller: Distiller
    norms: TargetNorms
    losses: dict[str, TeacherLoss]
    coefficients: Tensor  # (T, B)
    loss: Tensor


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return golden.tensors("dune_e2e.io")


@pytest.fixture(scope="module")
def targets() -> dict[str, Tensor]:
    return golden.tensors("dune_e2e_teachers")


def run(case: str, recorded: dict[str, Tensor], targets: dict[str, Tensor]) -> Step:
    """One forward pass as the trainer does it, from fresh buffers."""
    checkpoint = golden.student()
    distiller, norms = checkpoint.distiller, checkpoint.norms
    assert distiller is not None
    assert norms is not None
    momentum = FACTS["ema_momentum_in_train_case"] if case.startswith("train") else 0.0
    predicted = distiller(golden.images(recorded["input.image_u8"]))
    losses = {}
    for theirs, ours in golden.TEACHERS.items():
        norm = norms.update(ours, [targets[theirs]], momentum=momentum)
        losses[ours] = teacher_loss(predicted[ours], targets[theirs], norm=norm, weights=Loss())
    table = eligibility_table(
        SHARING[case],  # type: ignore[arg-type]
        groups=list(losses),
        teacher_groups={name: [name] for name in losses},
        generic_groups=["dinov2"],
    )
    keep = torch.from_numpy(table[:, [list(losses).index(GROUP_OF_DATASET[name]) for name in FACTS["dset_names"]]])
    shares = coefficients(keep, count=keep.sum())
    loss = combine(torch.stack([teacher.per_image for teacher in losses.values()]), shares)
    return Step(distiller, norms, losses, shares, loss)


def released_names(step: Step) -> dict[str, str]:
    """Our parameter name -> the released one, by the memory that they share."""
    by_address = {tensor.data_ptr(): name for name, tensor in to_released(step.distiller, step.norms).items()}
    return {name: by_address[parameter.data_ptr()] for name, parameter in step.distiller.named_parameters()}


def test_the_targets_are_those_recorded(recorded: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    for theirs, tokens in targets.items():
        cls = recorded.get(f"output.teacher_raw.{theirs}.cls")
        patches = recorded[f"output.teacher_raw.{theirs}.patch_img0"]
        assert golden.max_error(tokens[:1, tokens.shape[1] - patches.shape[1] :], patches) < golden.FEATURES_ATOL
        assert (cls is None) == (tokens.shape[1] == patches.shape[1])
        assert cls is None or golden.max_error(tokens[:, 0], cls) < golden.FEATURES_ATOL


@pytest.mark.parametrize("case", list(SHARING))
def test_every_logged_scalar(recorded: dict[str, Tensor], targets: dict[str, Tensor], case: str) -> None:
    step, expected = run(case, recorded, targets), FACTS["cases"][case]
    assert float(step.loss.detach()) == pytest.approx(expected["loss"], abs=golden.LOSS_ATOL)
    assert float(step.loss.detach()) == pytest.approx(float(recorded[f"output.{case}.loss"]), abs=golden.LOSS_ATOL)
    logged: dict[str, float] = {"loss": float(step.loss.detach())}
    for row, (theirs, ours) in enumerate(golden.TEACHERS.items()):
        terms = {name: float(values.mean()) for name, values in step.losses[ours].terms.items()}
        for kind in sorted({name.split("_")[0] for name in terms}):
            cosine, smooth_l1 = terms[f"{kind}_cosine_loss"], terms[f"{kind}_smooth_l1"]
            logged[f"loss/dist_{kind}_cos_{theirs}"] = cosine
            logged[f"loss/dist_{kind}_sl1_{theirs}"] = smooth_l1
            logged[f"loss/dist_{kind}_{theirs}"] = 0.5 * cosine + 0.5 * smooth_l1
        logged[f"loss/dist_{theirs}"] = float(step.losses[ours].per_image.detach().mean())
        logged[f"t_coeff_{theirs}"] = float(step.coefficients[row].sum())
    scalars = {name: value for name, value in expected.items() if isinstance(value, float)}
    assert logged == pytest.approx(scalars, abs=golden.LOSS_ATOL)


def test_running_statistics_after_the_step(recorded: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    step = run("train_none", recorded, targets)
    released = to_released(step.distiller, step.norms)
    after = {n.split("buffer_after.")[1]: t for n, t in recorded.items() if "buffer_after." in n}
    assert set(after) == {name for name in released if name.startswith("teacher_norms.")}
    for name, expected in after.items():
        assert golden.max_error(released[name], expected) < 1e-6


@pytest.mark.parametrize("case", ["train_none", "train_own_data", "train_own_generic"])
def test_gradient_norm_of_every_parameter(recorded: dict[str, Tensor], targets: dict[str, Tensor], case: str) -> None:
    step = run(case, recorded, targets)
    step.loss.backward()
    names = released_names(step)
    norms = {
        names[name]: float(parameter.grad.norm())
        for name, parameter in step.distiller.named_parameters()
        if parameter.grad is not None
    }
    expected: dict[str, Any] = FACTS["cases"][case]
    assert norms == pytest.approx(expected["grad_norm_per_parameter"], rel=2e-5, abs=1e-9)
    without = {names[name] for name, p in step.distiller.named_parameters() if p.grad is None}
    assert without == set(expected["parameters_without_grad"]) - {"encoder.mask_token"}  # which we do not have


def test_gradients_after_clipping(recorded: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    step = run("train_none", recorded, targets)
    step.loss.backward()
    names = released_names(step)
    learning = {names[name]: p for name, p in step.distiller.named_parameters() if p.requires_grad}
    before = clip_per_tensor(learning.values(), 0.01)
    expected = FACTS["cases"]["train_none"]
    assert dict(zip(learning, before.tolist(), strict=True)) == pytest.approx(
        expected["grad_norm_per_parameter"], rel=2e-5, abs=1e-9
    )
    after = {name: float(parameter.grad.norm()) for name, parameter in learning.items() if parameter.grad is not None}
    assert after == pytest.approx(expected["grad_norm_after_clip_0.01"], rel=2e-5, abs=1e-9)


def test_parameter_groups() -> None:
    checkpoint = golden.student()
    assert checkpoint.distiller is not None
    assert checkpoint.norms is not None
    released = to_released(checkpoint.distiller, checkpoint.norms)
    parameters = {name: tensor for name, tensor in released.items() if not name.startswith("teacher_norms.")}
    groups = FACTS["param_groups"]
    assert {name for name, tensor in parameters.items() if decays(name, tensor)} == set(groups["decayed_names"])
    assert {n for n, t in parameters.items() if not decays(n, t)} == set(groups["not_decayed_names"])
