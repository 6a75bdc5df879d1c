"""DOC eval.encoders.options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How the encoder is taken.

    Args:
        untrained: the run's student before its first step.
        projector: what this teacher's projector makes of the student's tokens, instead of the encoder's own.
        final_norm: apply the student's final norm; the default is the probe's (not for depth).
        weights: file of a teacher's weights.
        stride: the stage of a hierarchical or convolutional teacher, in px.
        cell_px: px per cell of a teacher's patch grid.
        dtype: float32, or autocast to float16 or bfloat16.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """

    untrained: bool = False
    projector: str | None = None
    final_norm: bool | None = None
    weights: Path | None = None
    stride: int | None = None
    cell_px: int = 14
    dtype: str = "float32"
    device: str = "auto"


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
