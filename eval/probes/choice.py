"""From what the command line names to an encoder: a run directory, a DUNE checkpoint, or a teacher's model."""

from pathlib import Path

import torch

from eval.probes import encoders
from eval.probes.encoders import ProbedEncoder
from eval.probes.settings import EncoderOptions
from store.errors import InvalidInput
from train import dune_checkpoints, runs
from train.model import Distiller
from train.student import Encoder


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
        run = runs.load(path)
        student = run.initial() if options.untrained else run.distiller
        name = f"{path.name}-untrained" if options.untrained else path.name
        return _of_distiller(student, options, name=name, device=device, norm=norm)
    if path.suffix == ".pth":
        _refuse(source, options, "weights", "stride", "untrained")
        held = dune_checkpoints.load(path)
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
    return encoders.of_teacher(
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
        return encoders.of_projector(distiller, options.projector, name=name, device=device, dtype=options.dtype)
    return _of_encoder(distiller.encoder, options, name=name, cell_px=distiller.cell_px, device=device, norm=norm)


def _of_encoder(
    network: Encoder, options: EncoderOptions, *, name: str, cell_px: int, device: torch.device, norm: bool
) -> ProbedEncoder:
    return encoders.of_student(network, name=name, cell_px=cell_px, device=device, final_norm=norm, dtype=options.dtype)


def _refuse(source: str, options: EncoderOptions, *names: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, False)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidInput(f"encoder '{source}': {flags} would have no effect on it. Leave it out")
