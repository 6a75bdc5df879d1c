"""BlendedMVS and BlendedMVG (low or high resolution), in MVSNet's format.

Documented: PID/blended_images/00000000.jpg, PID/rendered_depth_maps/00000000.pfm (0 where the mesh is missing),
PID/cams/00000000_cam.txt (`extrinsic`, a world-to-camera matrix of 4 lines, `intrinsic`, a camera matrix of 3 lines, a
line of the depth range), PID/cams/pair.txt (number of images; then for each its number and `COUNT ID SCORE ID SCORE`).
No metric scale. Our choice: all pairs of pair.txt, once each; masked images are not used; pixel centres are taken to be
at integers, which nobody states.
"""

import numpy as np

from eval.heads.pairs.depth_files import pfm_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import Options
from store.errors import InvalidInput

EXPECTED = "PID/cams/pair.txt with cams, blended_images and rendered_depth_maps"


def open_pairs(tree: Tree, options: Options) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene, or a camera file that pair.txt names is not there.
        InvalidInput: a file that is not as documented.
    """
    frames: list[Frame] = []
    pairs: list[tuple[int, int]] = []
    for name in tree.glob("*/cams/pair.txt"):
        scene = name.split("/")[0]
        numbered: dict[int, int] = {}
        for one, two in _listed_pairs(tree, name):
            for number in (one, two):
                if number not in numbered:
                    numbered[number] = len(frames)
                    frames.append(_frame(tree, scene, number))
            pairs.append((numbered[one], numbered[two]))
    return frame_pairs(tree, frames, pairs, read_depth=_read_depth, is_metric=False, expected=EXPECTED)


def _listed_pairs(tree: Tree, name: str) -> list[tuple[int, int]]:
    """Return the pairs of numbers of pair.txt, the smaller one first, without repetitions."""
    fields = [field for line in tree.lines(name) for field in line]
    values = numbers(fields, count=len(fields), where=tree.where(name))
    found, at = set(), 1
    for _ in range(int(values[0]) if len(values) else 0):
        if at + 1 >= len(values) or at + 2 + 2 * values[at + 1] > len(values) or values[at + 1] < 0:
            raise InvalidInput(f"{tree.where(name)}: ends early; expected IMAGE, then COUNT ID SCORE ...")
        reference, count = int(values[at]), int(values[at + 1])
        others = values[at + 2 : at + 2 + 2 * count : 2].astype(int)
        found |= {(min(reference, other), max(reference, other)) for other in others.tolist() if other != reference}
        at += 2 + 2 * count
    return sorted(found)


def _frame(tree: Tree, scene: str, number: int) -> Frame:
    name = f"{scene}/cams/{number:08d}_cam.txt"
    lines = [" ".join(line) for line in tree.lines(name)]
    if lines[:1] != ["extrinsic"] or lines[5:6] != ["intrinsic"] or len(lines) < 9:
        raise InvalidInput(f"{tree.where(name)}: expected 'extrinsic' and 4 lines, 'intrinsic' and 3 lines")
    extrinsic = numbers(" ".join(lines[1:5]).split(), count=16, where=tree.where(name)).reshape(4, 4)
    intrinsics = numbers(" ".join(lines[6:9]).split(), count=9, where=tree.where(name)).reshape(3, 3)
    return Frame(
        image=f"{scene}/blended_images/{number:08d}.jpg",
        depth=f"{scene}/rendered_depth_maps/{number:08d}.pfm",
        pose=inverse_pose(extrinsic),
        intrinsics=intrinsics,
        scene=scene,
    )


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    return np.ascontiguousarray(pfm_depth(tree, frame.depth)), None
