"""Sequences of posed images for multi-view pose: CO3D, version 2, and RealEstate10K.

Shapes: F frames. Poses are world to camera, intrinsics in px with pixel centres at integers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts import co3d
from eval.heads.pairs.views import pose_problems
from eval.heads.scoring.images import camera_of_image
from store.errors import InvalidInput, MissingFile

CO3D_LIST = "set_lists/set_lists_fewview_dev.json"
ESTATE_SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True, kw_only=True)
class PosedImage:
    """One frame.

    Attributes:
        image: name of its file below the root.
        pose: float64 (4, 4), world to camera.
        intrinsics: of an image, uint8 (H, W, 3), float64 (3, 3) in its px.
    """

    image: str
    pose: np.ndarray
    intrinsics: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class PosedSequence:
    """A sequence that frames are drawn from.

    Attributes:
        category: what its figures count towards.
        name: unlike all others of the category.
        frames: in order of time.
    """

    category: str
    name: str
    frames: Sequence[PosedImage]


def co3d_sequences(tree: Tree) -> list[PosedSequence]:
    """List the sequences of CO3D, version 2, all categories that are there.

    Documented: see `eval.heads.pairs.layouts.co3d`, and CATEGORY/set_lists/set_lists_fewview_dev.json, {"train",
    "val", "test": [[sequence, frame number, image]]}. Our choice: where that list is there, the sequences of its test
    part, all frames of each; else all sequences.

    Raises:
        MissingFile: no category, or no sequence.
        InvalidInput, Damaged: annotations or lists that are not as documented.
    """
    sequences = []
    for name in tree.glob(f"*/{co3d.ANNOTATIONS}"):
        category = name.split("/")[0]
        grouped: dict[str, list[PosedImage]] = {}
        for frame in co3d.annotated_frames(tree, name):
            posed = PosedImage(
                image=frame.image,
                pose=inverse_pose(frame.pose),
                intrinsics=_of_camera(frame.intrinsics, frame.camera_size, frame.image),
            )
            grouped.setdefault(frame.scene.partition("/")[2], []).append(posed)
        wanted = _co3d_test(tree, category)
        kept = {key: frames for key, frames in grouped.items() if wanted is None or key in wanted}
        sequences += [PosedSequence(category=category, name=key, frames=kept[key]) for key in sorted(kept)]
    return _some(sequences, tree, f"CATEGORY/{co3d.ANNOTATIONS} and the images that it names")


def realestate_sequences(tree: Tree) -> list[PosedSequence]:
    """List the test clips of RealEstate10K.

    Documented: test/CLIP.txt; its first line is the address of the video, each other one `timestamp fx fy cx cy 0 0`
    and the 3 x 4 world-to-camera matrix by rows; focal lengths and principal point are shares of the image's width and
    height. The videos are not part of the dataset. Our choice: a frame lies at frames/test/CLIP/TIMESTAMP.png (or
    .jpg), frames without an image are left out, and so are clips without any.

    Raises:
        MissingFile: no clip with frames.
        InvalidInput: a line that is not as documented.
    """
    sequences = []
    for name in tree.glob("test/*.txt"):
        clip = name.rpartition("/")[2].removesuffix(".txt")
        frames = []
        for number, line in enumerate(tree.text(name).splitlines()):
            fields = line.split()
            if number == 0 or not fields:
                continue
            where = f"{tree.where(name)} line {number + 1}"
            values = numbers(fields[1:], count=18, where=where)
            stem = f"frames/test/{clip}/{fields[0]}"
            image = next((stem + suffix for suffix in ESTATE_SUFFIXES if tree.has(stem + suffix)), None)
            if image is not None:
                frames.append(_estate_frame(image, values, where=where))
        if frames:
            sequences.append(PosedSequence(category="realestate10k", name=clip, frames=frames))
    return _some(sequences, tree, "test/CLIP.txt and frames/test/CLIP/TIMESTAMP.png")


def _estate_frame(image: str, values: np.ndarray, *, where: str) -> PosedImage:
    pose = np.eye(4)
    pose[:3] = values[6:].reshape(3, 4)
    problems = pose_problems(pose)
    if problems:
        raise InvalidInput(f"{where}: {problems[0]}")

    def intrinsics(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        fx, fy, cx, cy = values[:4] * (width, height, width, height)
        return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])

    return PosedImage(image=image, pose=pose, intrinsics=intrinsics)


def _of_camera(matrix: np.ndarray, size: tuple[int, int] | None, image: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: camera_of_image(matrix, size, pixels, where=image)


def _co3d_test(tree: Tree, category: str) -> set[str] | None:
    """Return the sequences of a category's test list; None if it has no list."""
    name = f"{category}/{CO3D_LIST}"
    if not tree.has(name):
        return None
    content = tree.json(name)
    try:
        return {str(entry[0]) for entry in content["test"]}
    except (KeyError, TypeError, IndexError):
        raise InvalidInput(f'{tree.where(name)}: expected {{"test": [[sequence, frame number, image], ...]}}') from None


def _some(sequences: list[PosedSequence], tree: Tree, expected: str) -> list[PosedSequence]:
    if not sequences:
        raise MissingFile(f"{tree.subject}: no sequence below '{tree.root}'. Expected {expected}")
    return sequences
