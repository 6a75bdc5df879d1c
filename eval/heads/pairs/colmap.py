"""Reconstructions of COLMAP, as text or binary: cameras, and images with their poses and the points they see.

COLMAP's pixel centres are at 0.5: its principal points are moved by half a pixel here. Poses in its files are world to
camera; here they are camera to world. Only cameras without distortion can be used.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.geometry import inverse_pose
from store.errors import Damaged, InvalidInput

# Model ids of COLMAP's binary files with the number of their parameters; only the first two have no distortion.
MODELS = (("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8))
POINT_BYTES = 24
NO_POINT = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedImage:
    """An image of a reconstruction.

    Attributes:
        name: name of the image's file.
        pose: float64 (4, 4), camera to world.
        intrinsics: float64 (3, 3), pixel centres at integers.
        size: (width, height) of the camera.
        points: int64 (M,), numbers of the 3-D points it sees, sorted.
    """

    name: str
    pose: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]
    points: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Camera:
    intrinsics: np.ndarray
    size: tuple[int, int]


def read_model(tree: Tree, folder: str) -> list[PosedImage]:
    """Read `cameras` and `images`, .txt or .bin, below a folder; images in order of name.

    Raises:
        MissingFile: neither form is there.
        InvalidInput: a camera with distortion, or a line that is not as documented.
        Damaged: a binary file is cut short.
    """
    if tree.has(f"{folder}/images.bin"):
        cameras = _binary_cameras(tree, f"{folder}/cameras.bin")
        images = _binary_images(tree, f"{folder}/images.bin", cameras)
    else:
        cameras = _text_cameras(tree, f"{folder}/cameras.txt")
        images = _text_images(tree, f"{folder}/images.txt", cameras)
    return sorted(images, key=lambda image: image.name)


def rotation_matrix(quaternion: np.ndarray, *, where: str) -> np.ndarray:
    """Return the rotation (3, 3) of a quaternion (w, x, y, z) of any length but zero.

    Raises:
        InvalidInput: its length is zero.
    """
    length = float(np.linalg.norm(quaternion))
    if length < 1e-8:
        raise InvalidInput(f"{where}: the quaternion is zero")
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _camera(model: str, size: tuple[int, int], parameters: np.ndarray, *, where: str) -> _Camera:
    if model == "PINHOLE" and len(parameters) == 4:
        fx, fy, cx, cy = parameters
    elif model == "SIMPLE_PINHOLE" and len(parameters) == 3:
        (fx, cx, cy), fy = parameters, parameters[0]
    else:
        raise InvalidInput(f"{where}: camera model {model}, expected PINHOLE. Undistort the images with COLMAP first")
    return _Camera(intrinsics=np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]), size=size)


def _posed(
    name: str, values: np.ndarray, camera: int, points: np.ndarray, cameras: dict[int, _Camera], *, where: str
) -> PosedImage:
    if camera not in cameras:
        raise InvalidInput(f"{where}: camera {camera} is not among the cameras")
    inward = np.eye(4)
    inward[:3, :3] = rotation_matrix(values[:4], where=where)
    inward[:3, 3] = values[4:]
    return PosedImage(
        name=name,
        pose=inverse_pose(inward),
        intrinsics=cameras[camera].intrinsics,
        size=cameras[camera].size,
        points=np.unique(points[points != NO_POINT]),
    )


def _text_cameras(tree: Tree, name: str) -> dict[int, _Camera]:
    cameras = {}
    for fields in tree.lines(name):
        where = f"{tree.where(name)} camera {fields[0]}"
        values = numbers(fields[2:], count=len(fields) - 2, where=where)
        if len(values) < 3 or not fields[0].isdigit():
            raise InvalidInput(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
        cameras[int(fields[0])] = _camera(fields[1], (int(values[0]), int(values[1])), values[2:], where=where)
    return cameras


def _text_images(tree: Tree, name: str, cameras: dict[int, _Camera]) -> Iterator[PosedImage]:
    lines = [line for line in tree.text(name).splitlines() if not line.startswith("#")]
    for number in range(0, len(lines) - 1, 2):  # the line of points may be empty
        fields = lines[number].split(maxsplit=9)
        where = f"{tree.where(name)} image {fields[-1] if fields else number}"
        if len(fields) != 10 or not fields[8].isdigit():
            raise InvalidInput(f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        values = numbers(fields[1:8], count=7, where=where)
        seen = lines[number + 1].split()[2::3]
        points = numbers(seen, count=len(seen), where=where).astype(np.int64)
        yield _posed(fields[9], values, int(fields[8]), points, cameras, where=where)


class _Reader:
    """Reads little-endian numbers one after the other."""

    def __init__(self, tree: Tree, name: str) -> None:
        self._content, self._at, self._where = tree.read(name), 0, tree.where(name)

    def take(self, form: str) -> tuple[float, ...]:
        size = struct.calcsize(f"<{form}")
        values: tuple[float, ...] = struct.unpack(f"<{form}", self.take_bytes(size))
        return values

    def take_bytes(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._content):
            raise Damaged(f"{self._where}: ends after {len(self._content)} bytes. Copy it again")
        self._at += count
        return self._content[self._at - count : self._at]

    def take_text(self) -> str:
        end = self._content.find(b"\0", self._at)
        text = self.take_bytes(end - self._at)
        self._at += 1
        return text.decode("utf-8", "replace")


def _binary_cameras(tree: Tree, name: str) -> dict[int, _Camera]:
    reader, cameras = _Reader(tree, name), {}
    (count,) = reader.take("Q")
    for _ in range(int(count)):
        number, model, width, height = (int(value) for value in reader.take("iiQQ"))
        where = f"{tree.where(name)} camera {number}"
        if not 0 <= model < len(MODELS):
            raise InvalidInput(f"{where}: camera model {model}, expected PINHOLE. Undistort the images first")
        parameters = np.array(reader.take(f"{MODELS[model][1]}d"))
        cameras[number] = _camera(MODELS[model][0], (width, height), parameters, where=where)
    return cameras


def _binary_images(tree: Tree, name: str, cameras: dict[int, _Camera]) -> Iterator[PosedImage]:
    reader = _Reader(tree, name)
    (count,) = reader.take("Q")
    for _ in range(int(count)):
        number, *values, camera = reader.take("i7di")
        file_name = reader.take_text()
        (points,) = reader.take("Q")
        table = np.frombuffer(reader.take_bytes(int(points) * POINT_BYTES), dtype=[("xy", "<2f8"), ("point", "<i8")])
        where = f"{tree.where(name)} image {int(number)}"
        if not np.isfinite(values).all():
            raise InvalidInput(f"{where}: the pose is not finite")
        yield _posed(file_name, np.array(values), int(camera), table["point"], cameras, where=where)
