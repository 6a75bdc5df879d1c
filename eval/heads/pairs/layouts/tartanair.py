"""TartanAir (version 1).

Documented: ENVIRONMENT/{Easy,Hard}/P000/image_left/000000_left.png, depth_left/000000_left_depth.npy (metres, float32),
pose_left.txt (a line a frame: tx ty tz qx qy qz qw, camera to world, in the NED frame: x forward, y right, z down), and
the same for the right camera; all images 640 x 480, fx = fy = 320, cx = 320, cy = 240. Far objects such as the sky have
a large depth (about 10,000). Metric. Our choice: environments may lie below a second folder of their name, as the zips
unpack; pairs are frames some steps apart, and the two cameras of a frame; from 1,000 m on it is sky; the camera is
scaled if images have another size.
"""

import numpy as np

from eval.heads.pairs.colmap import rotation_matrix
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs, step_pairs
from eval.heads.pairs.layouts.options import VideoOptions

CAMERA_SIZE = 640, 480
INTRINSICS = np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])
SKY_M = 1000.0
NED_FROM_OPENCV = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # forward is z, right is x, down is y
EXPECTED = "ENVIRONMENT/Easy/P000/pose_left.txt with image_left and depth_left"


def open_pairs(tree: Tree, options: VideoOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no trajectory.
        InvalidInput: a line of poses that is not as documented.
    """
    frames: list[Frame] = []
    stereo: list[tuple[int, int]] = []
    names = [*tree.glob("*/*/P*/pose_left.txt"), *tree.glob("*/*/*/P*/pose_left.txt")]
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        left = _frames(tree, folder, "left")
        right = _frames(tree, folder, "right") if tree.has(f"{folder}/pose_right.txt") else []
        stereo += [(len(frames) + i, len(frames) + len(left) + i) for i in range(min(len(left), len(right)))]
        frames += [*left, *right]
    in_time = [(one, two) for one, two in step_pairs(frames, options.steps) if _side(frames[one]) == _side(frames[two])]
    return frame_pairs(tree, frames, [*in_time, *stereo], read_depth=_read_depth, is_metric=True, expected=EXPECTED)


def _side(frame: Frame) -> str:
    return frame.image.rpartition("_")[2]


def _frames(tree: Tree, folder: str, side: str) -> list[Frame]:
    name = f"{folder}/pose_{side}.txt"
    frames = []
    for number, fields in enumerate(tree.lines(name)):
        where = f"{tree.where(name)} line {number + 1}"
        values = numbers(fields, count=7, where=where)
        pose = np.eye(4)
        pose[:3, :3] = rotation_matrix(values[[6, 3, 4, 5]], where=where) @ NED_FROM_OPENCV
        pose[:3, 3] = values[:3]
        frames.append(
            Frame(
                image=f"{folder}/image_{side}/{number:06d}_{side}.png",
                depth=f"{folder}/depth_{side}/{number:06d}_{side}_depth.npy",
                pose=pose,
                intrinsics=INTRINSICS,
                camera_size=CAMERA_SIZE,
                scene=folder,
            )
        )
    return frames


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    stored = tree.array(frame.depth).astype(np.float64)
    sky = stored >= SKY_M
    return np.where(sky, 0, stored), sky
