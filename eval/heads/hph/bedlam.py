"""Read BEDLAM in the layout that Multi-HMR's trainer reads.

ROOT/training/SEQUENCE/png/IMGNAME             images; `validation` likewise
ROOT/all_npz_12_training/SEQUENCE.npz          one row a person: imgname, pose_cam (n, 165), shape (n, 11),
                                               trans_cam (n, 3), cam_ext (n, 4, 4), cam_int (n, 3, 3)

BEDLAM (Black et al., CVPR 2023) has its own licence and is not shipped. Images whose path contains `closeup` are stored
lying down: they are turned upright, clockwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from eval.heads.body.npz import Arrays, read_arrays, require_finite
from eval.heads.hph.samples import Sample, square_image, square_intrinsics
from extract.views.decode import decode
from store.common.regular_files import open_below
from store.errors import DecodeError, InvalidInput, MissingFile, RefusedFile

Split = Literal["training", "validation"]
ARRAYS = {"imgname": 1, "pose_cam": 2, "shape": 2, "trans_cam": 2, "cam_ext": 3, "cam_int": 3}
TAILS = {"pose_cam": (165,), "trans_cam": (3,), "cam_ext": (4, 4), "cam_int": (3, 3)}
FEWEST_SHAPE_NUMBERS = 10
LYING_DOWN = "closeup"
CLOCKWISE_DEGREES = -90
# Joints of pose_cam: root, 21 of the body, jaw, two eyes, 15 of each hand; the head's order has no eyes, the jaw last.
HEAD_ORDER = (*range(22), *range(25, 55), 22)
NEAREST_M = 0.01
EVALUATION_STEP = 25


@dataclass(frozen=True, kw_only=True)
class _Image:
    path: str
    rotvec: np.ndarray
    shape: np.ndarray
    transl: np.ndarray
    intrinsics: np.ndarray


class Bedlam:
    """The images of one split, ordered by sequence and name.

    Args:
        root: folder that holds `training/`, `all_npz_12_training/` and so on.
        split: `training` or `validation`.
        every: take every so many images; the authors' evaluation takes every 25th.

    Raises:
        MissingFile: no annotations.
        InvalidInput: annotations of another form; the file is named.
    """

    def __init__(self, root: str | Path, split: Split, *, every: int = 1) -> None:
        self.root = Path(root)
        folder = self.root / f"all_npz_12_{split}"
        files = sorted(folder.glob("*.npz"))
        if not files:
            raise MissingFile(
                f"BEDLAM: no annotations '{folder}/*.npz'. Give the folder that holds '{folder.name}' and '{split}'"
            )
        images = [image for file in files for image in _read_sequence(file, split)]
        self._images = images[::every]

    def __len__(self) -> int:
        return len(self._images)

    def sample(self, index: int, *, img_size: int) -> Sample:
        """Read an image with its people in front of the camera, near to far.

        Args:
            index: number of the image.
            img_size: side of the square that the image is fitted into, px.

        Raises:
            MissingFile: the image is missing, or not below the root.
            InvalidInput: it cannot be decoded.
        """
        image = self._images[index]
        pixels = self._pixels(image.path)
        height, width = pixels.shape[:2]
        return Sample(
            name=image.path,
            pixels=square_image(pixels, img_size),
            intrinsics=square_intrinsics(image.intrinsics, width=width, height=height, img_size=img_size),
            rotvec=image.rotvec,
            shape=image.shape,
            transl=image.transl,
        )

    def _pixels(self, path: str) -> np.ndarray:
        try:
            with open_below(self.root, path) as file:
                content = file.read()
            return decode(content, rotation=CLOCKWISE_DEGREES if LYING_DOWN in path else 0)
        except (OSError, RefusedFile) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise MissingFile(f"BEDLAM image '{path}' below '{self.root}': {reason}") from None
        except DecodeError as error:
            raise InvalidInput(f"BEDLAM image '{path}': {error}. Copy it again") from None


def _read_sequence(file: Path, split: str) -> list[_Image]:
    arrays = _checked(file)
    names = arrays["imgname"].astype(str)
    rotvec = arrays["pose_cam"].reshape(-1, 55, 3)[:, HEAD_ORDER].astype(np.float32)
    transl = (arrays["trans_cam"] + arrays["cam_ext"][:, :3, 3]).astype(np.float32)
    shape = arrays["shape"].astype(np.float32)
    images = []
    order = np.argsort(names, kind="stable")
    unique, first = np.unique(names[order], return_index=True)
    for name, rows in zip(unique, np.split(order, first[1:]), strict=True):
        near_to_far = rows[np.argsort(transl[rows, 2], kind="stable")]
        kept = near_to_far[transl[near_to_far, 2] > NEAREST_M]
        images.append(
            _Image(
                path=f"{split}/{file.stem}/png/{name}",
                rotvec=rotvec[kept],
                shape=shape[kept],
                transl=transl[kept],
                intrinsics=arrays["cam_int"][rows[0]].astype(np.float32),
            )
        )
    return images


def _checked(file: Path) -> Arrays:
    """Read the arrays of a sequence.

    Raises:
        InvalidInput: other shapes, or numbers that are not finite; all problems are listed.
    """
    arrays = read_arrays(file, ARRAYS, subject="BEDLAM annotations")
    people = len(arrays["imgname"])
    problems = [f"{name} has {len(array)} rows" for name, array in arrays.items() if len(array) != people]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {('n', *tail)}"
        for name, tail in TAILS.items()
        if arrays[name].shape[1:] != tail
    ]
    if arrays["shape"].shape[1] < FEWEST_SHAPE_NUMBERS:
        problems.append(f"shape has {arrays['shape'].shape[1]} numbers, expected at least {FEWEST_SHAPE_NUMBERS}")
    if arrays["imgname"].dtype.kind not in "US":
        problems.append(f"imgname has type {arrays['imgname'].dtype}, expected text")
    if problems:
        raise InvalidInput(f"BEDLAM annotations '{file}': imgname has {people} rows; {'; '.join(problems)}")
    require_finite(arrays, *(name for name in ARRAYS if name != "imgname"), where=f"BEDLAM annotations '{file}'")
    return arrays
