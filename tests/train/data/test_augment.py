"""Student-only colour changes: a pure function of (seed, step, slot), and the teachers' targets stay as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train.step
from tests.train.builders import TEACHERS, build_cache, tiny
from train.data import augment
from train.loop import train as run_training
from train.objective import batch_losses
from train.objective.losses import TeacherLoss

NO_CHANGE = torch.tensor([[1.0, 1.0, 1.0, 0.0]])


def pixels(images: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (images, 8, 8, 3), dtype=torch.uint8)


def test_parameters_depend_on_seed_step_and_slot_alone() -> None:
    whole = augment.sample_parameters(seed=3, step=9, images=5000)
    assert np.array_equal(whole[:7], augment.sample_parameters(seed=3, step=9, images=7))
    assert not np.array_equal(whole[:7], augment.sample_parameters(seed=3, step=10, images=7))
    assert not np.array_equal(whole[:7], augment.sample_parameters(seed=4, step=9, images=7))
    assert whole.min(axis=0) == pytest.approx([0.6, 0.6, 0.8, 0.0], abs=1e-3)
    assert whole.max(axis=0) == pytest.approx([1.4, 1.4, 1.2, 1.0], abs=1e-3)
    assert whole[:, 3].mean() == pytest.approx(0.2, abs=0.02)


def test_each_number_does_what_it_is_called() -> None:
    images = pixels(1)
    assert torch.equal(augment.photometric(images, NO_CHANGE), images)
    darker = augment.photometric(images, torch.tensor([[0.5, 1.0, 1.0, 0.0]]))
    assert torch.equal(darker, (images.float() * 0.5).round().to(torch.uint8))
    flat = augment.photometric(images, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert (flat == flat[0, 0, 0]).all()  # no contrast left
    luma = (images.float() * torch.tensor(augment.LUMA)).sum(-1, keepdim=True).round().to(torch.uint8)
    for numbers in ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]):  # grey, or no saturation
        assert torch.equal(augment.photometric(images, torch.tensor([numbers])), luma.expand_as(images))


def test_an_image_is_changed_by_its_own_numbers_alone() -> None:
    images, numbers = pixels(4), torch.from_numpy(augment.sample_parameters(seed=0, step=0, images=4))
    together = augment.photometric(images, numbers)
    assert together.dtype == torch.uint8
    for position in range(4):
        one = slice(position, position + 1)
        assert torch.equal(together[one], augment.photometric(images[one], numbers[one]))


def test_only_the_student_sees_other_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets of every step are those of a run without; only the input of the student differs."""
    build_cache(tmp_path / "cache")
    seen: list[torch.Tensor] = []
    taught: list[torch.Tensor] = []
    student, loss = train.step.normalise, batch_losses.teacher_loss

    def recording_normalise(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.clone())
        return student(images)

    def compared(prediction: Any, target: torch.Tensor, **options: Any) -> TeacherLoss:
        if torch.is_grad_enabled():  # a step, not a measurement
            taught.append(target.clone())
        return loss(prediction, target, **options)

    monkeypatch.setattr(train.step, "normalise", recording_normalise)
    monkeypatch.setattr(batch_losses, "teacher_loss", compared)
    steps = 3
    for kind in ("none", "photometric"):
        recipe = tiny(schedule__steps=steps, data__augment=kind, machine__threads=1)
        run_training(recipe, caches=[str(tmp_path / "cache")], out=tmp_path / kind, quiet=True)
    assert len(seen) == 2 * steps
    assert len(taught) == 2 * steps * len(TEACHERS)
    half = len(taught) // 2
    assert all(torch.equal(one, other) for one, other in zip(taught[:half], taught[half:], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(seen[:steps], seen[steps:], strict=True))
