"""Load teachers: from the words of a catalogue or of a caller to a frozen network on its device."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from extract.catalogue import TeacherEntry
    from extract.teachers.base import Request, Rule, Teacher


def load_teacher(entry: "TeacherEntry", *, device: str) -> "Teacher":
    """Load the teacher that a catalogue entry describes."""
    from extract.catalogue import STUDENT_PATCH_PX

    return load(
        entry.model,
        weights=entry.weights,
        device=device,
        dtype=entry.dtype,
        student_patch=STUDENT_PATCH_PX,
        rule=entry.rule,
        num_heads=entry.num_heads,
        stride=entry.stride,
        tf32=entry.tf32,
        channels_last=entry.channels_last,
        compile=entry.compile,
    )


def load(
    model: str,
    *,
    weights: str | Path,
    device: "torch.device | str" = "cpu",
    dtype: str = "float32",
    student_patch: int = 14,
    rule: "Rule" = "dune",
    num_heads: int | None = None,
    stride: int | None = None,
    tf32: bool = False,
    channels_last: bool = False,
    compile: bool = False,
) -> "Teacher":
    """Load a teacher from a local weight file; the size is read off the weights.

    Args:
        model: `dinov2`, `mast3r`, `dust3r`, `croco`, `multihmr`, `timm:<model name>`, or `<module>:<function>` for
            one of your own: a function that takes a `Request` and returns a `Teacher`.
        weights: file in the released layout, or the same tensors as safetensors.
        device: where it runs.
        dtype: `float32`, or autocast to `float16` or `bfloat16`; norms, position tables and residual sums stay float32.
        student_patch: patch size of the student, whose grid every teacher's output has.
        rule: how DINOv2's positions are resampled: `dune`, as DUNE's targets were made, or `hub`, as the public
            models do.
        num_heads: attention heads of DINOv2- and CroCo-type models; None means channels / 64.
        stride: the stage of a hierarchical or convolutional timm model, in input pixels per cell; None means the last.
        tf32: allow TF32 on CUDA.
        channels_last: memory layout; convolutional teachers run faster on GPUs with it.
        compile: run through `torch.compile`.

    Returns:
        The teacher, frozen, on `device`.

    Raises:
        MissingFile: no such weight file.
        UnsafeFile: the file would have to run code to be read.
        Damaged: the file is truncated or corrupt.
        InvalidInput: unknown model or option, or a file that does not hold the model.
    """
    from extract.teachers.base import Compute, Request

    request = Request(
        model=model, weights=Path(weights), student_patch=student_patch, rule=rule, num_heads=num_heads, stride=stride
    )
    compute = Compute(dtype=dtype, tf32=tf32, channels_last=channels_last, compile=compile)
    return _builder(model)(request).run_with(compute, device)


def _builder(model: str) -> "Callable[[Request], Teacher]":
    from extract.teachers.registry import BUILDERS, TIMM
    from store.common.config import near_miss

    module_name, colon, function = model.partition(":")
    if model in BUILDERS or module_name == TIMM:
        build: Callable[[Request], Teacher] = importlib.import_module(BUILDERS[module_name]).build
        return build
    if not colon:
        raise InvalidInput(
            f"teacher model '{model}': unknown{near_miss(model, BUILDERS)}. Expected one of {', '.join(BUILDERS)}, "
            "timm:<model name>, or <module>:<function> for your own"
        )
    try:
        own: Callable[[Request], Teacher] = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"teacher model '{model}': cannot import it ({error})") from error
    return own
