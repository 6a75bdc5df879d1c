"""Options of the readers: what a layout leaves open."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from eval.heads.pairs.frames import MaskBackground

Step = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """No options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VideoOptions(Options):
    """Pairs of frames of a video.

    Attributes:
        steps: distances in frames between the two views of a pair.
    """

    steps: tuple[Step, ...] = Field(default=(5, 10, 20, 40), min_length=1)


class ObjectOptions(VideoOptions):
    """Pairs of frames of a video of an object.

    Attributes:
        mask_background: whether depth outside of the object is dropped: "never", "always", or "random", for half of
            the pairs.
    """

    mask_background: MaskBackground = "random"
