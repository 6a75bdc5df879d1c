"""StaticThings3D, of the robust multi-view depth benchmark, as its archives unpack.

Documented by the benchmark's converter and loader: KIND/SPLIT/LETTER/SEQUENCE/... with KIND frames_cleanpass or
frames_finalpass (left/0006.png), depths (left/0006.float3; negative or infinite where unknown), poses
(left/0006.float3, a world-to-camera matrix, axes of OpenCV) and intrinsics (0006.float3, one for both cameras, without
a folder for the side). Depth is not taken as metric: the scenes are invented. Our choice: the pass is the clean one by
default; pairs are all frames of a sequence at most three numbers apart, of either camera.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from eval.heads.pairs.depth_files import float3_array
from eval.heads.pairs.files import Tree
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import Options
from eval.heads.pairs.views import pose_problems
from store.errors import InvalidInput

EXPECTED = "frames_cleanpass/SPLIT/A/0000/left/0006.png with depths, poses and intrinsics beside frames_cleanpass"


class StaticThings3DOptions(Options):
    """Options of StaticThings3D.

    Attributes:
        split: which part.
        images: the pass that the images are from.
        most_apart: largest difference of the numbers of a pair's frames.
    """

    split: Literal["TRAIN", "TEST"] = "TRAIN"
    images: Literal["frames_cleanpass", "frames_finalpass"] = "frames_cleanpass"
    most_apart: int = Field(default=3, ge=0)


def open_pairs(tree: Tree, options: StaticThings3DOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no images, or a frame without pose or camera.
        InvalidInput: a file that is not as documented.
    """
    frames: list[Frame] = []
    numbered: list[tuple[str, int]] = []
    for name in tree.glob(f"{options.images}/{options.split}/*/*/*/*.png"):
        _, split, letter, sequence, side, file = name.split("/")
        number = file.removesuffix(".png")
        scene = f"{split}/{letter}/{sequence}"
        pose = _matrix(tree, f"poses/{scene}/{side}/{number}.float3", 4)
        if pose_problems(pose):
            raise InvalidInput(f"{tree.where(name)}: {pose_problems(pose)[0]}")
        frames.append(
            Frame(
                image=name,
                depth=f"depths/{scene}/{side}/{number}.float3",
                pose=inverse_pose(pose),
                intrinsics=_matrix(tree, f"intrinsics/{scene}/{number}.float3", 3),
                scene=scene,
            )
        )
        numbered.append((scene, int(number) if number.isdigit() else 0))
    pairs = _near(numbered, options.most_apart)
    return frame_pairs(tree, frames, pairs, read_depth=_read_depth, is_metric=False, expected=EXPECTED)


def _near(numbered: list[tuple[str, int]], most_apart: int) -> list[tuple[int, int]]:
    """Pair frames of one scene whose numbers are near; those of a scene follow one another."""
    pairs = []
    for one, (scene, number) in enumerate(numbered):
        for two in range(one + 1, len(numbered)):
            other, other_number = numbered[two]
            if other != scene:
                break
            if abs(other_number - number) <= most_apart:
                pairs.append((one, two))
    return pairs


def _matrix(tree: Tree, name: str, side: int) -> np.ndarray:
    matrix = float3_array(tree, name)
    if matrix.shape != (side, side):
        raise InvalidInput(f"{tree.where(name)}: expected a {side} x {side} matrix, found shape {matrix.shape}")
    return matrix


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    stored = float3_array(tree, frame.depth)
    return np.where(np.isfinite(stored) & (stored > 0), stored, 0), None
