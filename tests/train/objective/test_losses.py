"""The loss against the authors' numbers, and its gradient against automatic differentiation."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from store.errors import InvalidInput
from tests.train import golden
from train.data.teacher_sharing import eligibility_table
from train.objective import losses
from train.objective.losses import combine, teacher_loss, token_losses
from train.objective.targets import MIN_STD, Standardisation, TeacherNorm
from train.objective.teacher_dropping import coefficients, keep_mask, kept_count
from train.recipe.config import Loss

RELEASED = Loss()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return golden.tensors("dune_loss.io")


@pytest.fixture(scope="module")
def facts() -> dict:
    return golden.scalars("dune_loss")


def predictions(recorded: dict[str, Tensor], *, gradient: bool = False) -> dict[str, tuple[Tensor, Tensor]]:
    """teacher -> (prefix (B, P, C), patches (B, N, C)), leaves of their graph."""
    predicted = {}
    for teacher in golden.TEACHERS:
        cls = recorded[f"input.student.{teacher}.cls"][:, None].clone().requires_grad_(gradient)
        patches = recorded[f"input.student.{teacher}.patch"].clone().requires_grad_(gradient)
        predicted[teacher] = (cls if f"input.teacher.{teacher}.cls" in recorded else cls[:, :0], patches)
    return predicted


def target(recorded: dict[str, Tensor], teacher: str) -> Tensor:
    """(B, P + N, C), as a cache holds it."""
    patches = recorded[f"input.teacher.{teacher}.patch"]
    cls = recorded.get(f"input.teacher.{teacher}.cls")
    return patches if cls is None else torch.cat([cls[:, None], patches], dim=1)


def per_image(recorded: dict[str, Tensor], predicted: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """(T, B)."""
    return torch.stack(
        [
            teacher_loss(predicted[teacher], target(recorded, teacher), norm=None, weights=RELEASED).per_image
            for teacher in golden.TEACHERS
        ]
    )


def test_distances_per_token(recorded: dict[str, Tensor]) -> None:
    checked = 0
    for name, expected in recorded.items():
        if not name.startswith(("output.cos.", "output.sl1.")):
            continue
        _, measure, teacher, kind = name.split(".")
        student, wanted = recorded[f"input.student.{teacher}.{kind}"], recorded[f"input.teacher.{teacher}.{kind}"]
        as_tokens = (student[:, None], wanted[:, None]) if kind == "cls" else (student, wanted)
        distances = token_losses(*as_tokens, norm=None, weights=RELEASED)
        values = distances.cosine if measure == "cos" else distances.smooth_l1
        assert golden.max_error(values.reshape(expected.shape), expected) < golden.LOSS_ATOL
        checked += 1
    assert checked == 8


@pytest.mark.parametrize(("suffix", "cosine", "smooth_l1"), [("", 0.5, 0.5), ("_lamcos0.3_lamsl10.9", 0.3, 0.9)])
def test_loss_per_teacher_and_image(recorded: dict[str, Tensor], suffix: str, cosine: float, smooth_l1: float) -> None:
    weights = Loss(cosine=cosine, smooth_l1=smooth_l1)
    for teacher, prediction in predictions(recorded).items():
        loss = teacher_loss(prediction, target(recorded, teacher), norm=None, weights=weights)
        expected = recorded[f"output.loss_per_teacher{suffix}.{teacher}"]
        assert golden.max_error(loss.per_image, expected) < golden.LOSS_ATOL


def test_logged_terms(recorded: dict[str, Tensor], facts: dict) -> None:
    for teacher, prediction in predictions(recorded).items():
        terms = teacher_loss(prediction, target(recorded, teacher), norm=None, weights=RELEASED).terms
        assert {name.split("_")[0] for name in terms} == set(facts["token_types"][teacher])
        for name, values in terms.items():
            kind, measure = name.split("_", 1)
            short = "cos" if measure == "cosine_loss" else "sl1"
            expected = facts["metrics"][f"loss/dist_{kind}_{short}_{teacher}"]
            assert float(values.mean()) == pytest.approx(expected, abs=golden.LOSS_ATOL)


def masks(recorded: dict[str, Tensor], facts: dict, case: str, values: Tensor) -> Tensor:
    """The keep mask (T, B) of a case of the golden, computed by the code under test."""
    everyone = torch.ones_like(values, dtype=torch.bool)
    if case in ("own_data", "own+generic_data"):
        short = {
            "dino2": "dino2reg_vitlarge_14",
            "mast3r": "mast3r_vitlarge_16",
            "multihmr": "multihmr_vitlarge_14_672",
        }
        table = eligibility_table(
            "none" if case == "own_data" else "generic",
            groups=list(short),
            teacher_groups={teacher: [group] for group, teacher in short.items()},
            generic_groups=["dino2"],
        )
        group_of_image = [list(short).index(facts["dataset_to_teacher"][name]) for name in facts["dset_names"]]
        return torch.from_numpy(table[:, group_of_image])
    if case.startswith("lowest_loss"):
        listed = facts["dropping"][case].get("uniform_draws_in_order", [0.5] * 12)
        probability = float(case.split("_p", 2)[1].split("_")[0])
        uniforms = torch.tensor(listed, dtype=torch.float64).reshape(
            -1, 2
        )  # image by image, skipping its worst teacher
        return keep_mask(values, everyone, uniforms, drop_probability=probability)
    return everyone if case == "none" else recorded[f"input.drop.{case}"].bool()


CASES = [
    *("none", "own_data", "own+generic_data", "lowest_loss_p0", "lowest_loss_p1", "lowest_loss_p0.5_pyseed7"),
    *("mask0", "mask1", "mask2", "mask3"),
]


@pytest.mark.parametrize("case", CASES)
def test_coefficients_and_loss(recorded: dict[str, Tensor], facts: dict, case: str) -> None:
    values = per_image(recorded, predictions(recorded))
    keep = masks(recorded, facts, case, values)
    weights = coefficients(keep, count=keep.sum())
    assert golden.max_error(weights, recorded[f"output.drop.{case}.coeffs"]) < 1e-7
    assert float(combine(values, weights)) == pytest.approx(facts["dropping"][case]["loss"], abs=golden.LOSS_ATOL)
    if case.startswith("lowest_loss_p0.5"):
        uniforms = torch.tensor(facts["dropping"][case]["uniform_draws_in_order"]).reshape(-1, 2).numpy()
        everyone = torch.ones_like(keep).numpy()
        assert kept_count(everyone, uniforms, drop_probability=0.5) == int(keep.sum())


def test_gradient_is_that_of_the_authors(recorded: dict[str, Tensor], facts: dict) -> None:
    predicted = predictions(recorded, gradient=True)
    values = per_image(recorded, predicted)
    keep = masks(recorded, facts, "own+generic_data", values)
    combine(values, coefficients(keep, count=keep.sum())).backward()
    checked = 0
    for name, expected in recorded.items():
        if name.startswith("output.grad_own+generic."):
            _, _, teacher, kind = name.split(".")
            gradient = predicted[teacher][kind == "patch"].grad
            assert gradient is not None
            assert golden.max_error(gradient.reshape(expected.shape), expected) < 1e-8
            checked += 1
    assert checked == 4


def plain_losses(prediction: Tensor, wanted: Tensor, weights: Loss) -> Tensor:
    """The same in PyTorch's own words."""
    cosine = 1 - functional.cosine_similarity(prediction, wanted, dim=-1)
    smooth_l1 = functional.smooth_l1_loss(prediction, wanted, reduction="none").mean(dim=-1)
    return weights.cosine * cosine + weights.smooth_l1 * smooth_l1


