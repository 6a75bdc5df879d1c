"""State dicts: find them in a checkpoint, rename, check against a module, load, and fingerprint."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from store.common.text import some
from store.errors import InvalidInput

State = dict[str, Tensor]
WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and torch.compile; both at once occur
LISTED_NAMES = 5  # in an error message, for each kind of problem
LISTED_GROUPS = 10
SMALL_BYTES = 2**26  # that a tensor may repeat: expanded tables are stored once


def find(checkpoint: Any, names: Sequence[str], *, source: str) -> State:
    """Return the state dict of a checkpoint: under the first of `names` that it has, else the checkpoint itself.

    Entries that are not tensors are left out.

    Raises:
        InvalidInput: no tensors there; the message lists what there is.
    """
    if not isinstance(checkpoint, Mapping):
        raise InvalidInput(f"{source}: expected a dict of tensors, found {type(checkpoint).__name__}")
    inner = next((checkpoint[name] for name in names if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    state = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        keys = some(checkpoint, limit=LISTED_NAMES)
        raise InvalidInput(f"{source}: expected tensors at the top or under {_quoted(names)}, found keys {keys}")
    _refuse_hollow(state, source=source)
    return state


def _refuse_hollow(state: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse tensors of which the file does not hold every value: sizes are read off them, and memory asked for.

    Raises:
        InvalidInput: all such tensors are listed.
    """
    hollow = [
        name
        for name, tensor in state.items()
        if tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_meta
        or tensor.numel() * tensor.element_size() > max(SMALL_BYTES, tensor.untyped_storage().nbytes())
    ]
    if hollow:
        names = some(hollow, limit=LISTED_NAMES)
        raise InvalidInput(
            f"{source}: expected plain tensors, found sparse, quantised, repeated or empty ones ({names})"
        )


def strip_wrappers(state: Mapping[str, Tensor]) -> State:
    """Remove `module.` at the front of names and `_orig_mod.` anywhere in them, also several times.

    Raises:
        InvalidInput: two names become one.
    """
    renamed: State = {}
    for name, tensor in state.items():
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        while len(parts) > 1 and parts[0] in WRAPPERS:
            parts.pop(0)
        short = ".".join(parts)
        if short in renamed:
            raise InvalidInput(f"state dict: '{name}' and another tensor are both '{short}' without their wrappers")
        renamed[short] = tensor
    return renamed


def select(state: Mapping[str, Tensor], prefix: str) -> State:
    """Keep the tensors whose name begins with `prefix`, and remove it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def check(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str) -> None:
    """Compare names, shapes and kinds of numbers; every problem is reported at once.

    Args:
        expected: state dict of the module.
        state: state dict from a file.
        source: name of the file in error messages, for example `weights 'a.pth' as DINOv2`.

    Raises:
        InvalidInput: missing, unexpected or differently shaped tensors, or other numbers where weights are real.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} expected {_shape(expected[name])}, found {_shape(state[name])}"
        for name in expected
        if name in state and expected[name].shape != state[name].shape
    ]
    kinds = [
        f"{name} expected {_dtype(expected[name])}, found {_dtype(state[name])}"
        for name in expected
        if name in state and expected[name].is_floating_point() and not state[name].is_floating_point()
    ]
    problems = [
        f"{len(names)} {kind} ({some(names, limit=LISTED_NAMES)})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another type", kinds),
        )
        if names
    ]
    if problems:
        raise InvalidInput(
            f"{source}: of {len(expected)} tensors expected, "
            + "; ".join(problems)
            + ". Check that the file holds this model"
        )


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a module, strictly; a module on the meta device is given CPU memory first.

    Raises:
        InvalidInput: names or shapes differ; see `check`.
    """
    check(module.state_dict(), state, source=source)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device="cpu")
    module.load_state_dict(dict(state), strict=True)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over sorted (name, dtype, shape, bytes): the same for the same tensors in any container."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{_dtype(tensor)}\0{_shape(tensor)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def groups(state: Mapping[str, Tensor]) -> str:
    """List the first components of the names, which an error message shows as the contents of a file."""
    return some(sorted({name.split(".")[0] for name in state}), limit=LISTED_GROUPS)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
