"""A miniature training: ray-cast rooms, a tiny student, a tiny decoder."""

import os
import signal
from functools import cache, partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.heads.mast3r.encoders import StudentPairEncoder
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.train import Stepper, begin, train_mast3r
from eval.heads.pairs import Mixture, Pair
from eval.heads.recipes.mast3r import Mast3rRecipe
from store.common.config import parse
from tests import children
from tests.eval.heads.mast3r.goldens import tiny_student
from tests.eval.heads.pairs.room import room_pairs
from train.distributed import Ranks, join_ranks

PAIRS = 3
SMALL: dict[str, Any] = {
    "steps": 4,
    "resolutions": [(84, 56), (56, 56)],
    "batch": 4,
    "part": 2,
    "encoder_precision": "fp32",
    "decoder": {"dim": 16, "depth": 2, "heads": 2, "dpt_dims": [4, 4, 4, 4], "dpt_features": 4, "dpt_last": 4},
    "loss": {"matches": 64},
    "optim": {"lr": 1e-3, "warmup": 0.0},
    "checkpoint": {"every_steps": 2, "keep": 9},
    "workers": 0,
}


def recipe(**changes: Any) -> Mast3rRecipe:
    return parse(Mast3rRecipe, {**SMALL, **changes}, subject="recipe")


def student(patch_size: int = 14) -> StudentPairEncoder:
    torch.manual_seed(1)
    return StudentPairEncoder(tiny_student(patch_size=patch_size))


def model(chosen: Mast3rRecipe, **options: Any) -> PairModel:
    return begin(chosen, student(**options))


class FewPairs:
    """A few ray-cast pairs that are rendered once."""

    def __init__(self, count: int = PAIRS) -> None:
        rng = np.random.default_rng(0)
        self._pairs = [room_pairs(size=(84, 56)).pair(index, rng) for index in range(count)]

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        return self._pairs[index]


@cache
def mixture(pairs: int = PAIRS) -> Mixture:
    return Mixture(datasets=[FewPairs(pairs)], pairs=[pairs])


def train(out: Path, chosen: Mast3rRecipe | None = None, *, ranks: Ranks | None = None, **options: Any) -> int:
    chosen = chosen or recipe()
    pair = options.pop("model", None) or model(chosen)
    options.setdefault("mixture", mixture())
    return train_mast3r(chosen, model=pair, out=out, ranks=ranks, quiet=True, **options).step


def train_on_two_ranks(out: Path, chosen: Mast3rRecipe, *, stop_after: int) -> list[int | None]:
    """Train in two processes as under torchrun, asked to stop after a step on the second one; returns exit codes."""
    meeting = out.with_name("meeting")
    ranks = [
        children.start(partial(_rank, rank, meeting, out, chosen, stop_after), output=meeting.with_suffix(f".{rank}"))
        for rank in range(2)
    ]
    for number in wait([rank.sentinel for rank in ranks]):
        if any(rank.sentinel == number and rank.exitcode for rank in ranks):  # the other waits for it
            for rank in ranks:
                rank.kill()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


def _rank(rank: int, meeting: Path, out: Path, chosen: Mast3rRecipe, stop_after: int) -> None:
    os.environ.update({"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=2)
    before = Stepper.step

    def stopping(self: Stepper, batch: Any, step: int) -> dict[str, Any]:
        if rank == 1 and step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, batch, step)

    Stepper.step = stopping  # type: ignore[method-assign]
    with join_ranks("cpu") as ranks:
        assert train(out, chosen, ranks=ranks) == stop_after
    torch.distributed.destroy_process_group()
