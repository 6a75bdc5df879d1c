"""Options of encoders: flags of the probes, and the TOML file of encoders to compare with. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

import pydantic

from extract.teachers.options import TeacherOptions


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Flags that say how to open the encoder of a probe.

    Args:
        untrained: probe the run's student before its first training step.
        projector: name of a teacher; probe what its projector predicts from the student's tokens, not the encoder's
            own tokens.
        final_norm: apply the student's final norm; default: yes, but no for depth.
        weights: weight file of a teacher.
        stride: stage of a hierarchical or convolutional teacher, in px per cell; default: the last.
        cell_px: px per cell of a teacher's patch grid.
        dtype: float32, or autocast to float16 or bfloat16.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """

    untrained: bool = False
    projector: str | None = None
    final_norm: bool | None = None
    weights: Path | None = None
    stride: int | None = None
    cell_px: int = 14
    dtype: str = "float32"
    device: str = "auto"


class EncoderEntry(TeacherOptions):
    """One `[[encoder]]` table: an encoder to compare with, with the keys of a catalogue's `[[teacher]]`.

    Attributes:
        name: name in tables.
        model: `dune` for a checkpoint in DUNE's layout, `run` for another run, or any model of a catalogue's teacher:
            `dinov2`, `mast3r`, `timm:<model name>` ...
        weights: weight file, or run directory; a relative path starts at the folder of the TOML file.
    """

    name: str = pydantic.Field(min_length=1)


class EncoderFile(pydantic.BaseModel):
    """A TOML file of `[[encoder]]` tables."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    encoder: tuple[EncoderEntry, ...]
