"""One process or many: what torchrun started, and the few things that ranks tell one another."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from store.errors import CodistillError, InvalidInput


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among `world` equal ones.

    Attributes:
        rank: 0 writes the run directory.
        world: number of ranks.
        device: of this rank.
        host_group: for numbers in host memory, so that the GPU need not be waited for; None on one rank.
    """

    rank: int
    world: int
    device: torch.device
    host_group: Any = None

    @property
    def first(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values`, in host memory, over the ranks."""
        if self.world > 1:
            dist.all_reduce(values, group=self.host_group)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Stack a vector (K,) of every rank to (W, K); on its own device."""
        if self.world == 1:
            return values[None]
        everyone = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(everyone, values)
        return torch.stack(everyone)

    def collect(self, value: Any) -> list[Any]:
        """A small Python object of every rank, in rank order."""
        if self.world == 1:
            return [value]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, value, group=self.host_group)
        return everyone

    def first_alone(self, action: Callable[[], object]) -> None:
        """Let the first rank do something that the others wait for.

        Raises:
            CodistillError: what `action` raised, on every rank, so that none is left waiting; on the others as
                InvalidInput with the same message.
        """
        problem: CodistillError | None = None
        if self.first:
            try:
                action()
            except CodistillError as error:
                problem = error
        told = self.collect(str(problem) if problem else None)[0]
        if problem:
            raise problem
        if told:
            raise InvalidInput(told)


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one; a process group that exists is used and left.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1"...; under torchrun a GPU is chosen by local rank.

    Raises:
        InvalidInput: a GPU is asked for and there is none.
    """
    world, rank, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    chosen = _device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(rank=0, world=1, device=chosen)
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        group = dist.new_group(backend="gloo") if chosen.type == "cuda" else None
        yield Ranks(rank=rank, world=world, device=chosen, host_group=group)
    finally:
        if ours:
            dist.destroy_process_group()


_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise InvalidInput(f"machine.device: '{name}' is no device. Use auto, cpu, cuda or cuda:0") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"machine.device: '{name}', but torch sees no GPU here. Use auto or cpu")
    return wanted
