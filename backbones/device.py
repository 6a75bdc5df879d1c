"""Device and threads that torch computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from store import errors


def check_device(name: str, *, option: str = "--device") -> None:
    """Check that this machine has a device, without using it: a process that only submits work opens no GPU.

    Raises:
        errors.InvalidInput: it does not.
    """
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        there = f"{torch.cuda.device_count()} of them" if torch.cuda.device_count() else "none"
        raise errors.InvalidInput(
            f"{option} {name} cannot be used: torch finds {there} here. Choose auto, cpu, cuda or cuda:N"
        )


def resolve_device(name: str, *, option: str = "--device", local_rank: int | None = None) -> str:
    """Return the name of a device that this process can use.

    Args:
        name: `cpu`, `cuda`, `cuda:N` ..., or `auto`: a GPU where there is one, else the CPU.
        option: name of the setting in error messages.
        local_rank: number of this process among those of its machine; it takes the GPU of that number unless `name`
            says which. None leaves `cuda` without a number.

    Raises:
        errors.InvalidInput: torch knows no such device, or this machine does not have it.
    """
    chosen = name
    if name == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda" and local_rank is not None:
        chosen = f"cuda:{local_rank}"
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise errors.InvalidInput(
            f"{option} {chosen} cannot be used: {reason}. Choose auto, cpu, cuda or cuda:N"
        ) from error
    return chosen


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set the number of threads inside one torch operation, and restore it afterwards; None leaves it as it is.

    One thread is best where many operations run side by side.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
