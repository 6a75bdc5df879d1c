"""Open the encoder of a probe, and the encoders that a student is compared with."""

from pathlib import Path

import torch

from eval.encoders.open_encoder import OpenEncoder, of_projector, of_student, of_teacher
from eval.encoders.options import EncoderEntry, EncoderFile, EncoderOptions, check_source
from extract.teachers.options import TeacherOptions
from store.common.config import parse, read_toml
from store.errors import InvalidConfig, InvalidInput
from train.model.distiller import Distiller
from train.model.encoder import Encoder as StudentNetwork
from train.run import dune_checkpoint
from train.run.load import load as load_run

DUNE, RUN = "dune", "run"  # models of the TOML file that are students, not teachers
DUNE_CELL_PX = 14


def open_encoder(source: str, options: EncoderOptions, *, device: torch.device, final_norm: bool) -> OpenEncoder:
    """Open the encoder that a probe's command line names.

    Args:
        source: run directory, `.pth` file in DUNE's layout, or model of a teacher as in a catalogue.
        options: flags of the command line.
        device: device to run on.
        final_norm: apply a student's final norm unless `options` says otherwise.

    Raises:
        MissingFile: no such run or file.
        InvalidInput: options that do not fit the encoder.
    """
    path = Path(source)
    norm = final_norm if options.final_norm is None else options.final_norm
    if path.is_dir():
        _refuse(source, options, "weights", "stride")
        run = load_run(path)
        student = run.initial() if options.untrained else run.distiller
        name = f"{path.name}-untrained" if options.untrained else path.name
        return _of_distiller(student, options, name=name, device=device, final_norm=norm)
    if path.suffix == ".pth":
        _refuse(source, options, "weights", "stride", "untrained")
        return _of_dune_checkpoint(path, options, device=device, final_norm=norm)
    _refuse(source, options, "untrained", "projector")
    check_source(source, options)
    values = {"model": source, "weights": options.weights, "dtype": options.dtype, "stride": options.stride}
    teacher = parse(TeacherOptions, values, subject=f"encoder '{source}'")
    return of_teacher(teacher, name=source.rpartition(":")[2], cell_px=options.cell_px, device=device)


def open_peers(path: Path, *, cell_px: int, device: torch.device) -> dict[str, OpenEncoder]:
    """Open the encoders that a TOML file lists, by name.

    Args:
        path: TOML file with `[[encoder]]` tables.
        cell_px: pixels of a view per cell of the patch grid that their tokens must have.
        device: device to run on.

    Raises:
        InvalidConfig: problems in the file; all are listed.
        MissingFile: no such weights.
        InvalidInput: weights that do not fit the model.
    """
    subject = f"encoders '{path}'"
    entries = parse(EncoderFile, read_toml(path, subject=subject), subject=subject).encoder
    names = [entry.name for entry in entries]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidConfig(subject, [f"encoder '{name}' appears more than once" for name in repeated])
    return {entry.name: _open_peer(entry, path.parent, cell_px=cell_px, device=device) for entry in entries}


def _open_peer(entry: EncoderEntry, folder: Path, *, cell_px: int, device: torch.device) -> OpenEncoder:
    weights = entry.weights if entry.random_seed is not None else folder / entry.weights
    located = entry.model_copy(update={"weights": weights})
    if entry.model not in (DUNE, RUN):
        return of_teacher(located, name=entry.name, cell_px=cell_px, device=device)
    network: StudentNetwork
    if entry.model == DUNE:
        network = dune_checkpoint.load(located.weights, num_heads=entry.num_heads).encoder
    else:
        network = load_run(located.weights).distiller.encoder
    return of_student(network, name=entry.name, cell_px=cell_px, device=device, final_norm=False)


def _of_dune_checkpoint(path: Path, options: EncoderOptions, *, device: torch.device, final_norm: bool) -> OpenEncoder:
    checkpoint = dune_checkpoint.load(path)
    if checkpoint.distiller is not None:
        return _of_distiller(checkpoint.distiller, options, name=path.stem, device=device, final_norm=final_norm)
    if options.projector is not None:
        raise InvalidInput(f"'{path}': an encoder without projectors. Leave out --projector")
    return of_student(
        checkpoint.encoder,
        name=path.stem,
        cell_px=DUNE_CELL_PX,
        device=device,
        final_norm=final_norm,
        dtype=options.dtype,
    )


def _of_distiller(
    distiller: Distiller, options: EncoderOptions, *, name: str, device: torch.device, final_norm: bool
) -> OpenEncoder:
    if options.projector is not None:
        return of_projector(distiller, options.projector, name=name, device=device, dtype=options.dtype)
    return of_student(
        distiller.encoder,
        name=name,
        cell_px=distiller.cell_px,
        device=device,
        final_norm=final_norm,
        dtype=options.dtype,
    )


def _refuse(source: str, options: EncoderOptions, *names: str) -> None:
    """Refuse options that would have no effect on this kind of encoder."""
    given = [name for name in names if getattr(options, name) not in (None, False)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidInput(f"encoder '{source}': {flags} would have no effect on it. Leave it out")
