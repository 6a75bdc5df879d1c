"""Views that do not fit together, files outside of the root, damaged depth."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.heads.pairs.colmap import read_model
from eval.heads.pairs.depth_files import colmap_depth, depth_file, float3_array, h5_depth, pfm_depth, png_depth
from eval.heads.pairs.files import Tree
from eval.heads.pairs.views import checked_view
from store.errors import Damaged, InvalidInput, MissingFile, UnsafeFile


def arrays(**changed: Any) -> dict[str, Any]:
    return {
        "image": np.zeros((4, 6, 3), dtype=np.uint8),
        "depthmap": np.ones((4, 6)),
        "camera_pose": np.eye(4),
        "intrinsics": np.array([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]),
        "is_metric": True,
        "dataset": "d",
        "label": "scene",
        "instance": "frame 7",
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depthmap": np.full((4, 6), np.nan)}, "d, frame 7: depth: 24 pixels are NaN or infinite"),
        ({"depthmap": np.where(np.eye(4, 6) > 0, np.inf, 1)}, "depth: 4 pixels are NaN or infinite"),
        ({"depthmap": np.ones((6, 4))}, "depth of 4 x 6 px, but the image has 6 x 4"),
        ({"mask": np.ones((2, 6), dtype=bool)}, "mask of 6 x 2 px"),
        ({"intrinsics": np.eye(3) * 0}, "intrinsics: expected finite numbers with positive focal lengths"),
        ({"intrinsics": np.eye(4)}, "intrinsics: expected a 3 x 3 matrix"),
        ({"camera_pose": np.diag([1.0, 1, -1, 1])}, "pose: expected a rotation and a translation"),
        ({"camera_pose": np.full((4, 4), np.nan)}, "pose: not finite"),
        ({"image": np.zeros((4, 6), dtype=np.uint8)}, r"image: expected uint8 \(H, W, 3\)"),
    ],
)
def test_views_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        checked_view(**arrays(**changed))


def test_unknown_depth_and_sky() -> None:
    depth = np.array([[1.0, 0, -1, 2, 3, 4]] * 4)
    sky = np.zeros((4, 6), dtype=bool)
    sky[:, 2:4] = True
    view = checked_view(**arrays(depthmap=depth, sky=sky, mask=depth < 4))
    assert view.valid[0].tolist() == [True, False, False, True, True, False]
    assert view.sky[0].tolist() == [False, False, True, False, False, False]
    assert view.depthmap[0].tolist() == [1, 0, 0, 2, 3, 0]


def test_names_never_leave_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("no")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "secret.txt", root / "link.txt")
    tree = Tree(root, subject="d")
    for name in ("../secret.txt", "link.txt", str(tmp_path / "secret.txt")):
        with pytest.raises(InvalidInput, match="outside the root"):
            tree.read(name)
    with pytest.raises(MissingFile, match="cannot be read"):
        tree.read("absent")
    with pytest.raises(MissingFile, match="no such folder"):
        Tree(root / "absent", subject="d")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", a=np.array([{}], dtype=object))
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:90])
    tree = Tree(tmp_path, subject="d")
    with pytest.raises(UnsafeFile, match="Nothing is unpickled"):
        tree.array("a.npy")
    with pytest.raises(UnsafeFile, match="Nothing is unpickled"):
        tree.arrays("b.npz", ["a"])
    with pytest.raises(Damaged, match="not a whole file of arrays"):
        tree.arrays("c.npz", ["a"])


def test_depth_files(tmp_path: Path) -> None:
    tree = Tree(tmp_path, subject="d")
    depth = np.arange(6, dtype=np.float32).reshape(2, 3) + 0.5
    (tmp_path / "a.pfm").write_bytes(b"Pf\n3 2\n-1.0\n" + depth[::-1].tobytes())
    (tmp_path / "b.pfm").write_bytes(b"Pf\n3 2\n1.000000\n" + depth[::-1].astype(">f4").tobytes())
    (tmp_path / "c.float3").write_bytes(b"float\n2\n3\n2\n" + depth.tobytes())
    (tmp_path / "d.geometric.bin").write_bytes(b"3&2&1&" + depth.tobytes())
    np.save(tmp_path / "e.npy", depth)
    Image.fromarray((depth * 1000).astype(np.uint16)).save(tmp_path / "f.png")
    for name in ("a.pfm", "b.pfm", "c.float3", "d.geometric.bin", "e.npy", "f.png"):
        np.testing.assert_array_equal(depth_file(tree, name), depth)
    with pytest.raises(InvalidInput, match=r"expected a depth map \.png"):
        depth_file(tree, "a.exr")


def test_damaged_depth_files(tmp_path: Path) -> None:
    tree = Tree(tmp_path, subject="d")
    (tmp_path / "short.pfm").write_bytes(b"Pf\n3 2\n-1.0\n1234")
    (tmp_path / "colour.pfm").write_bytes(b"PF\n3 2\n-1.0\n1234")
    (tmp_path / "huge.float3").write_bytes(b"float\n2\n999999\n999999\n1234")
    (tmp_path / "other.bin").write_bytes(b"3&2&3&1234")
    (tmp_path / "eight.png").write_bytes(b"")
    Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save(tmp_path / "eight.png")
    with pytest.raises(Damaged, match="4 bytes of numbers, expected 24 for 2 x 3"):
        pfm_depth(tree, "short.pfm")
    with pytest.raises(InvalidInput, match="expected a grey PFM"):
        pfm_depth(tree, "colour.pfm")
    with pytest.raises(Damaged, match="4 bytes of numbers"):
        float3_array(tree, "huge.float3")
    with pytest.raises(InvalidInput, match="depth map of COLMAP"):
        colmap_depth(tree, "other.bin")
    with pytest.raises(InvalidInput, match="16-bit grey PNG, found mode L"):
        png_depth(tree, "eight.png")


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    tree = Tree(tmp_path, subject="d")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["depth"] = np.ones((2, 3), dtype=np.float32)
    assert h5_depth(tree, "a.h5", "depth").shape == (2, 3)
    with pytest.raises(InvalidInput, match="no dataset 'other'; it has depth"):
        h5_depth(tree, "a.h5", "other")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:100])
    with pytest.raises(Damaged, match="not a whole HDF5 file"):
        h5_depth(tree, "b.h5", "depth")


def test_reconstructions_as_text_and_binary_agree(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    (tmp_path / "text").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "text/cameras.txt").write_text("# Camera list\n1 PINHOLE 640 480 500 510 320 240\n")
    (tmp_path / "text/images.txt").write_text(
        f"# two lines an image\n7 {half} 0 0 {half} 1 2 3 1 b.jpg\n10.0 20.0 5 11.0 21.0 -1 1.0 2.0 3\n"
        "8 1 0 0 0 0 0 0 1 a.jpg\n\n"
    )
    camera = struct.pack("<Qii2Q4d", 1, 1, 1, 640, 480, 500, 510, 320, 240)
    (tmp_path / "binary/cameras.bin").write_bytes(camera)
    points = b"".join(struct.pack("<ddq", 0.0, 0.0, point) for point in (5, -1, 3))
    images = struct.pack("<Qi7di", 2, 7, half, 0, 0, half, 1, 2, 3, 1) + b"b.jpg\0" + struct.pack("<Q", 3) + points
    images += struct.pack("<i7di", 8, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.jpg\0" + struct.pack("<Q", 0)
    (tmp_path / "binary/images.bin").write_bytes(images)
    tree = Tree(tmp_path, subject="d")
    for folder in ("text", "binary"):
        first, second = read_model(tree, folder)
        assert (first.name, second.name) == ("a.jpg", "b.jpg")
        assert second.points.tolist() == [3, 5]
        assert second.size == (640, 480)
        np.testing.assert_allclose(second.intrinsics, [[500, 0, 319.5], [0, 510, 239.5], [0, 0, 1]])
        # a quarter turn about z, world to camera: x of the world is y of the camera
        np.testing.assert_allclose(second.pose[:3, :3] @ [0, 1, 0], [1, 0, 0], atol=1e-12)
        np.testing.assert_allclose(second.pose[:3, 3], [-2, 1, -3], atol=1e-12)
    (tmp_path / "binary/images.bin").write_bytes(images[:-9])
    with pytest.raises(Damaged, match="Copy it again"):
        read_model(tree, "binary")
    (tmp_path / "text/cameras.txt").write_text("1 SIMPLE_RADIAL 640 480 500 320 240 0.1\n")
    with pytest.raises(InvalidInput, match=r"SIMPLE_RADIAL, expected PINHOLE\. Undistort"):
        read_model(tree, "text")
