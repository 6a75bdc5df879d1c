"""Helpers that write images, depth and cameras the way public layouts store them."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from eval.heads.pairs.frames import FramePairs
from eval.heads.pairs.views import Pair, View
from tests.eval.heads.pairs.room import SIZE, room_views

JPEG_QUALITY = 95


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(
        path, **({"quality": JPEG_QUALITY, "subsampling": 0} if path.suffix.lower() == ".jpg" else {})
    )


def write_png16(path: Path, values: np.ndarray) -> None:
    """Write whole numbers as a 16-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values).astype(np.uint16)).save(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def world_to_camera(view: View) -> np.ndarray:
    """Invert a view's pose with a plain matrix inverse."""
    return np.linalg.inv(view.camera_pose.astype(np.float64))


def row(values: np.ndarray) -> str:
    """Write numbers with a space between them."""
    return " ".join(f"{value:.9g}" for value in np.ravel(values))


def quaternion(rotation: np.ndarray, *, first: str) -> np.ndarray:
    """Return a rotation as a quaternion that begins with "w" or with "x"."""
    return Rotation.from_matrix(rotation).as_quat(scalar_first=first == "w")


def pair_of(dataset: FramePairs, *names: str) -> Pair:
    """Return the pair whose images end with two texts."""
    for index, places in enumerate(dataset.pairs):
        if all(dataset.frames[place].image.endswith(name) for place, name in zip(places, names, strict=True)):
            return dataset.pair(index, np.random.default_rng(0))
    raise AssertionError(f"no pair {names} among {[[dataset.frames[p].image for p in pair] for pair in dataset.pairs]}")


def scaled_camera(camera: tuple[float, ...], size: tuple[int, int]) -> tuple[float, ...]:
    """Return fx, fy, cx, cy of a camera for images of `SIZE`, given those for `size`; pixel centres at integers."""
    fx, fy, cx, cy = camera
    x, y = SIZE[0] / size[0], SIZE[1] / size[1]
    return fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5


def views() -> tuple[View, ...]:
    """Three views of a room."""
    return room_views()
