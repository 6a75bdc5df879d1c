"""ARKitScenes, the raw dataset.

Documented: {Training,Validation}/VIDEO/..., also below a folder `raw`, with images VIDEO_TIMESTAMP.png in lowres_wide
(256 x 192), vga_wide (640 x 480) and wide (1920 x 1440), depth as 16-bit millimetres in lowres_depth (256 x 192, the
phone's) and highres_depth (1920 x 1440, a laser scanner's), cameras in FOLDER_intrinsics/VIDEO_TIMESTAMP.pincam (a line
`width height fx fy cx cy`), and lowres_wide.traj (a line a pose: timestamp, rotation as axis times angle, translation
in metres; world to camera, which only the published loader shows). Metric. Our choice: "vga" takes VGA images with the
phone's depth, enlarged; camera and depth are those of the nearest timestamp within 10 ms, the pose within 50 ms; images
without them are left out; pairs are images some steps apart.
"""

from bisect import bisect_left
from typing import Literal

import numpy as np

from eval.heads.pairs.depth_files import png_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs, step_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import VideoOptions
from store.errors import InvalidInput

MILLIMETRES = 1000.0
SAME_FRAME_S, NEAR_POSE_S = 0.01, 0.05
FOLDERS = {
    "lowres": ("lowres_wide", "lowres_depth"),
    "vga": ("vga_wide", "lowres_depth"),
    "wide": ("wide", "highres_depth"),
}
EXPECTED = "Training/VIDEO/lowres_wide.traj with images, FOLDER_intrinsics and depth"


class ARKitScenesOptions(VideoOptions):
    """Options of ARKitScenes.

    Attributes:
        images: "lowres", "vga" or "wide"; see above.
    """

    images: Literal["lowres", "vga", "wide"] = "vga"


def open_pairs(tree: Tree, options: ARKitScenesOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no video with poses, or no images that have all they need.
        InvalidInput: a file that is not as documented.
    """
    names = sorted({*tree.glob("*/*/lowres_wide.traj"), *tree.glob("*/*/*/lowres_wide.traj")})
    frames = [frame for name in names for frame in _frames(tree, name, options)]
    return frame_pairs(
        tree,
        frames,
        step_pairs(frames, options.steps),
        read_depth=_read_depth,
        is_metric=True,
        enlarge_depth=options.images == "vga",
        expected=EXPECTED,
    )


def _frames(tree: Tree, trajectory: str, options: ARKitScenesOptions) -> list[Frame]:
    folder = trajectory.rpartition("/")[0]
    images, depths = FOLDERS[options.images]
    times, poses = _poses(tree, trajectory)
    depth_times, depth_names = _stamped(tree, f"{folder}/{depths}/*.png")
    camera_times, camera_names = _stamped(tree, f"{folder}/{images}_intrinsics/*.pincam")
    frames = []
    for time, name in zip(*_stamped(tree, f"{folder}/{images}/*.png"), strict=True):
        pose = _nearest(times, time, within=NEAR_POSE_S)
        depth = _nearest(depth_times, time, within=SAME_FRAME_S)
        camera = _nearest(camera_times, time, within=SAME_FRAME_S)
        if pose is None or depth is None or camera is None:
            continue
        values = numbers(tree.text(camera_names[camera]).split(), count=6, where=tree.where(camera_names[camera]))
        width, height, fx, fy, cx, cy = values
        frames.append(
            Frame(
                image=name,
                depth=depth_names[depth],
                pose=poses[pose],
                intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
                camera_size=(int(width), int(height)),
                scene=folder,
            )
        )
    return frames


def _stamped(tree: Tree, pattern: str) -> tuple[list[float], list[str]]:
    """Return timestamps in seconds and names of files VIDEO_TIMESTAMP.SUFFIX, in order of time."""
    stamped = []
    for name in tree.glob(pattern):
        text = name.rpartition("_")[2].rpartition(".")[0]
        try:
            stamped.append((float(text), name))
        except ValueError:
            raise InvalidInput(f"{tree.where(name)}: expected a name VIDEO_TIMESTAMP") from None
    stamped.sort()
    return [time for time, _ in stamped], [name for _, name in stamped]


def _poses(tree: Tree, name: str) -> tuple[list[float], list[np.ndarray]]:
    """Return timestamps in seconds and camera-to-world poses, in order of time."""
    stamped = []
    for fields in tree.lines(name):
        values = numbers(fields, count=7, where=tree.where(name))
        inward = np.eye(4)
        inward[:3, :3] = rotation_of(values[1:4])
        inward[:3, 3] = values[4:]
        stamped.append((float(values[0]), inverse_pose(inward)))
    stamped.sort(key=lambda item: item[0])
    return [time for time, _ in stamped], [pose for _, pose in stamped]


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) about an axis (3,) whose length is the angle in radians."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def _nearest(times: list[float], wanted: float, *, within: float) -> int | None:
    """Return the position of the nearest of sorted timestamps; None if none is near."""
    after = bisect_left(times, wanted)
    near = [at for at in (after - 1, after) if 0 <= at < len(times) and abs(times[at] - wanted) <= within]
    return min(near, key=lambda at: abs(times[at] - wanted), default=None)


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    return png_depth(tree, frame.depth) / MILLIMETRES, None
