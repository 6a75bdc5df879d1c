"""Options of encoders: flags of the probes, and the TOML file of encoders to compare with. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
import tyro

from extract.teachers.options import TeacherOptions
from store.common.constraints import AtLeast, Device, ExistingFile, Positive
from store.errors import InvalidInput, MissingFile


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Flags that say how to open the encoder of a probe.

    Args:
        untrained: probe the run's student before its first training step.
        projector: name of a teacher; probe the tokens that its projector predicts.
        final_norm: apply the student's final norm.
        weights: weight file of a teacher.
        stride: stage of a hierarchical or convolutional teacher, in px per cell.
        cell_px: px per cell of a teacher's patch grid.
        dtype: float32, or autocast to float16 or bfloat16.
        device: device to compute on, such as cpu or cuda; auto takes a GPU if there is one.
    """

    untrained: bool = False
    projector: Annotated[
        str | None, tyro.conf.arg(metavar="TEACHER", help_behavior_hint="(default: the encoder's own tokens)")
    ] = None
    final_norm: Annotated[
        bool | None, tyro.conf.arg(metavar="True|False", help_behavior_hint="(default: True, for depth False)")
    ] = None
    weights: Annotated[
        Path | None, ExistingFile(), tyro.conf.arg(metavar="FILE", help_behavior_hint="(for teachers only)")
    ] = None
    stride: Annotated[int | None, AtLeast(1), tyro.conf.arg(metavar="PX", help_behavior_hint="(default: the last)")] = (
        None
    )
    cell_px: Positive = 14
    dtype: str = "float32"
    device: Device = "auto"


def check_source(source: str, options: EncoderOptions) -> None:
    """Check that `source` can be an encoder: a directory, a `.pth` file, or with `options.weights` a teacher's model.

    Raises:
        InvalidInput: `source` cannot be an encoder.
        MissingFile: there is no such file.
    """
    path = Path(source)
    if path.is_dir() or options.weights is not None or (path.suffix == ".pth" and path.is_file()):
        return
    if path.suffix == ".pth":
        raise MissingFile(f"encoder '{source}': no such file. Check the path")
    raise InvalidInput(
        f"encoder '{source}': expected a run directory, a .pth file, or a teacher's model with its --weights"
    )


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
