"""MegaDepth (MegaDepth_v1), with the undistorted reconstructions that feature-matching projects make of its SfM models.

Documented: SCENE/dense0/imgs/NAME.jpg and SCENE/dense0/depths/NAME.h5 (HDF5 dataset `depth`; 0 where unknown; some
files hold an ordering instead, with negative numbers). Poses and cameras are in MegaDepth_v1_SfM, with distortion;
COLMAP's image_undistorter turns them into SCENE/sparse with PINHOLE cameras for the images above. No metric scale. Our
choice: the reconstruction is looked for in SCENE/denseK/sparse and then in the folder that the option `models` names,
with {scene} in it; files with negative depth are refused; the camera is scaled to the image; pairs share between
`least_shared` and `most_shared` of the points of the image that sees fewer, at most `partners` for an image.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from eval.heads.pairs.colmap import PosedImage, read_model
from eval.heads.pairs.depth_files import h5_depth
from eval.heads.pairs.files import Tree
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs
from eval.heads.pairs.layouts.options import Options
from store.errors import InvalidInput

Share = Annotated[float, Field(ge=0, le=1)]
EXPECTED = "SCENE/dense0/imgs with depths and a reconstruction in SCENE/dense0/sparse"


class MegaDepthOptions(Options):
    """Options of MegaDepth.

    Attributes:
        models: folder of the undistorted reconstruction of a scene, below the root.
        least_shared: least share of common points ...
        most_shared: ... and the most.
        partners: most pairs that an image begins.
    """

    models: str = "Undistorted_SfM/{scene}/sparse"
    least_shared: Share = 0.1
    most_shared: Share = 0.8
    partners: int = Field(default=20, ge=1)


def open_pairs(tree: Tree, options: MegaDepthOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene, or one without a reconstruction.
        InvalidInput: a reconstruction with distortion, or files that are not as documented.
    """
    frames: list[Frame] = []
    pairs: list[tuple[int, int]] = []
    for scene in tree.folders():
        for dense in [name for name in tree.folders(scene) if name.startswith("dense")]:
            folder = f"{scene}/{dense}"
            own = tree.glob(f"{folder}/sparse/images.*")
            model = f"{folder}/sparse" if own else options.models.replace("{scene}", scene)
            images = [image for image in read_model(tree, model) if tree.has(_depth_name(folder, image))]
            pairs += [(one + len(frames), two + len(frames)) for one, two in covisible(images, options)]
            frames += [_frame(folder, image) for image in images]
    return frame_pairs(tree, frames, pairs, read_depth=_read_depth, is_metric=False, expected=EXPECTED)


def covisible(images: list[PosedImage], options: MegaDepthOptions) -> list[tuple[int, int]]:
    """Return pairs of images that share enough points and not too many, the best partners of each first."""
    pairs = []
    for one, image in enumerate(images):
        shares = []
        for two in range(one + 1, len(images)):
            fewer = min(len(image.points), len(images[two].points))
            shared = len(np.intersect1d(image.points, images[two].points, assume_unique=True))
            if fewer and options.least_shared <= shared / fewer <= options.most_shared:
                shares.append((-shared / fewer, two))
        pairs += [(one, two) for _, two in sorted(shares)[: options.partners]]
    return pairs


def _depth_name(folder: str, image: PosedImage) -> str:
    return f"{folder}/depths/{image.name.rpartition('.')[0]}.h5"


def _frame(folder: str, image: PosedImage) -> Frame:
    return Frame(
        image=f"{folder}/imgs/{image.name}",
        depth=_depth_name(folder, image),
        pose=image.pose,
        intrinsics=image.intrinsics,
        camera_size=image.size,
        scene=folder,
    )


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    depth = h5_depth(tree, frame.depth, "depth")
    if depth.min(initial=0) < 0:
        raise InvalidInput(f"{tree.where(frame.depth)}: negative depth: an ordering, not a depth map. Leave it out")
    return depth, None
