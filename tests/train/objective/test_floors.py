"""Estimates of the loss on true tokens from the loss on decoded ones, on synthetic students."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from store.format import distortion
from store.format.code import Code
from store.format.code_encode import Encoder
from tests.train.codes import fit, tokens_like_a_teachers
from train.objective.decode import Decoder
from train.objective.floors import corrected
from train.objective.losses import TeacherLoss, teacher_loss
from train.objective.targets import Standardisation, TeacherNorm
from train.objective.teacher_dropping import keep_mask
from train.recipe.config import Loss

WEIGHTS = Loss()
Losses = tuple[TeacherLoss, torch.Tensor, torch.Tensor]  # on decoded tokens; corrected; on true tokens


def of_code(code: Code) -> TeacherNorm:
    return TeacherNorm(
        Standardisation(torch.tensor(code.mean[0]), torch.tensor(code.std[0])) if code.prefix_tokens else None,
        Standardisation(torch.tensor(code.mean[1]), torch.tensor(code.std[1])),
    )


def losses_of_a_student(
    ratio: float | None, *, error: float, prefix: int = 1, channels: int = 64, seed: int = 3, rows: int = 192
) -> Losses:
    """A student that predicts what is left of the true tokens when `error` of their variance is unknown to it."""
    tokens = tokens_like_a_teachers(rows, channels=channels, prefix=prefix, seed=seed)
    code = fit(tokens_like_a_teachers(96, channels=channels, prefix=prefix), ratio=ratio or 8, prefix=prefix)
    numbers = np.arange(rows)
    codes, measured = Encoder(code).encode(tokens, numbers)
    norm = of_code(code)
    true = torch.from_numpy(code.standardised(tokens))
    generator = torch.Generator().manual_seed(seed)
    known = (1 - error) * true + (error * (1 - error)) ** 0.5 * torch.randn(true.shape, generator=generator)
    prediction = (known[:, :prefix], known[:, prefix:])
    on_true = teacher_loss(prediction, true, norm=None, weights=WEIGHTS)
    if ratio is None:
        return on_true, on_true.per_image, on_true.per_image
    decoder = Decoder(code, norm)
    decoded = decoder(torch.from_numpy(codes), torch.from_numpy(numbers))
    stored = code.stored_tokens(numbers)
    loss = teacher_loss(
        prediction,
        decoded,
        norm=decoder.shift,
        weights=WEIGHTS,
        tokens=None if stored is None else torch.from_numpy(stored),
    )
    merged = distortion.merge(measured)
    floors = torch.tensor(np.nan_to_num([merged.floors("prefix"), merged.floors("patch")])).float()
    return loss, corrected(loss, floors.expand(rows, 2, 2), weights=WEIGHTS), on_true.per_image


@pytest.mark.parametrize("ratio", [8, 16])
@pytest.mark.parametrize("error", [0.03, 0.3, 0.8])
def test_the_corrected_loss_is_nearer_to_the_true_one_than_any_simple_one(ratio: float, error: float) -> None:
    loss, estimate, true = losses_of_a_student(ratio, error=error)
    wanted = float(true.mean())
    floor = float(losses_of_a_student(ratio, error=0.0)[0].per_image.mean())  # of the true tokens themselves
    away = {
        "corrected": abs(float(estimate.mean()) - wanted),
        "plain": abs(float(loss.per_image.mean()) - wanted),
        "minus floor": abs(float(loss.per_image.mean()) - floor - wanted),
    }
    assert away["corrected"] < 0.02
    assert away["corrected"] < 0.5 * min(away["plain"], away["minus floor"]) or away["corrected"] < 0.005
    assert away["corrected"] <= away["plain"]


def test_a_token_subset_is_corrected_like_all_tokens() -> None:
    loss, estimate, true = losses_of_a_student(30, error=0.3, channels=96)
    assert abs(float(estimate.mean() - true.mean())) < 0.2 * abs(float((loss.per_image - true).mean()))


def test_images_without_a_floor_keep_their_loss_to_the_bit() -> None:
    loss, _, _ = losses_of_a_student(8, error=0.3)
    floors = torch.zeros(len(loss.per_image), 2, 2)
    floors[::2, 1] = 0.1
    estimate = corrected(loss, floors, weights=WEIGHTS)
    assert torch.equal(estimate[1::2], loss.per_image[1::2])
    assert (estimate[::2] < loss.per_image[::2]).all()


def test_dropping_keeps_teachers_alike_whatever_code_they_are_stored_in() -> None:
    """Three teachers of equal difficulty, one of them at 16x: compared by plain losses it would always be kept."""

    def losses(ratio: float | None, seed: int) -> TeacherLoss:
        plain, estimate, _ = losses_of_a_student(ratio, error=0.5, seed=seed, prefix=0)
        return replace(plain, corrected=estimate)

    of_float16 = torch.stack([losses(None, seed).per_image for seed in (3, 4, 5)])
    mixed = [losses(None, 3), losses(16, 4), losses(None, 5)]
    by_loss = torch.stack([teacher.per_image for teacher in mixed])
    by_estimate = torch.stack([teacher.against_true for teacher in mixed])
    images = of_float16.shape[1]
    eligible = torch.ones(3, images, dtype=torch.bool)
    uniforms = torch.rand(images, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def kept(values: torch.Tensor) -> torch.Tensor:
        return keep_mask(values, eligible, uniforms, drop_probability=0.5).double().mean(dim=1)

    assert (kept(by_estimate) - kept(of_float16)).abs().max() < 0.1
    assert kept(by_loss)[1] > 0.95  # the control


def test_tokens_that_decoding_says_nothing_of_do_not_blow_a_loss_up() -> None:
    terms = {"cls_cosine_loss": 1.02, "cls_smooth_l1": 0.1, "patch_cosine_loss": 0.4, "patch_smooth_l1": 0.1}
    loss = TeacherLoss(
        per_image=torch.tensor([0.405]), terms={name: torch.tensor([value]) for name, value in terms.items()}
    )
    floors = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # a constant CLS token: its cosines are those of noise
    assert float(corrected(loss, floors, weights=WEIGHTS)) == pytest.approx(0.405, abs=1e-6)
