"""Teacher options: which network, where its weights are, how it computes.

The keys are those of a catalogue's `[[teacher]]` table and the arguments of `extract.teachers.load`. No torch in here:
configurations hold these types.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from store.errors import InvalidInput

STUDENT_PATCH_PX = 14

Rule = Literal["dune", "hub"]
Dtype = Literal["float32", "float16", "bfloat16"]
RANDOM = re.compile(r"random(?::(\d{1,9}))?")  # in place of a weight file


class TeacherOptions(pydantic.BaseModel):
    """A teacher as configurations describe it.

    Attributes:
        model: `dinov2`, `mast3r`, `dust3r`, `croco`, `multihmr`, `timm:<model name>`, or `<module>:<function>`.
        weights: file in the released layout, or the same tensors as safetensors; `random` or `random:SEED` builds the
            network without a file, for trials of a pipeline.
        dtype: `float32`, or autocast to `float16` or `bfloat16`; part of the identity.
        rule: how DINOv2's positions are resampled: `dune`, as DUNE's targets were made, or `hub`, as the public
            models do.
        num_heads: attention heads of DINOv2- and CroCo-type models; None means channels / 64.
        stride: stage of a hierarchical or convolutional timm model, in input pixels per cell; None means the last.
        tf32: allow TF32 on CUDA; part of the identity.
        channels_last: memory layout; convolutional teachers run faster on GPUs with it.
        compile: run through `torch.compile`.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)]
    weights: Path
    dtype: Dtype = "float32"
    rule: Rule = "dune"
    num_heads: int | None = Field(default=None, ge=1)
    stride: int | None = Field(default=None, ge=1)
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False

    @pydantic.field_validator("weights")
    @classmethod
    def _seed_is_number(cls, value: Path) -> Path:
        if str(value).startswith("random:") and not RANDOM.fullmatch(str(value)):
            raise ValueError(f"expected a file, 'random' or 'random:SEED' with a whole number, found '{value}'")
        return value

    @property
    def random_seed(self) -> int | None:
        """Seed of random weights; None where weights are those of a file."""
        match = RANDOM.fullmatch(str(self.weights))
        return int(match.group(1) or 0) if match else None


class Request(TeacherOptions):
    """Options of one teacher, and the patch size of the student that it is loaded for.

    Attributes:
        student_patch: patch size of the student in px, whose grid every teacher's output has.
    """

    student_patch: int = Field(default=STUDENT_PATCH_PX, ge=1)

    @property
    def source(self) -> str:
        """Name of the weights in error messages."""
        return f"weights '{self.weights}' as {self.model}"

    def refuse(self, *options: str) -> None:
        """Refuse options that this kind of teacher would ignore.

        Raises:
            InvalidInput: one of `options` differs from its default.
        """
        defaults = {name: type(self).model_fields[name].default for name in options}
        given = [f"{name}={getattr(self, name)!r}" for name in options if getattr(self, name) != defaults[name]]
        if given:
            raise InvalidInput(f"teacher '{self.model}': does not know {', '.join(given)}. Leave it out")
