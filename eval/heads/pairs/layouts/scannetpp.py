"""ScanNet++, as the official toolkit lays it out.

Documented: data/SCENE/iphone/pose_intrinsic_imu.json (by frame_000000: aligned_pose, camera to world, and intrinsic, 3
x 3), with rgb/frame_000000.jpg and depth/frame_000000.png once the toolkit has extracted them;
data/SCENE/dslr/nerfstudio/transforms_undistorted.json (fl_x, fl_y, cx, cy, w, h; frames and test_frames with file_path,
transform_matrix, is_bad) with undistorted_images, which the toolkit makes; depth as 16-bit millimetres, 0 where
unknown. Metric. The toolkit back-projects the phone's depth with axes of OpenCV and pixel centres at integers;
nerfstudio's cameras look along -z with y up. Our choice: "iphone" takes the phone's own depth, enlarged to the image,
and ARKit's pinhole camera; "dslr" takes depth rendered from the mesh for the undistorted images into
dslr/DEPTH_FOLDER/NAME.png, for which the toolkit has no script (its own renders are of the distorted images), and moves
nerfstudio's principal point by half a pixel; bad and test frames are left out; pairs are frames some steps apart; the
root may be the folder data itself.
"""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from eval.heads.pairs.depth_files import png_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs, step_pairs
from eval.heads.pairs.layouts.options import VideoOptions
from store.errors import InvalidInput

MILLIMETRES = 1000.0
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
IPHONE = "iphone/pose_intrinsic_imu.json"
DSLR = "dslr/nerfstudio/transforms_undistorted.json"


class ScanNetPPOptions(VideoOptions):
    """Options of ScanNet++.

    Attributes:
        camera: "iphone" or "dslr".
        depth_folder: folder of the depth below dslr.
    """

    camera: Literal["iphone", "dslr"] = "iphone"
    depth_folder: str = Field(default="undistorted_depths", pattern=r"^\w[\w.-]*$")


def open_pairs(tree: Tree, options: ScanNetPPOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene.
        InvalidInput: a file that is not as documented.
    """
    phone = options.camera == "iphone"
    frames: list[Frame] = []
    metadata = IPHONE if phone else DSLR
    for name in sorted({*tree.glob(f"data/*/{metadata}"), *tree.glob(f"*/{metadata}")}):
        content = tree.json(name)
        try:
            frames += _phone_frames(tree, name, content) if phone else _dslr_frames(tree, name, content, options)
        except InvalidInput:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(f"{tree.where(name)}: not as documented ({error!r}). Are intrinsics missing?") from None
    return frame_pairs(
        tree,
        frames,
        step_pairs(frames, options.steps),
        read_depth=_read_depth,
        is_metric=True,
        enlarge_depth=phone,
        expected=f"data/SCENE/{metadata}",
    )


def _phone_frames(tree: Tree, name: str, content: Any) -> list[Frame]:
    """Return the frames of a scene whose image was extracted."""
    folder = name.rpartition("/")[0]
    frames = []
    for key in sorted(content):
        image = f"{folder}/rgb/{key}.jpg"
        if tree.has(image):
            where = f"{tree.where(name)} {key}"
            pose = content[key]["aligned_pose"]
            frames.append(
                Frame(
                    image=image,
                    depth=f"{folder}/depth/{key}.png",
                    pose=numbers(np.ravel(pose), count=16, where=where).reshape(4, 4),
                    intrinsics=numbers(np.ravel(content[key]["intrinsic"]), count=9, where=where).reshape(3, 3),
                    scene=folder,
                )
            )
    return frames


def _dslr_frames(tree: Tree, name: str, content: Any, options: ScanNetPPOptions) -> list[Frame]:
    folder = name.split("/nerfstudio/")[0]
    fields = [content[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")]
    fx, fy, cx, cy, width, height = numbers(fields, count=6, where=tree.where(name))
    intrinsics = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    frames = []
    for entry in sorted(content["frames"], key=lambda entry: str(entry["file_path"])):
        if entry.get("is_bad", False):
            continue
        file = str(entry["file_path"])
        pose = numbers(np.ravel(entry["transform_matrix"]), count=16, where=f"{tree.where(name)} {file}")
        frames.append(
            Frame(
                image=f"{folder}/undistorted_images/{file}",
                depth=f"{folder}/{options.depth_folder}/{file.rpartition('.')[0]}.png",
                pose=pose.reshape(4, 4) @ OPENCV_FROM_OPENGL,
                intrinsics=intrinsics,
                camera_size=(int(width), int(height)),
                scene=folder,
            )
        )
    return frames


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    return png_depth(tree, frame.depth) / MILLIMETRES, None
