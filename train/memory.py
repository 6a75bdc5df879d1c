"""Memory of this machine, against what a recipe asks for: a refusal instead of a failed allocation."""

import os

import torch

from store.common.text import human_bytes

BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, float32


def host_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def too_large(parameters: int, *, device: str) -> str:
    """Say that a student does not fit; empty if it may.

    Args:
        parameters: number of its parameters.
        device: device of the recipe, "auto" for a GPU if there is one.
    """
    available, name = host_bytes(), "machine"
    if device != "cpu" and torch.cuda.is_available():
        available, name = torch.cuda.get_device_properties(0).total_memory, "GPU"
    needed = parameters * BYTES_PER_PARAMETER
    if needed <= available:
        return ""
    return (
        f"{parameters / 1e9:,.1f} billion parameters need {human_bytes(needed)} (weights, gradients, AdamW's moments), "
        f"this {name} has {human_bytes(available)}"
    )


def too_many(*, batch: int, row_bytes: int, prefetch: int) -> str:
    """Say that the batches that are read ahead do not fit into host memory; empty if they may."""
    needed = batch * row_bytes * (prefetch + 1)
    if needed <= host_bytes():
        return ""
    return (
        f"data.batch: {batch:,} images of {human_bytes(row_bytes)}, {prefetch + 1} batches at once, need "
        f"{human_bytes(needed)}, this machine has {human_bytes(host_bytes())}. Lower data.batch or machine.prefetch"
    )
