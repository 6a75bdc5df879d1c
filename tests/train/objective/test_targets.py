"""Standardisation: the authors' running statistics, and moments taken in pieces and over ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.train import golden
from tests.train.builders import teacher_info
from train.objective import targets
from train.objective.targets import Standardisation, TargetNorms, batch_moments


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return golden.tensors("dune_loss.io")


def fresh() -> TargetNorms:
    return TargetNorms({"t": teacher_info(channels=24, prefix_tokens=1)})


def joined(recorded: dict[str, Tensor], name: str) -> Tensor:
    return torch.cat([recorded[f"{name}.cls"][:, None], recorded[f"{name}.patch"]], dim=1)


def error(norm: targets.TeacherNorm, tokens: Tensor, recorded: dict[str, Tensor], name: str) -> float:
    assert norm.prefix is not None
    cls, patch = norm.prefix.apply(tokens[:, 0]), norm.patch.apply(tokens[:, 1:])
    return max(
        float(((cls - recorded[f"{name}.cls"]).abs() / recorded[f"{name}.cls"].abs().clamp(min=1)).max()),
        float(((patch - recorded[f"{name}.patch"]).abs() / recorded[f"{name}.patch"].abs().clamp(min=1)).max()),
    )


def test_stored_statistics(recorded: dict[str, Tensor]) -> None:
    norms = fresh()
    stored = Standardisation(recorded["input.tnorm.mean"], recorded["input.tnorm.std"])
    norms.set("t", patch=stored, prefix=stored)
    tokens = joined(recorded, "input.tnorm")
    assert error(norms.stored("t"), tokens, recorded, "output.tnorm.eval") < 1e-6
    unmoved = norms.update("t", [tokens], momentum=0.0)
    assert unmoved.prefix is not None
    assert golden.max_error(unmoved.prefix.apply(tokens[:, 0]), recorded["output.tnorm.train_mom0.cls"]) < 1e-4


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_running_statistics_over_steps(recorded: dict[str, Tensor], ranks: int, micro_batches: int) -> None:
    norms = [fresh() for _ in range(ranks)]
    for step, momentum in enumerate(golden.scalars("dune_loss")["tnorm"]["momenta"]):
        tokens = joined(recorded, f"input.tnorm.step{step}")
        shares = [list(share.chunk(micro_batches)) for share in tokens.chunk(ranks)]
        sent: list[list[Tensor]] = [[], []]

        def collect(vector: Tensor, sent: list[list[Tensor]] = sent) -> Tensor:
            sent[len(sent[0]) > len(sent[1])].append(vector)
            return vector[None]

        if ranks == 1:
            used = norms[0].update("t", shares[0], momentum=momentum)
        else:  # two rounds: learn what each rank sends, then answer with all of it, as an all-gather does
            for share in shares:
                fresh().update("t", share, momentum=1.0, gather=collect)
            everyone = [torch.stack(vectors) for vectors in sent]
            for share, of_rank in zip(shares, norms, strict=True):
                answers = iter(everyone)
                used = of_rank.update("t", share, momentum=momentum, gather=lambda _, answers=answers: next(answers))
        assert error(used, tokens, recorded, f"output.tnorm.step{step}") < golden.FEATURES_ATOL
        for of_rank in norms:
            after = of_rank.stored("t")
            for kind, statistics in (("cls", after.prefix), ("patch", after.patch)):
                assert statistics is not None
                name = f"output.tnorm.step{step}.{kind}"
                assert golden.max_error(statistics.mean, recorded[f"{name}.mean_after"]) < 1e-6
                assert golden.max_error(statistics.std, recorded[f"{name}.std_after"]) < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 9), tokens=st.integers(1, 5), at_once=st.integers(1, 30), offset=st.sampled_from([0.0, 100.0])
)
def test_moments_in_pieces_are_those_of_the_whole(images: int, tokens: int, at_once: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(images * 31 + tokens)
    values = torch.randn(images, tokens, 6, generator=generator) + offset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "CHUNK_ELEMENTS", at_once)
        moments = batch_moments(values)
    flat = values.double().flatten(0, 1)
    assert int(moments.tokens) == len(flat)
    assert torch.allclose(moments.mean, flat.mean(0), rtol=1e-6)
    assert torch.allclose(moments.m2, (flat - flat.mean(0)).square().sum(0), rtol=1e-4, atol=1e-4)


def test_exact_statistics_survive_a_round_trip() -> None:
    norms, other = fresh(), fresh()
    statistics = Standardisation(torch.randn(24, dtype=torch.float64), torch.rand(24, dtype=torch.float64))
    norms.set("t", patch=statistics, prefix=statistics)
    other.load_state_dict(norms.state_dict())
    assert torch.equal(other.stored("t").patch.mean, statistics.mean.float())
    assert torch.equal(other.stored("t").patch.std, statistics.std.float())
