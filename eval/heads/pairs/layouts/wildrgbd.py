"""WildRGB-D.

Documented: CATEGORY/scenes/SCENE/{rgb,depth,masks}/00000.png (depth: 16-bit, millimetres), metadata (JSON without a
suffix: w, h, K as 9 numbers, column by column), cam_poses.txt (a line a frame: its number, then a camera-to-world
matrix row by row, axes of OpenCV). Metric. Our choice: pairs are frames some steps apart in the order of cam_poses.txt;
the background is masked in half of the pairs; images may be .jpg, too.
"""

from eval.heads.pairs.depth_files import png_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs, step_pairs
from eval.heads.pairs.layouts.options import ObjectOptions
from store.errors import InvalidInput

MILLIMETRES = 1000.0
EXPECTED = "CATEGORY/scenes/SCENE/cam_poses.txt with metadata, rgb and depth"


def open_pairs(tree: Tree, options: ObjectOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene, or one without metadata.
        InvalidInput: a file that is not as documented.
    """
    frames = [
        frame for name in tree.glob("*/scenes/*/cam_poses.txt") for frame in _frames(tree, name.rpartition("/")[0])
    ]
    return frame_pairs(
        tree,
        frames,
        step_pairs(frames, options.steps),
        read_depth=_read_depth,
        is_metric=True,
        mask_background=options.mask_background,
        expected=EXPECTED,
    )


def _frames(tree: Tree, folder: str) -> list[Frame]:
    metadata = tree.json(f"{folder}/metadata")
    where = tree.where(f"{folder}/metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("K"), list):
        raise InvalidInput(f"{where}: no intrinsics; expected a JSON object with w, h and K")
    intrinsics = numbers(metadata["K"], count=9, where=f"{where} K").reshape(3, 3).T
    size = numbers([metadata.get("w"), metadata.get("h")], count=2, where=f"{where} w, h")
    suffix = "png" if tree.glob(f"{folder}/rgb/*.png") else "jpg"
    frames = []
    for fields in tree.lines(f"{folder}/cam_poses.txt"):
        values = numbers(fields, count=17, where=tree.where(f"{folder}/cam_poses.txt"))
        number = int(values[0])
        frames.append(
            Frame(
                image=f"{folder}/rgb/{number:05d}.{suffix}",
                depth=f"{folder}/depth/{number:05d}.png",
                mask=f"{folder}/masks/{number:05d}.png",
                pose=values[1:].reshape(4, 4),
                intrinsics=intrinsics,
                camera_size=(int(size[0]), int(size[1])),
                scene=folder,
            )
        )
    return frames


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    return png_depth(tree, frame.depth) / MILLIMETRES, None
