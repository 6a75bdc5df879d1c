"""Sharing and dropping: what is eligible, what is kept, and that the count is known before the losses are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from store.errors import InvalidInput
from train.data.teacher_sharing import eligibility_table
from train.objective.teacher_dropping import keep_mask, kept_count, sample_drop_uniforms

GROUPS = ("generic", "people", "scenes")
TEACHER_GROUPS = {"mast3r": ("scenes",), "dinov2": ("generic",), "multihmr": ("people",)}


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        ("full", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
        ("none", [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("generic", [[1, 0, 0], [1, 0, 1], [1, 1, 0]]),
    ],
)
def test_eligibility_rows_are_sorted_teachers(sharing: str, expected: list[list[int]]) -> None:
    table = eligibility_table(
        sharing,
        groups=GROUPS,
        teacher_groups=TEACHER_GROUPS,
        generic_groups=("generic",),  # type: ignore[arg-type]
    )
    assert table.astype(int).tolist() == expected


def test_a_group_that_teaches_nobody_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"no teacher learns from group indoor"):
        eligibility_table("none", groups=("indoor",), teacher_groups=TEACHER_GROUPS, generic_groups=())
    with pytest.raises(InvalidInput, match=r"expected one of full, generic, none"):
        eligibility_table("all", groups=GROUPS, teacher_groups=TEACHER_GROUPS, generic_groups=())  # type: ignore[arg-type]


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, float]:
    teachers, images = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    losses = torch.from_numpy(random.random((teachers, images)))
    eligible = torch.from_numpy(random.random((teachers, images)) < draw(st.sampled_from([0.0, 0.5, 1.0])))
    uniforms = sample_drop_uniforms(
        seed=draw(st.integers(0, 2**40)), step=draw(st.integers(0, 9)), images=images, teachers=teachers
    )
    return losses, eligible, uniforms, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))


@given(batches())
def test_dropping_keeps_the_worst_and_a_known_number(
    batch: tuple[torch.Tensor, torch.Tensor, np.ndarray, float],
) -> None:
    losses, eligible, uniforms, probability = batch
    keep = keep_mask(losses, eligible, torch.from_numpy(uniforms), drop_probability=probability)
    assert not (keep & ~eligible).any()
    for image in range(losses.shape[1]):
        others = [int(t) for t in range(len(losses)) if eligible[t, image]]
        if not others:
            assert not keep[:, image].any()
            continue
        worst = max(others, key=lambda teacher: losses[teacher, image])
        others.remove(worst)
        assert keep[worst, image]
        assert [bool(keep[t, image]) for t in others] == [d >= probability for d in uniforms[image, : len(others)]]
    assert kept_count(eligible.numpy(), uniforms, drop_probability=probability) == int(keep.sum())


def test_uniforms_depend_on_seed_step_and_slot_alone() -> None:
    whole = sample_drop_uniforms(seed=3, step=70_000, images=64, teachers=3)
    assert np.array_equal(whole[:10], sample_drop_uniforms(seed=3, step=70_000, images=10, teachers=3))
    assert not np.array_equal(whole, sample_drop_uniforms(seed=3, step=70_001, images=64, teachers=3))
    assert not np.array_equal(whole, sample_drop_uniforms(seed=4, step=70_000, images=64, teachers=3))
    assert whole.shape == (64, 2)
    many = sample_drop_uniforms(seed=0, step=0, images=50_000, teachers=3)
    assert abs(many.mean() - 0.5) < 0.005
    assert 0 <= many.min() < many.max() < 1
