"""Foreign encoders to compare a student with: DUNE checkpoints, other runs, any model that can be a teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from backbones.states import fingerprint
from eval.encoders import FrozenEncoder, StudentEncoder
from store.configuration import parse, read_toml
from store.errors import InvalidConfig
from train.student import Encoder as StudentNetwork

DUNE, RUN = "dune", "run"


class EncoderEntry(pydantic.BaseModel):
    """A foreign encoder, with the keys of a catalogue's teacher.

    Attributes:
        name: how tables call it.
        model: "dune" for a checkpoint of DUNE's layout, "run" for another run, or any model that a catalogue knows as
            a teacher: dinov2, mast3r, timm:<name>...
        weights: its file, or the run directory; relative paths start at the file's folder.
        dtype: compute dtype of a teacher's model.
        rule: position rule of a DINOv2-type model.
        num_heads: of a model whose weights don't tell.
        stride: the stage of a hierarchical or convolutional model, px.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(min_length=1)
    model: str = pydantic.Field(min_length=1)
    weights: Path
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    rule: Literal["dune", "hub"] = "dune"
    num_heads: int | None = pydantic.Field(default=None, ge=1)
    stride: int | None = pydantic.Field(default=None, ge=1)


class EncoderFile(pydantic.BaseModel):
    """A TOML file of `[[encoder]]` tables."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    encoder: tuple[EncoderEntry, ...]


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
        from train import dune_checkpoints

        return dune_checkpoints.load(weights, num_heads=entry.num_heads).encoder
    from train import runs

    return runs.load(weights).distiller.encoder


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
