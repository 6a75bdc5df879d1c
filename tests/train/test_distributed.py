"""Several ranks are one: the same losses, held-out fidelity and weights, also when their number changes on the way."""

from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from store.errors import InvalidInput, OutputExists
from tests.train.builders import build_cache, tiny
from tests.train.children import start_rank
from tests.train.stories import assert_close, stop_after, weights
from train import step as train_step
from train.distributed import Ranks
from train.loop import train
from train.recipe.config import Recipe
from train.run import log

STEPS, CHANGE_AT = 6, 3


def train_on_two_ranks(runs: list[tuple[Recipe, Path, int]], *, cache: str) -> None:
    """Train or resume each recipe in its directory, until the step it is stopped after (0 for its end)."""
    resolved = []
    for recipe, out, stop in runs:
        out.with_suffix(".json").write_text(recipe.to_json())
        resolved.append((str(out.with_suffix(".json")), out, stop))
    meeting = Path(cache).with_name("meeting")
    ranks = [start_rank(rank, meeting=meeting, runs=resolved, cache=cache) for rank in range(2)]
    for number in wait([rank.sentinel for rank in ranks]):
        if any(rank.sentinel == number and rank.exitcode for rank in ranks):  # the other waits for it
            for rank in ranks:
                rank.kill()
    for rank in ranks:
        rank.join()
    messages = [path.read_text() for path in sorted(meeting.parent.glob("meeting.*.txt"))]
    assert [rank.exitcode for rank in ranks] == [0, 0], messages


def of_halves(keep: torch.Tensor, *, count: int) -> torch.Tensor:
    """Coefficients of `per_rank` on two ranks, computed on one: each half of the mask (T, B) has its own divisor."""
    return torch.cat([half / half.sum() / 2 for half in keep.float().chunk(2, dim=1)], dim=1)


def test_two_ranks_are_one_rank_from_any_step_on(tmp_path: Path) -> None:
    """Same global batch, masks and statistics, so the same losses, held-out fidelity and weights."""
    build_cache(tmp_path / "cache")
    cache = str(tmp_path / "cache")
    exact = tiny(schedule__steps=STEPS, optim__micro_batches=2, optim__eps=1e-6, machine__threads=1)
    ema = tiny(schedule__steps=4, optim__micro_batches=2, targets__norm="ema", machine__threads=1)
    released = tiny(
        schedule__steps=5, sharing__normalise="per_rank", data__datasets=["faces"], optim__eps=1e-6, machine__threads=1
    )
    alone, fewer, more = tmp_path / "alone", tmp_path / "fewer", tmp_path / "more"
    train(exact, caches=[cache], out=alone, quiet=True)
    train(ema, caches=[cache], out=tmp_path / "ema-alone", quiet=True)
    train(released, caches=[cache], out=tmp_path / "one-divisor", quiet=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_step, "coefficients", of_halves)
        train(released, caches=[cache], out=tmp_path / "two-divisors", quiet=True)
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, CHANGE_AT)
        train(exact, caches=[cache], out=more, quiet=True)

    both = tmp_path / "both"
    runs = [(exact, both, 0), (exact, fewer, CHANGE_AT), (exact, more, 0), (ema, tmp_path / "ema", 0)]
    train_on_two_ranks([*runs, (released, tmp_path / "released", 0)], cache=cache)
    assert [record["step"] for record in log.read(fewer, log.STEP)] == [1, 2, 3]
    assert train(exact, caches=[cache], out=fewer, resume=True, quiet=True).finished

    for out in (both, fewer, more):
        assert_close(alone, out, tolerance=1e-5)
        ours, theirs = weights(alone), weights(out)
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    # batch statistics of a few tokens round differently in parts
    assert_close(tmp_path / "ema-alone", tmp_path / "ema", tolerance=1e-4)
    assert_close(tmp_path / "two-divisors", tmp_path / "released", tolerance=1e-5)
    with pytest.raises(AssertionError):  # the coefficients of the halves are not always equally many
        assert_close(tmp_path / "one-divisor", tmp_path / "released", tolerance=1e-3)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_first_rank_refuses_all_refuse(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the others wait for it, and its message drowns in what they say when it is gone."""
    sent: list[str | None] = []

    def collect(self: Ranks, value: str | None) -> list[str | None]:
        sent.append(value)
        return [value, None] if rank == 0 else ["'a' is not empty", value]

    def refuse() -> None:
        assert rank == 0, "only the first does it"
        raise OutputExists("'a' is not empty")

    monkeypatch.setattr(Ranks, "collect", collect)
    with pytest.raises(InvalidInput, match="'a' is not empty") as caught:
        Ranks(rank=rank, world=2, device=torch.device("cpu")).first_alone(refuse)
    assert caught.type is (OutputExists if rank == 0 else InvalidInput)
    assert sent == ["'a' is not empty" if rank == 0 else None]
