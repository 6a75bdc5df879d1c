"""Checkpoints: directories of safetensors and JSON, whole or absent; the newest few stay. Nothing is pickled.

`SHA256SUMS` in a checkpoint covers its files, and state.json says that it must be there; checkpoints written before
there were sums are read unchecked.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from store.common import atomic, checksums, strict_json
from store.errors import Damaged, InvalidInput, MissingFile, StorageFailed
from store.storage import publish

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
    that `sweep` removes.

    Args:
        directory: `checkpoints/` of a run; created if absent.
        checkpoint: content to write.
        keep: number of checkpoints that stay, at least 1.

    Returns:
        Directory of the checkpoint.

    Raises:
        StorageFailed: it could not be written, for example onto a full disk; earlier checkpoints stay, nothing else.
    """
    final = directory / f"step-{checkpoint.step:08d}"
    temporary = publish.temporary_path(directory / f".{final.name}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, checkpoint)
        if final.exists():  # of a run that was further before a crash
            _remove(final)
        temporary.rename(final)
        _sync(directory)
    except (OSError, SafetensorError) as error:
        reason = atomic.system_reason(error)
        if reason is None:
            raise
        steps = saved(directory)
        remains = f"The checkpoint of step {steps[-1]} is whole" if steps else "There is no earlier checkpoint"
        raise StorageFailed(
            f"checkpoint '{final}' cannot be written: {reason}. {remains}. Put that right and run the same command "
            "with --resume"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in saved(directory)[:-keep]:
        _remove(directory / f"step-{old:08d}")
    return final


def sweep(directory: Path, *, locked: bool) -> None:
    """Remove what crashed saves left in `directory`.

    Args:
        directory: `checkpoints/` of a run.
        locked: this process has the run's lock, so there is no other writer; otherwise only leftovers of processes that
            are known to be dead, or that are hours old, are removed.
    """
    for leftover in directory.glob(".step-*"):
        if locked or _is_abandoned(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


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
        Damaged: the checkpoint cannot be read, or a file is not the one that was written.
    """
    available = saved(directory)
    chosen = available[-1] if step is None and available else step
    if chosen is None or chosen not in available:
        missing = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise MissingFile(f"'{directory}': {missing}; available steps: {', '.join(map(str, available)) or 'none'}")
    try:
        return _read(directory, chosen, optimizer=optimizer)
    except Damaged:
        if step is None and chosen not in saved(directory):  # a training removed it meanwhile, after a newer one
            return load(directory, optimizer=optimizer)
        raise


def check(directory: Path, step: int) -> None:
    """Compare the files of a checkpoint with their sums, without loading them.

    Raises:
        Damaged: a file is not the one that was written; expected and found sums are shown.
    """
    _check(directory, step, (MODEL, OPTIMIZER))


def _read(directory: Path, step: int, *, optimizer: bool) -> Checkpoint:
    path = directory / f"step-{step:08d}"
    state = _check(directory, step, (MODEL, OPTIMIZER) if optimizer else (MODEL,))
    try:
        return Checkpoint(
            step=step,
            model=load_file(path / MODEL),
            optimizer=load_file(path / OPTIMIZER) if optimizer else {},
            state=state,
        )
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise Damaged(f"checkpoint '{path}' cannot be read ({error}). {_way_out(directory, step)}") from error


def _check(directory: Path, step: int, names: Sequence[str]) -> dict[str, Any]:
    """Compare files of a checkpoint, and its state.json, with their sums; return the state."""
    path = directory / f"step-{step:08d}"
    try:
        checksums.check_folder(path, [*names, STATE])
        state = strict_json.parse_object((path / STATE).read_bytes(), where=f"'{path / STATE}'")
    except Damaged as error:
        raise Damaged(f"checkpoint {error}. {_way_out(directory, step)}") from None
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise Damaged(f"checkpoint '{path}' cannot be read ({error}). {_way_out(directory, step)}") from error
    if "checksums" in state and not (path / checksums.SUMS).exists():
        raise Damaged(f"checkpoint '{path}' is damaged: {checksums.SUMS} is missing. {_way_out(directory, step)}")
    return state


def _way_out(directory: Path, step: int) -> str:
    older = [other for other in saved(directory) if other < step]
    if older:
        return f"Remove that directory to go on from the checkpoint of step {older[-1]}"
    return "There is no older checkpoint: restore that directory from a copy, or train again with --overwrite"


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    state = {"step": checkpoint.step, **checkpoint.state, "checksums": checksums.SUMS}
    save_file(_on_host(checkpoint.model), directory / MODEL)
    save_file(_on_host(checkpoint.optimizer), directory / OPTIMIZER)
    for name in (MODEL, OPTIMIZER):  # save_file leaves them to their owner alone
        (directory / name).chmod(directory.stat().st_mode & 0o666)
    (directory / STATE).write_text(json.dumps(state, indent=2) + "\n")
    checksums.write_folder_sums(directory, [MODEL, OPTIMIZER, STATE])
    for path in (*directory.iterdir(), directory):
        _sync(path)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; under its own name it is whole or absent, whatever happens meanwhile."""
    hidden = publish.temporary_path(checkpoint.with_name(f".{checkpoint.name}"))
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _is_abandoned(leftover: Path) -> bool:
    match = publish.TEMPORARY.fullmatch(leftover.name)
    writer = publish.Writer.parse("~".join(match.group("host", "boot", "pids", "pid"))) if match else None
    try:
        old = time.time() - leftover.stat().st_mtime > publish.STALE_AFTER_S
    except FileNotFoundError:
        return False
    return old or (writer is not None and writer.known_dead())


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as `PART/PARAMETER` -> tensor."""
    return {
        f"{part}/{name}": value
        for name, parameter in model.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned, each tensor on the device of its parameter.

    Raises:
        InvalidInput: a tensor is not of a parameter of this student.
    """
    by_name = dict(model.named_parameters())
    for path, value in tensors.items():
        part, _, name = path.partition("/")
        parameter = by_name.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise InvalidInput(f"state of the optimizer: '{path}' of shape {tuple(value.shape)} is not of this student")
        optimizer.state[parameter][part] = value.to(parameter.device)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
