"""Load teachers: from options in a catalogue or in a call to a frozen network on its device.

torch is imported only when a teacher is loaded.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from extract.teachers.options import STUDENT_PATCH_PX, Dtype, Request, Rule, TeacherOptions
from extract.teachers.registry import BUILDERS, TIMM
from store.common import config
from store.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from extract.teachers.base import Teacher


def load(
    model: str,
    *,
    weights: str | Path,
    device: "torch.device | str" = "cpu",
    dtype: str = "float32",
    student_patch: int = STUDENT_PATCH_PX,
    rule: Rule = "dune",
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
        device: device to run on.
        dtype: `float32`, or autocast to `float16` or `bfloat16`; norms, position tables and residual sums stay float32.
        student_patch: patch size of the student, whose grid every teacher's output has.
        rule: how DINOv2's positions are resampled: `dune`, as DUNE's targets were made, or `hub`, as the public
            models do.
        num_heads: attention heads of DINOv2- and CroCo-type models; None means channels / 64.
        stride: stage of a hierarchical or convolutional timm model, in input pixels per cell; None means the last.
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
    if dtype not in get_args(Dtype):
        raise InvalidInput(f"teacher '{model}': dtype '{dtype}', expected one of {', '.join(get_args(Dtype))}")
    options = {
        "model": model,
        "weights": weights,
        "dtype": dtype,
        "student_patch": student_patch,
        "rule": rule,
        "num_heads": num_heads,
        "stride": stride,
        "tf32": tf32,
        "channels_last": channels_last,
        "compile": compile,
    }
    return _build(config.parse(Request, options, subject=f"teacher '{model}'")).place_on(device)


def load_teacher(
    options: TeacherOptions, *, device: "torch.device | str", student_patch: int = STUDENT_PATCH_PX
) -> "Teacher":
    """Load the teacher that a configuration describes; raises as `load`.

    Args:
        options: teacher of a configuration.
        device: device to run on.
        student_patch: patch size of the student, whose grid the teacher's output has.
    """
    return build_teacher(options, student_patch=student_patch).place_on(device)


def build_teacher(options: TeacherOptions, *, student_patch: int = STUDENT_PATCH_PX) -> "Teacher":
    """Build the teacher that a configuration describes and read its weights; it stays on the CPU, for checks.

    Raises:
        As `load`.
    """
    fields = {name: getattr(options, name) for name in TeacherOptions.model_fields}
    return _build(Request(**fields, student_patch=student_patch))


def _build(request: Request) -> "Teacher":
    return _builder(request.model)(request)


def _builder(model: str) -> "Callable[[Request], Teacher]":
    module_name, colon, function = model.partition(":")
    if model in BUILDERS or module_name == TIMM:
        build: Callable[[Request], Teacher] = importlib.import_module(BUILDERS[module_name]).build
        return build
    if not colon:
        raise InvalidInput(
            f"teacher model '{model}': unknown{config.near_miss(model, BUILDERS)}. Expected one of "
            f"{', '.join(BUILDERS)}, timm:<model name>, or <module>:<function> for your own"
        )
    try:
        own: Callable[[Request], Teacher] = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"teacher model '{model}': cannot import it ({error})") from error
    return own
