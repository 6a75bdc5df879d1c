"""TF32, set for the time of a forward pass: it changes features by 1e-3, so it may not depend on who ran before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA matrix products and convolutions, and put back what was set before."""
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn]
    attribute: str = "allow_tf32"
    value: bool | str = allowed
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # newer torch, whose two ways must not be mixed
        backends = [torch.backends.cuda.matmul, cudnn.conv]
        attribute, value = "fp32_precision", "tf32" if allowed else "ieee"
    before = [getattr(backend, attribute) for backend in backends]
    for backend in backends:
        setattr(backend, attribute, value)
    try:
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            setattr(backend, attribute, setting)