@pytest.mark.parametrize("images_at_once", [1, 2, 100])
def test_pieces_and_standardisation_change_nothing(monkeypatch: pytest.MonkeyPatch, images_at_once: int) -> None:
    batch, tokens, channels = 5, 7, 16
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", images_at_once * tokens * channels)
    weights = Loss(cosine=0.7, smooth_l1=1.3)
    prediction = (2 * torch.randn(batch, tokens, channels)).requires_grad_()
    raw = (3 * torch.randn(batch, tokens, channels) + 1).half()
    std = torch.rand(channels) + 0.5
    std[0] = 1e-5  # below the clamp
    norm = Standardisation(torch.randn(channels), std)
    upstream = torch.rand(batch, tokens)

    expected = plain_losses(prediction, (raw.float() - norm.mean) / std.clamp(min=MIN_STD), weights)
    (expected_gradient,) = torch.autograd.grad(expected, prediction, upstream)
    distances = token_losses(prediction, raw, norm=norm, weights=weights)
    (gradient,) = torch.autograd.grad(distances.loss, prediction, upstream)

    assert torch.allclose(distances.loss, expected, rtol=1e-5)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
    assert not distances.cosine.requires_grad


def test_zero_and_equal_tokens_stay_finite() -> None:
    same = torch.randn(1, 2, 8)
    same[0, 1] = 0
    prediction = same.clone().requires_grad_()
    distances = token_losses(prediction, same, norm=None, weights=RELEASED)
    distances.loss.sum().backward()
    assert distances.loss.tolist()[0] == pytest.approx([0, 0.5], abs=1e-6)
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_autocast_leaves_the_loss_in_float32() -> None:
    prediction, wanted = torch.randn(2, 3, 8).bfloat16().requires_grad_(), torch.randn(2, 4, 8).half()
    halves = (prediction[:, :0], prediction)
    expected = teacher_loss((halves[0].float(), halves[1].float()), wanted[:, 1:], norm=None, weights=RELEASED)
    with torch.autocast("cpu", torch.bfloat16):
        loss = teacher_loss(halves, wanted[:, 1:], norm=None, weights=RELEASED)
    assert loss.per_image.dtype == torch.float32
    assert torch.equal(loss.per_image, expected.per_image)
    loss.per_image.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.dtype == torch.bfloat16


def test_a_non_finite_target_reaches_the_loss() -> None:
    wanted = torch.zeros(1, 1, 4)
    wanted[0, 0, 0] = torch.nan
    assert not torch.isfinite(token_losses(torch.ones(1, 1, 4), wanted, norm=None, weights=RELEASED).loss).all()


def test_shapes_that_differ_are_told() -> None:
    norm = TeacherNorm(None, Standardisation(torch.zeros(4), torch.ones(4)))
    with pytest.raises(InvalidInput, match=r"\(2, 9, 4\) differ from teacher tokens \(2, 16, 4\)"):
        teacher_loss((torch.zeros(2, 0, 4), torch.zeros(2, 9, 4)), torch.zeros(2, 16, 4), norm=norm, weights=RELEASED)
