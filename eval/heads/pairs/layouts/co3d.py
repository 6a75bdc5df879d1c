"""CO3D, version 2.

Documented: CATEGORY/frame_annotations.jgz, gzipped JSON, a list with for each frame sequence_name, frame_number, image
{path, size: [height, width]}, depth {path, scale_adjustment, mask_path}, mask {path} and viewpoint {R, T, focal_length,
principal_point, intrinsics_format}; paths start at the root. Depth is a 16-bit PNG whose bits are a float16, times
scale_adjustment, known where mask_path is set. The viewpoint is PyTorch3D's: X_camera = X_world R + T with x left and y
up; camera numbers in units of half the shorter side ("ndc_isotropic") or of half of each side
("ndc_norm_image_bounds"), the principal point counted from the middle, to the left and up. No metric scale. Our choice:
pixels of PyTorch3D have their centres at 0.5, so the principal point moves by half a pixel; pairs are frames of a
sequence some steps apart in order of frame_number; the background is masked in half of the pairs; frames without
viewpoint or depth are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.heads.pairs.depth_files import png_half_depth
from eval.heads.pairs.files import Tree, numbers
from eval.heads.pairs.frames import Depth, Frame, FramePairs, frame_pairs, step_pairs
from eval.heads.pairs.geometry import inverse_pose
from eval.heads.pairs.layouts.options import ObjectOptions
from store.errors import InvalidInput

ANNOTATIONS = "frame_annotations.jgz"
TURNED = np.diag([-1.0, -1.0, 1.0])  # from x left, y up to x right, y down
EXPECTED = f"CATEGORY/{ANNOTATIONS} with the images and depths that it names"


def open_pairs(tree: Tree, options: ObjectOptions) -> FramePairs:
    """List frames and pairs.

    Raises:
        MissingFile: no category.
        InvalidInput: an annotation that is not as documented.
        Damaged: annotations that are no whole gzipped JSON.
    """
    frames: list[Frame] = []
    depths: dict[str, tuple[float, str | None]] = {}
    for name in tree.glob(f"*/{ANNOTATIONS}"):
        frames += annotated_frames(tree, name, depths)

    return frame_pairs(
        tree,
        frames,
        step_pairs(frames, options.steps),
        read_depth=_DepthReader(depths=depths),
        is_metric=False,
        mask_background=options.mask_background,
        expected=EXPECTED,
    )


def annotated_frames(tree: Tree, name: str, depths: dict[str, tuple[float, str | None]] | None = None) -> list[Frame]:
    """Read the frames of one category that have a viewpoint and a depth, by sequence and frame number.

    Args:
        tree: the dataset.
        name: the category's file of annotations.
        depths: receives factor and mask of each depth, by its name.

    Raises:
        InvalidInput, Damaged: see `open_pairs`.
    """
    entries = tree.json(name, gzipped=True)
    if not isinstance(entries, list):
        raise InvalidInput(f"{tree.where(name)}: expected a list of frames")
    noted: dict[str, tuple[float, str | None]] = {} if depths is None else depths
    numbered = [_frame(entry, name.split("/")[0], noted, where=tree.where(name)) for entry in entries]
    found = sorted((item for item in numbered if item is not None), key=lambda item: (item[1].scene, item[0]))
    return [frame for _, frame in found]


@dataclass(frozen=True, kw_only=True)
class _DepthReader:
    """Reads depth with the factor and the mask that the annotations name for it."""

    depths: dict[str, tuple[float, str | None]]

    def __call__(self, tree: Tree, frame: Frame) -> Depth:
        scale, mask = self.depths[frame.depth]
        depth = png_half_depth(tree, frame.depth) * scale
        known = np.isfinite(depth)
        if mask is not None:
            known &= tree.image(mask)[..., 0] > 0
        return np.where(known, depth, 0), None


def _frame(
    entry: Any, category: str, depths: dict[str, tuple[float, str | None]], *, where: str
) -> tuple[int, Frame] | None:
    """Return number and frame of an annotation, and note its depth; None for a frame without viewpoint or depth."""
    try:
        viewpoint, depth = entry["viewpoint"], entry["depth"]
        if viewpoint is None or depth is None:
            return None
        image = str(entry["image"]["path"])
        height, width = numbers(entry["image"]["size"], count=2, where=f"{where} {image} size").astype(int).tolist()
        mask = entry.get("mask")
        depths[str(depth["path"])] = float(depth["scale_adjustment"]), depth.get("mask_path")
        frame = Frame(
            image=image,
            depth=str(depth["path"]),
            mask=None if mask is None else str(mask["path"]),
            pose=_pose(viewpoint, where=f"{where} {image}"),
            intrinsics=_intrinsics(viewpoint, (width, height), where=f"{where} {image}"),
            camera_size=(width, height),
            scene=f"{category}/{entry['sequence_name']}",
        )
        return int(entry["frame_number"]), frame
    except InvalidInput:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{where}: an annotation is not as documented ({error!r})") from None


def _pose(viewpoint: dict[str, Any], *, where: str) -> np.ndarray:
    rotation = numbers(np.ravel(viewpoint["R"]), count=9, where=f"{where} R").reshape(3, 3)
    inward = np.eye(4)
    inward[:3, :3] = TURNED @ rotation.T
    inward[:3, 3] = TURNED @ numbers(viewpoint["T"], count=3, where=f"{where} T")
    return inverse_pose(inward)


def _intrinsics(viewpoint: dict[str, Any], size: tuple[int, int], *, where: str) -> np.ndarray:
    half = np.array(size) / 2
    form = str(viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if form not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise InvalidInput(f"{where}: intrinsics_format '{form}', expected ndc_isotropic or ndc_norm_image_bounds")
    unit = np.full(2, half.min()) if form == "ndc_isotropic" else half
    focal = numbers(viewpoint["focal_length"], count=2, where=f"{where} focal_length") * unit
    centre = half - numbers(viewpoint["principal_point"], count=2, where=f"{where} principal_point") * unit - 0.5
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
