"""The ranks of a training: the processes that torchrun started, and the few messages between them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from backbones.device import resolve_device
from store.errors import CodistillError, InvalidInput

_ENVIRONMENT = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One of the `world` processes of a training, which do equal work.

    Attributes:
        rank: number of this process; rank 0 writes the run directory.
        world: number of ranks.
        device: device of this rank.
        host_group: process group for numbers in host memory, so that nothing waits for a GPU; None on one rank.
    """

    rank: int
    world: int
    device: torch.device
    host_group: Any = None

    @property
    def first(self) -> bool:
        """True if this rank writes and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum `values`, which lie in host memory, over the ranks."""
        if self.world > 1:
            dist.all_reduce(values, group=self.host_group)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Stack the vectors (K,) of all ranks to (W, K), on the device of `values`."""
        if self.world == 1:
            return values[None]
        of_ranks = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(of_ranks, values)
        return torch.stack(of_ranks)

    def collect(self, value: Any) -> list[Any]:
        """Return the small Python objects of all ranks, in rank order."""
        if self.world == 1:
            return [value]
        of_ranks: list[Any] = [None] * self.world
        dist.all_gather_object(of_ranks, value, group=self.host_group)
        return of_ranks

    def first_alone(self, action: Callable[[], object]) -> None:
        """Run `action` on the first rank alone, while the others wait for it.

        Raises:
            CodistillError: the error of `action`, on every rank, so that none is left waiting: on the first as raised,
                on the others as InvalidInput with the same message.
        """
        problem: CodistillError | None = None
        if self.first:
            try:
                action()
            except CodistillError as error:
                problem = error
        message = self.collect(str(problem) if problem else None)[0]
        if problem:
            raise problem
        if message:
            raise InvalidInput(message)


@contextmanager
def join_ranks(device: str, *, option: str = "machine.device") -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one; a process group that exists is used and left open.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1"...; under torchrun "auto" and "cuda" are the GPU of the local rank.
        option: name of the device's option in messages.

    Raises:
        InvalidInput: this machine has no such device.
    """
    world, rank, local_rank = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    chosen = torch.device(resolve_device(device, option=option, local_rank=local_rank))
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
