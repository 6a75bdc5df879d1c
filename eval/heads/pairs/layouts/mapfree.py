"""Map-free relocalisation.

Documented: {train,val,test}/SCENE/intrinsics.txt (`frame fx fy cx cy width height`), poses.txt (`frame qw qx qy qz tx
ty tz`, world to camera, metres), seq0/frame_00000.jpg, seq1/frame_*.jpg, and for train overlaps.npz (`idxs` [n, 4]:
sequence and number of both frames; `overlaps` in (0, 1]). Metric. The dataset has no dense depth of its own: the option
`depth` names where yours is. Our choice: a name with {frame} (`seq0/frame_00000`) below the scene's folder, read by its
suffix: 16-bit PNG in millimetres, .npy in metres, or a depth map of COLMAP; pairs of train have an overlap between the
two options, those of val are the reference frame with each query; frames without depth are left out; pixel centres at
integers.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from eval.heads.pairs.colmap import rotation_matrix
from eval.heads.pairs.depth_files import depth_file
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import Options
from store.errors import InvalidInput, MissingFile

Share = Annotated[float, Field(ge=0, le=1)]


class MapFreeOptions(Options):
    """Options of Map-free.

    Attributes:
        split: which part.
        depth: name of the depth of a frame below its scene, with {frame} in it, such as "{frame}.dptkitti.png".
        least_overlap: pairs of train have at least this overlap ...
        most_overlap: ... and at most this one.
    """

    split: Literal["train", "val"] = "train"
    depth: str = Field(pattern=r"\{frame\}")
    least_overlap: Share = 0.2
    most_overlap: Share = 0.7


def open_pairs(tree: Tree, options: MapFreeOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no scene, or no frame with depth.
        InvalidInput: a line that is not as documented, or a frame without intrinsics.
    """
    frames: list[Frame] = []
    pairs: list[tuple[int, int]] = []
    without_depth = 0
    for name in tree.glob(f"{options.split}/*/poses.txt"):
        scene = name.rpartition("/")[0]
        listed = _frames(tree, scene, options)
        kept = {key: frame for key, frame in listed.items() if tree.has(frame.depth)}
        without_depth += len(listed) - len(kept)
        places = {key: len(frames) + number for number, key in enumerate(kept)}
        wanted = _overlapping(tree, scene, options) if options.split == "train" else _queries(list(kept))
        pairs += [(places[one], places[two]) for one, two in wanted if one in places and two in places]
        frames += kept.values()
    if without_depth and not frames:
        raise MissingFile(
            f"{tree.subject}: none of {without_depth} frames below '{tree.root}' has depth '{options.depth}'. "
            "The dataset has none of its own: make it, and name it with the option 'depth'"
        )
    expected = f"{options.split}/SCENE/poses.txt with intrinsics.txt, overlaps.npz (train) and images"
    return frame_pairs(tree, frames, pairs, read_depth=_read_depth, is_metric=True, expected=expected)


def _frames(tree: Tree, scene: str, options: MapFreeOptions) -> dict[str, Frame]:
    cameras = {line[0]: line[1:] for line in tree.lines(f"{scene}/intrinsics.txt")}
    frames = {}
    for line in tree.lines(f"{scene}/poses.txt"):
        name, where = line[0], f"{tree.where(scene)} {line[0]}"
        if name not in cameras:
            raise InvalidInput(f"{where}: no line in intrinsics.txt")
        values = numbers(line[1:], count=7, where=where)
        fx, fy, cx, cy, width, height = numbers(cameras[name], count=6, where=where)
        inward = np.eye(4)
        inward[:3, :3] = rotation_matrix(values[:4], where=where)
        inward[:3, 3] = values[4:]
        frames[name] = Frame(
            image=f"{scene}/{name}",
            depth=f"{scene}/{options.depth.replace('{frame}', name.rpartition('.')[0])}",
            pose=inverse_pose(inward),
            intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            camera_size=(int(width), int(height)),
            scene=scene,
        )
    return frames


def _overlapping(tree: Tree, scene: str, options: MapFreeOptions) -> list[tuple[str, str]]:
    """Return the names of pairs of frames with a wanted overlap, once each."""
    numbered, overlaps = tree.arrays(f"{scene}/overlaps.npz", ("idxs", "overlaps"))
    if numbered.shape != (len(overlaps), 4) or numbered.dtype.kind not in "iu":
        raise InvalidInput(
            f"{tree.where(scene)}/overlaps.npz: expected idxs of integers (n, 4), found {numbered.shape}"
        )
    wanted = numbered[(overlaps > options.least_overlap) & (overlaps < options.most_overlap)]
    names = {
        tuple(sorted((f"seq{a}/frame_{b:05d}.jpg", f"seq{c}/frame_{d:05d}.jpg"))) for a, b, c, d in wanted.tolist()
    }
    return sorted((one, two) for one, two in names if one != two)


def _queries(names: list[str]) -> list[tuple[str, str]]:
    """Return the reference frame with each query."""
    references = [name for name in names if name.startswith("seq0/")]
    return [(reference, name) for reference in references for name in names if name.startswith("seq1/")]


def _read_depth(tree: Tree, frame: Frame) -> Depth:
    return depth_file(tree, frame.depth), None
