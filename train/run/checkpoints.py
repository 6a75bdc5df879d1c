"""Checkpoints: directories of safetensors and JSON, whole or absent; the newest few stay. Nothing is pickled."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from store.errors import Damaged, MissingFile

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of one checkpoint, in host memory.

    Attributes:
        step: optimizer steps done.
        model: the distiller's state dict under `distiller.`, the target statistics under `norms.`.
        optimizer: `PART/PARAMETER` -> state tensor, for example `exp_avg/encoder.cls_token`.
        state: content of `state.json`.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    A directory gets its final name once everything in it is on the disk; a crash leaves a hidden temporary directory
    that the next save removes.

    Args:
        directory: `checkpoints/` of a run; created if absent.
        checkpoint: content to write.
        keep: number of checkpoints that stay, at least 1.

    Returns:
        Directory of the checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(".step-*"):
        shutil.rmtree(leftover)
    final = directory / f"step-{checkpoint.step:08d}"
    temporary = directory / f".{final.name}"
    temporary.mkdir()
    save_file(_on_host(checkpoint.model), temporary / MODEL)
    save_file(_on_host(checkpoint.optimizer), temporary / OPTIMIZER)
    (temporary / STATE).write_text(json.dumps({"step": checkpoint.step, **checkpoint.state}, indent=2) + "\n")
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    if final.exists():  # of a run that was further before a crash
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(directory)
    for old in saved(directory)[:-keep]:
        shutil.rmtree(directory / f"step-{old:08d}")
    return final


def saved(directory: Path) -> list[int]:
    """Return the steps of the checkpoints in `directory`, ascending."""
    if not directory.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def load(directory: Path, step: int | None = None, *, optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint.

    Args:
        directory: `checkpoints/` of a run.
        step: step of the checkpoint; None takes the newest.
        optimizer: read the optimizer's tensors too; otherwise the result's are empty.

    Raises:
        MissingFile: there is no checkpoint, or none of that step; the available steps are listed.
        Damaged: the checkpoint cannot be read.
    """
    available = saved(directory)
    chosen = available[-1] if step is None and available else step
    if chosen is None or chosen not in available:
        missing = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise MissingFile(f"'{directory}': {missing}; available steps: {', '.join(map(str, available)) or 'none'}")
    path = directory / f"step-{chosen:08d}"
    try:
        return Checkpoint(
            step=chosen,
            model=load_file(path / MODEL),
            optimizer=load_file(path / OPTIMIZER) if optimizer else {},
            state=json.loads((path / STATE).read_text()),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(
            f"checkpoint '{path}' cannot be read ({error}). Remove that directory to go on from the one before it"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as `PART/PARAMETER` -> tensor."""
    return {
        f"{part}/{name}": value
        for name, parameter in model.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned, each tensor on the device of its parameter."""
    by_name = dict(model.named_parameters())
    for path, value in tensors.items():
        part, _, name = path.partition("/")
        parameter = by_name[name]
        optimizer.state[parameter][part] = value.to(parameter.device)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
