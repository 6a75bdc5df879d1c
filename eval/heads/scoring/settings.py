"""Options of the benchmarks; imports no torch: they are flags too."""

from dataclasses import dataclass
from typing import Annotated, Literal

from store.common.constraints import AtLeast, Positive

Method = Literal["pnp", "essential"]
Library = Literal["opencv", "poselib"]
Camera = Literal["given", "predicted"]
Order = Literal["quasi-optimal", "given", "all"]
Alignment = Literal["median", "none"]


@dataclass(frozen=True, kw_only=True)
class PoseSettings:
    """How a pose is made from a pair.

    Args:
        method: pnp takes pixels of the second view and points of the first one, in metres; essential takes the
            essential matrix of the matches, and its length from both depths where the benchmark wants one.
        library: whose solvers are used.
        camera: intrinsics as given with the data, or predicted from the points.
        subsample: distance of the pixels that matching starts from, px.
        least_confidence: matches of less confidence are left out; the authors' localisation takes 1.001.
    """

    method: Method = "pnp"
    library: Library = "opencv"
    camera: Camera = "given"
    subsample: Positive = 8
    least_confidence: Annotated[float, AtLeast(0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """How depth is predicted and scored.

    Args:
        order: quasi-optimal, the benchmark's, adds views from the best one on; given adds them in the order of their
            names; all takes all at once.
        align: median scales to the median of the true depth, none takes predictions as metres.
        keep: write predicted depths as predictions/SET/SAMPLE.npz.
    """

    order: Order = "quasi-optimal"
    align: Alignment = "median"
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Which cells of the score map are people.

    Args:
        threshold: least score.
        nms_kernel: window in which only the best score counts, cells.
    """

    threshold: Annotated[float, AtLeast(0)] = 0.3
    nms_kernel: Positive = 3


ESSENTIAL = PoseSettings(method="essential")
