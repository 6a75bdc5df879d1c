"""Files of a predicted pair: point cloud as PLY and GLB, pictures of depth, confidence and matches, pose as JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from eval.heads.mast3r.predict import PairPrediction, ViewPrediction
from store.common import atomic
from store.common.extras import missing_extra
from store.errors import MissingExtra

GLTF_AXES = np.array([1.0, -1.0, -1.0])  # ours: y down, z forward; glTF's: y up, z towards the viewer
DRAWN_MATCHES = 60
RANGE_PERCENT = 2, 98  # of the values between which colours change
PLY_POINT = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z")),
        *((name, "u1") for name in ("red", "green", "blue")),
        ("confidence", "<f4"),
    ]
)
PLY_NAMES = {"<f4": "float", "|u1": "uchar"}


def write(prediction: PairPrediction, out: Path, *, least_confidence: float = 1.0) -> list[Path]:
    """Write points.ply, points.glb, depth.png, confidence.png, matches.png, maps.npz and pose.json, each whole.

    Args:
        prediction: result of `predict`.
        out: folder, created if absent; files of these names in it are replaced.
        least_confidence: points of less confidence are left out of the clouds.

    Returns:
        The files.

    Raises:
        MissingExtra: trimesh is not installed.
    """
    arrays: dict[str, Any] = _arrays(prediction)
    cloud = points(prediction, least_confidence=least_confidence)
    content = {"points.ply": ply(cloud), "points.glb": glb(cloud)}
    pictures = {
        "depth.png": _beside([coloured(view.depth, "turbo_r") for view in prediction.views]),
        "confidence.png": _beside([coloured(np.log(view.confidence), "viridis") for view in prediction.views]),
        "matches.png": matches_picture(prediction),
    }
    for name, data in content.items():
        with atomic.replacing(out / name) as partial:
            partial.write_bytes(data)
    for name, picture in pictures.items():
        with atomic.replacing(out / name) as partial:
            picture.save(partial, format="PNG")
    with atomic.replacing(out / "maps.npz") as partial:
        np.savez_compressed(partial, **arrays)
    atomic.write_text(out / "pose.json", json.dumps(document(prediction), indent=1, allow_nan=False) + "\n")
    return [out / name for name in (*content, *pictures, "maps.npz", "pose.json")]


def document(prediction: PairPrediction) -> dict[str, Any]:
    """Return JSON of the relative pose; without one `pose` is null and `failure` says why."""
    pose, found = prediction.pose, not prediction.pose.failure
    return {
        "pose": pose.matrix.tolist() if found else None,
        "pose_meaning": "first camera to second: X2 = R X1 + t; x right, y down, z forward; as metric as the model",
        "failure": pose.failure or None,
        "inliers": int(pose.inliers.sum()),
        "matches": len(prediction.matches.pixels1),
        "views": [
            {
                "width_px": view.pixels.shape[1],
                "height_px": view.pixels.shape[0],
                "intrinsics": view.intrinsics.tolist(),
                "intrinsics_estimated": view.assumed_camera,
                "median_depth": float(np.median(view.depth)),
                "mean_confidence": float(view.confidence.mean()),
            }
            for view in prediction.views
        ],
    }


def points(prediction: PairPrediction, *, least_confidence: float) -> np.ndarray:
    """Return the coloured points of both pictures in the first camera's frame, (P,) of `PLY_POINT`."""
    clouds = []
    for view in prediction.views:
        kept = view.confidence >= least_confidence
        cloud = np.zeros(int(kept.sum()), dtype=PLY_POINT)
        for axis, name in enumerate(("x", "y", "z")):
            cloud[name] = view.points[..., axis][kept]
        for channel, name in enumerate(("red", "green", "blue")):
            cloud[name] = view.pixels[..., channel][kept]
        cloud["confidence"] = view.confidence[kept]
        clouds.append(cloud)
    return np.concatenate(clouds)


def ply(cloud: np.ndarray) -> bytes:
    """Return a cloud as binary PLY."""
    properties = [f"property {PLY_NAMES[cloud.dtype[name].str]} {name}" for name in cloud.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}", *properties, "end_header", ""]
    return "\n".join(header).encode("ascii") + cloud.tobytes()


def glb(cloud: np.ndarray) -> bytes:
    """Return a cloud as binary glTF, as seen from the first camera at the origin.

    Raises:
        MissingExtra: trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise MissingExtra(missing_extra(error.name or "trimesh", program="heads") or str(error)) from None
    places = np.stack([cloud[name] for name in ("x", "y", "z")], axis=1) * GLTF_AXES
    colours = np.stack([cloud[name] for name in ("red", "green", "blue")], axis=1)
    scene = trimesh.Scene()
    if len(cloud):
        scene.add_geometry(trimesh.PointCloud(places, colors=colours), geom_name="points", node_name="points")
    return bytes(scene.export(file_type="glb"))


def coloured(values: np.ndarray, colours: str) -> Image.Image:
    """Return a map (H, W) in colours between its 2nd and 98th percentile."""
    low, high = np.percentile(values, RANGE_PERCENT)
    shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return Image.fromarray((colormaps[colours](shares)[..., :3] * 255).round().astype(np.uint8))


def matches_picture(prediction: PairPrediction) -> Image.Image:
    """Return both pictures side by side with some of their matches, evenly chosen; inliers of the pose are thick."""
    matches, views = prediction.matches, prediction.views
    picture = _beside([Image.fromarray(view.pixels) for view in views])
    canvas, shift = ImageDraw.Draw(picture), views[0].pixels.shape[1]
    count = len(matches.pixels1)
    for number in np.linspace(0, count - 1, min(count, DRAWN_MATCHES)).astype(int).tolist():
        (x1, y1), (x2, y2) = matches.pixels1[number].tolist(), matches.pixels2[number].tolist()
        hue = colormaps["hsv"](x1 / shift)[:3]
        colour = tuple(round(255 * value) for value in hue)
        canvas.line((x1, y1, x2 + shift, y2), fill=colour, width=2 if prediction.pose.inliers[number] else 1)
    return picture


def _beside(pictures: list[Image.Image]) -> Image.Image:
    width, height = sum(one.width for one in pictures), max(one.height for one in pictures)
    whole = Image.new("RGB", (width, height))
    left = 0
    for one in pictures:
        whole.paste(one, (left, 0))
        left += one.width
    return whole


def _arrays(prediction: PairPrediction) -> dict[str, np.ndarray]:
    def of_view(number: int, view: ViewPrediction) -> dict[str, np.ndarray]:
        names = ("points", "confidence", "depth", "intrinsics")
        return {f"{name}{number}": getattr(view, name) for name in names}

    one, two = (of_view(number, view) for number, view in enumerate(prediction.views, start=1))
    matches = prediction.matches
    return {**one, **two, "pixels1": matches.pixels1, "pixels2": matches.pixels2}
