"""Virtual KITTI 2.

Documented: SceneX/VARIATION/frames/rgb/Camera_Z/rgb_00000.jpg, .../depth/Camera_Z/depth_00000.png (16-bit, centimetres
to the camera's plane, far plane 655.35 m), SceneX/VARIATION/intrinsic.txt (`frame cameraID K[0,0] K[1,1] K[0,2]
K[1,2]`) and extrinsic.txt (`frame cameraID` and a world-to-camera matrix, row by row), each with a header line. Metric.
The archives of images, depth and text must be unpacked into one folder. Our choice: pairs are the two cameras of a
frame and frames of one camera some steps apart; moving cars are not left out; depth at the far plane is sky.
"""

import numpy as np

from eval.heads.pairs.depth_files import png_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import VideoOptions
from store.errors import InvalidInput

CENTIMETRES = 100.0
FAR_PLANE = 65535
EXPECTED = "SceneX/VARIATION/extrinsic.txt and intrinsic.txt with frames/rgb and frames/depth"

Key = tuple[int, int]


def open_pairs(tree: Tree, options: VideoOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene, or one without cameras.
        InvalidInput: a line that is not as documented, or a frame without its camera.
    """
    frames: list[Frame] = []
    pairs: list[tuple[int, int]] = []
    for name in tree.glob("*/*/extrinsic.txt"):
        folder = name.rpartition("/")[0]
        poses = _table(tree, name, count=16)
        cameras = _table(tree, f"{folder}/intrinsic.txt", count=4)
        places = {}
        for key in sorted(poses):
            if key not in cameras:
                raise InvalidInput(f"{tree.where(folder)}/intrinsic.txt: no line for frame {key[0]} camera {key[1]}")
            places[key] = len(frames)
            frames.append(_frame(folder, key, poses[key], cameras[key]))
        for frame, camera in places:
            others = [(frame + step, camera) for step in sorted(set(options.steps))] + [(frame, camera + 1)]
            pairs += [(places[frame, camera], places[other]) for other in others if other in places]
    return frame_pairs(tree, frames, pairs, read_depth=_read_depth, is_metric=True, expected=EXPECTED)


def _table(tree: Tree, name: str, *, count: int) -> dict[Key, np.ndarray]:
    """Return the numbers of each (frame, camera) of a table with a header line."""
    table = {}
    for fields in tree.lines(name)[1:]:
        values = numbers(fields, count=count + 2, where=tree.where(name))
        table[int(values[0]), int(values[1])] = values[2:]
    return table


def _frame(folder: str, key: Key, extrinsic: np.ndarray, camera: np.ndarray) -> Frame:
    fx, fy, cx, cy = camera
    return Frame(
        image=f"{folder}/frames/rgb/Camera_{key[1]}/rgb_{key[0]:05d}.jpg",
        depth=f"{folder}/frames/depth/Camera_{key[1]}/depth_{key[0]:05d}.png",
        pose=inverse_pose(extrinsic.reshape(4, 4)),
        intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        scene=folder,
    )


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    stored = png_depth(tree, frame.depth)
    far = stored >= FAR_PLANE
    return np.where(far, 0, stored / CENTIMETRES), far
