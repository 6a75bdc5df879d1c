"""Foreign encoders to compare a student with: DUNE checkpoints, other runs, any model that can be a teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones.state_dicts import fingerprint
from eval.encoders import probed
from eval.encoders.base import FrozenEncoder, StudentEncoder
from eval.encoders.options import EncoderEntry, EncoderFile, EncoderOptions
from eval.encoders.probed import ProbedEncoder
from store.common.config import parse, read_toml
from store.errors import InvalidConfig, InvalidInput
from train.model.distiller import Distiller
from train.model.encoder import Encoder
from train.model.encoder import Encoder as StudentNetwork
from train.run import dune_checkpoint, load

DUNE, RUN = "dune", "run"


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Foreign encoders by name, and for each what its tokens depend on (JSON)."""

    encoders: Mapping[str, FrozenEncoder]
    identities: Mapping[str, Any]


def load_peers(path: Path, *, image_size: int, cell_px: int, device: torch.device) -> Peers:
    """Load the encoders that a file lists.

    Args:
        path: TOML with `[[encoder]]` tables.
        image_size: side of the views that they will see, px.
        cell_px: pixels of a view per cell of the patch grid that they must give.
        device: to compute on.

    Raises:
        InvalidConfig: every problem of the file.
        MissingFile, InvalidInput: weights that are absent or don't fit.
    """
    subject = f"encoders '{path}'"
    entries = parse(EncoderFile, read_toml(path, subject=subject), subject=subject).encoder
    names = [entry.name for entry in entries]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidConfig(subject, [f"encoder '{name}' appears more than once" for name in repeated])
    encoders: dict[str, FrozenEncoder] = {}
    identities: dict[str, Any] = {}
    for entry in entries:
        weights = path.parent / entry.weights
        if entry.model in (DUNE, RUN):
            network = _student_network(entry, weights)
            encoders[entry.name] = StudentEncoder(network, cell_px=cell_px).to(device)
            identities[entry.name] = {"weights_sha256": fingerprint(network.state_dict())}
        else:
            teacher = _teacher(entry, weights, cell_px=cell_px, device=device)
            encoders[entry.name] = teacher
            identities[entry.name] = teacher.identity(image_size)
    return Peers(encoders=encoders, identities=identities)


def _student_network(entry: EncoderEntry, weights: Path) -> StudentNetwork:
    if entry.model == DUNE:
        from train.run import dune_checkpoint

        return dune_checkpoint.load(weights, num_heads=entry.num_heads).encoder
    from train.run import load

    return load.load(weights).distiller.encoder


def _teacher(entry: EncoderEntry, weights: Path, *, cell_px: int, device: torch.device) -> Any:
    from extract import teachers

    return teachers.load(
        entry.model,
        weights=weights,
        device=device,
        dtype=entry.dtype,
        rule=entry.rule,
        num_heads=entry.num_heads,
        stride=entry.stride,
        student_patch=cell_px,
    )


def choose(source: str, options: EncoderOptions, *, device: torch.device, final_norm: bool) -> ProbedEncoder:
    """Open the encoder.

    Args:
        source: a run directory, a `.pth` file of DUNE's layout, or a teacher's model as in a catalogue.
        options: how it is taken.
        device: where it runs.
        final_norm: the probe's default.

    Raises:
        MissingFile: no such run or file.
        InvalidInput: options that don't fit the encoder.
    """
    norm = final_norm if options.final_norm is None else options.final_norm
    path = Path(source)
    if path.is_dir():
        _refuse(source, options, "weights", "stride")
        run = load.load(path)
        student = run.initial() if options.untrained else run.distiller
        name = f"{path.name}-untrained" if options.untrained else path.name
        return _of_distiller(student, options, name=name, device=device, norm=norm)
    if path.suffix == ".pth":
        _refuse(source, options, "weights", "stride", "untrained")
        held = dune_checkpoint.load(path)
        if held.distiller is None and options.projector is None:
            return _of_encoder(held.encoder, options, name=path.stem, cell_px=14, device=device, norm=norm)
        if held.distiller is None:
            raise InvalidInput(f"'{source}': an encoder without projectors. Leave out --projector")
        return _of_distiller(held.distiller, options, name=path.stem, device=device, norm=norm)
    _refuse(source, options, "untrained", "projector")
    if options.weights is None:
        raise InvalidInput(
            f"encoder '{source}': expected a run directory, a .pth file, or a teacher's model with its --weights"
        )
    return probed.of_teacher(
        source,
        options.weights,
        device=device,
        dtype=options.dtype,
        stride=options.stride,
        cell_px=options.cell_px,
    )


def _of_distiller(
    distiller: Distiller, options: EncoderOptions, *, name: str, device: torch.device, norm: bool
) -> ProbedEncoder:
    if options.projector is not None:
        return probed.of_projector(distiller, options.projector, name=name, device=device, dtype=options.dtype)
    return _of_encoder(distiller.encoder, options, name=name, cell_px=distiller.cell_px, device=device, norm=norm)


def _of_encoder(
    network: Encoder, options: EncoderOptions, *, name: str, cell_px: int, device: torch.device, norm: bool
) -> ProbedEncoder:
    return probed.of_student(network, name=name, cell_px=cell_px, device=device, final_norm=norm, dtype=options.dtype)


def _refuse(source: str, options: EncoderOptions, *names: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, False)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidInput(f"encoder '{source}': {flags} would have no effect on it. Leave it out")
