"""Files of human perception heads: released ones, and ours in the same layout.

A file is {`epoch`, `iter`, `model_state_dict`, `args`}, or the tensors alone. Beside the head there may be the backbone
(`backbone.`) and buffers of the body model (`smpl_layer.`), which are ignored; everything else must be a tensor of the
head. The two blocks that DUNE puts before it have no published names; ours are `prepended_blocks.`.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from backbones import state_dicts, weight_files
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.mean_parameters import standing
from eval.heads.hph.sizes import NOT_IN_TENSORS, HeadSizes, sizes_of
from store.errors import InvalidInput

STATE_NAME = "model_state_dict"
SIZES = "head_sizes"  # in `args` of our files
IGNORED = ("backbone.", "smpl_layer.", "smpl_layer_")
ANNY_PREFIX = "encoder.backbone."


def load(
    weights: str | Path, img_size: int | None = None, *, device: str | torch.device = "cpu", **sizes: int | None
) -> PerceptionHead:
    """Load a human perception head; nothing is unpickled beyond tensors and plain values.

    Args:
        weights: a released `multiHMR_*.pt`, a file that a training of this head wrote, or its tensors as .safetensors.
        img_size: side of the square input image in px, checked against the weights; None takes theirs.
        device: where the head goes.
        sizes: other sizes of `HeadSizes` by name. All but `heads`, `dim_head` and `block_heads` are read off the
            tensors and only checked; files that `save` wrote tell these too.

    Returns:
        The head in evaluation mode, its weights without gradient. `head(tokens, intrinsics)` returns the people.

    Raises:
        MissingFile, Damaged, UnsafeFile: the file cannot be read safely.
        InvalidInput: it is not such a head, or has other sizes; missing and unexpected tensors are listed.
    """
    source = f"weights '{weights}' as human perception head"
    checkpoint = weight_files.load(weights)
    state = head_tensors(checkpoint, source=source)
    given = {name: value for name, value in {"img_size": img_size, **sizes}.items() if value is not None}
    given = {**_stored_heads(checkpoint, given), **given}
    head = build(sizes_of(state, given, source=source), meta=True)
    state_dicts.load_into(head, {name: tensor.float() for name, tensor in state.items()}, source=source)
    return head.to(device).eval().requires_grad_(False)


def tokens_read(weights: str | Path) -> Literal["patches", "all"]:
    """Return which tokens of its encoder the blocks of a head were trained on, as files of our trainings tell.

    Released heads have no blocks and read patches.
    """
    args = _args(weight_files.load(weights))
    form = getattr(args, "head", None)
    return "all" if isinstance(form, dict) and form.get("tokens") == "all" else "patches"


def head_tensors(checkpoint: Any, *, source: str) -> state_dicts.State:
    """Return the head's tensors of a checkpoint, without backbone and body model.

    Raises:
        InvalidInput: no tensors, or those of the other head that Multi-HMR has for Anny.
    """
    state = state_dicts.strip_wrappers(state_dicts.find(checkpoint, (STATE_NAME,), source=source))
    if any(name.startswith(ANNY_PREFIX) for name in state):
        raise InvalidInput(
            f"{source}: this is Multi-HMR's head for the Anny body model, another network. Give a file for SMPL-X"
        )
    return {name: tensor for name, tensor in state.items() if not name.startswith(IGNORED)}


def build(sizes: HeadSizes, *, means: Mapping[str, Tensor] | None = None, meta: bool = False) -> PerceptionHead:
    """Build a head with fresh weights from torch's global random state.

    Args:
        sizes: sizes of the head.
        means: mean parameters; None takes identity rotations and zeros.
        meta: without memory, to load weights into.
    """
    with torch.device("meta" if meta else "cpu"):
        return PerceptionHead(sizes, standing(sizes) if means is None else means)


def save(
    path: Path, head: PerceptionHead, *, epoch: int = 0, iteration: int = 0, args: Mapping[str, Any] | None = None
) -> None:
    """Write a head in the layout of the released files, whole or not at all, with its sha256 beside it.

    Args:
        path: file to write, `.pt`; must not exist.
        head: head to write; its backbone is not part of it.
        epoch: epochs done, as the released trainer counts.
        iteration: optimizer steps done.
        args: plain settings to store beside the weights.

    Raises:
        OutputExists, StorageFailed: see `backbones.weight_files.save`.
    """
    checkpoint = {
        "epoch": epoch,
        "iter": iteration,
        STATE_NAME: {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()},
        "args": Namespace(**{**(args or {}), SIZES: asdict(head.sizes)}),
    }
    weight_files.save(path, checkpoint)


def _stored_heads(checkpoint: Any, given: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of attention heads that a file of ours tells; none if the caller gave any."""
    stored = getattr(_args(checkpoint), SIZES, None)
    if not isinstance(stored, dict) or any(name in given for name in NOT_IN_TENSORS):
        return {}
    return {name: stored[name] for name in NOT_IN_TENSORS if type(stored.get(name)) is int}


def _args(checkpoint: Any) -> Namespace:
    """Return the settings of a checkpoint; empty ones if it has none."""
    args = checkpoint.get("args") if isinstance(checkpoint, Mapping) else None
    return args if isinstance(args, Namespace) else Namespace()
