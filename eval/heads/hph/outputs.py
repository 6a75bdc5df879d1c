"""Files of predicted people: JSON, GLB meshes, picture, and the .npz that `codistill eval human-mesh` scores."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from eval.heads.hph import overlay
from eval.heads.hph.people import People
from eval.heads.hph.predict import Prediction
from store.common import atomic
from store.common.extras import missing_extra
from store.errors import InvalidInput, MissingExtra

GLTF_AXES = np.array([1.0, -1.0, -1.0])  # ours: y down, z forward; glTF's: y up, z towards the viewer
MESHES = ("v3d", "j3d", "v2d", "j2d")


def write(prediction: Prediction, out: Path, *, stem: str) -> list[Path]:
    """Write STEM.png, STEM.json and, with a body model and at least one person, STEM.glb; each whole or not at all.

    Args:
        prediction: people of one picture.
        out: folder, created if absent.
        stem: name of the files without suffix.

    Returns:
        The files.

    Raises:
        InvalidInput: the stem is no plain name.
        MissingExtra: meshes are to be written and trimesh is not installed.
    """
    if Path(stem).name != stem or stem in ("", ".", ".."):
        raise InvalidInput(f"name '{stem}': expected a name without folders")
    meshes = None if prediction.people.v3d is None or not len(prediction.people) else glb(prediction)
    files = [out / f"{stem}.png", out / f"{stem}.json"]
    with atomic.replacing(files[0]) as partial:
        overlay.draw(prediction).save(partial, format="PNG")
    atomic.write_text(files[1], json.dumps(document(prediction), indent=1, allow_nan=False) + "\n")
    if meshes is not None:
        files.append(out / f"{stem}.glb")
        with atomic.replacing(files[-1]) as partial:
            partial.write_bytes(meshes)
    return files


def document(prediction: Prediction) -> dict[str, Any]:
    """Return JSON of the people: numbers by their names in `People`, without meshes; px are those of the picture.

    A number that is not finite becomes null.
    """
    height, width = prediction.pixels.shape[:2]
    names = set(prediction.people.keys()) - set(MESHES)
    people = []
    for person in prediction.people:
        values = {name: _plain(person[name]) for name in sorted(names)}
        cell = values.pop("idx_image_row_col")
        values["cell_row_col"] = cell[1:]
        values["loc"] = _plain(prediction.in_picture(person.loc))
        if person.j2d is not None and person.j3d is not None:
            values |= {"j2d": _plain(prediction.in_picture(person.j2d)), "j3d": _plain(person.j3d)}
        people.append(values)
    return {
        "image": {"width_px": width, "height_px": height},
        "camera": {
            "intrinsics": prediction.intrinsics.tolist(),
            "of_square_px": prediction.img_size,
            "assumed": prediction.assumed_camera,
        },
        "people": people,
    }


def glb(prediction: Prediction) -> bytes:
    """Return the meshes as binary glTF, one named node a person, in metres, as seen from the camera at the origin.

    Raises:
        InvalidInput: no meshes, or nobody.
        MissingExtra: trimesh is not installed.
    """
    people, faces = prediction.people, prediction.faces
    if people.v3d is None or faces is None or not len(people):
        raise InvalidInput("GLB: expected people with meshes, found none. Give a body model, or lower the threshold")
    try:
        import trimesh
    except ImportError as error:
        raise MissingExtra(missing_extra(error.name or "trimesh", program="body") or str(error)) from None
    scene = trimesh.Scene()
    for number, vertices in enumerate(people.v3d.double().numpy()):
        colour = (*overlay.COLOURS[number % len(overlay.COLOURS)], 255)
        mesh = trimesh.Trimesh(vertices * GLTF_AXES, faces, process=False, vertex_colors=colour)
        scene.add_geometry(mesh, geom_name=f"person{number + 1}", node_name=f"person{number + 1}")
    return bytes(scene.export(file_type="glb"))


def scored_arrays(people: Sequence[tuple[str, People]], *, pelvis: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz that `codistill eval human-mesh` scores.

    Args:
        people: (name of the image, people of that image) pairs, with meshes; in px that the true people have too.
        pelvis: number of the pelvis among the joints.

    Returns:
        image (P,), joints2d (P, K, 2) px, vertices (P, V, 3) m, root (P, 3) m.

    Raises:
        InvalidInput: no images.
    """
    if not people:
        raise InvalidInput("predictions: no images")
    names = [name for name, found in people for _ in range(len(found))]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([found.value(name).cpu().numpy() for _, found in people])

    joints = joined("j3d")
    return {
        "image": np.array(names, dtype=np.str_),
        "joints2d": joined("j2d"),
        "vertices": joined("v3d"),
        "root": joints[:, pelvis],
    }


def _plain(values: "Tensor | np.ndarray") -> Any:
    """Return nested lists of numbers, with None for what is not finite."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [_plain(part) for part in array] if array.ndim else None
    return array.tolist()
