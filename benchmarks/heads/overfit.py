"""Does the decoder learn? It is trained on a frozen student and a few pairs until it knows them by heart.

    python -m benchmarks.heads.overfit --student demo/run

Eight ray-cast pairs, and the stereo motorcycle reduced to the same size. What is measured is measured **on the pairs of
the training**: it shows that model, losses and correspondences fit together, and nothing about new scenes. Beside it
stand the mean training map and matching of normalised 9 x 9 patches. Shapes: H W pixels.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import describe
from eval.heads.geometry.two_views import match_views, two_view_pose
from eval.heads.mast3r.correspondences import mutual_pixels
from eval.heads.mast3r.encoders import open_student
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.train import begin, train_mast3r
from eval.heads.matching import exhaustive
from eval.heads.pairs import PLAIN, Mixture, Pair, prepare
from eval.heads.pairs.geometry import inverse_pose, transform, world_points
from eval.heads.pairs.matches import posed
from eval.heads.pairs.motorcycle import MotorcyclePair
from eval.heads.pairs.raycast import RayCastPairs, textures
from eval.heads.recipes.mast3r import laptop
from store.common.config import parse

CLOSE_PX = 2.0
PATCH_RADIUS_PX = 4


class KeptPairs:
    """Pairs in memory."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """See `PairDataset.pair`."""
        return self.pairs[index]


def main(
    student: Path = Path("demo/run"),
    rooms: int = 8,
    motorcycle: bool = True,
    steps: int = 300,
    batch: int = 3,
    size: tuple[int, int] = (112, 84),
    lr: float = 1e-3,
    seed: int = 0,
    out: Path = Path("benchmarks/results/heads_overfit.json"),
) -> dict[str, Any]:
    """Train, measure and report.

    Args:
        student: run directory or encoder file.
        rooms: number of ray-cast pairs.
        motorcycle: add the stereo motorcycle.
        steps: optimizer steps.
        batch: pairs of a step, each in both orders.
        size: (width, height) in px.
        lr: highest learning rate.
        seed: of rooms, weights and order.
        out: JSON file to write.
    """
    torch.set_num_threads(1)
    pairs = KeptPairs(_pairs(rooms, motorcycle=motorcycle, size=size, seed=seed))
    changes = {"steps": steps, "batch": batch, "part": batch, "resolutions": [size], "seed": seed}
    base = laptop()
    values = {**base.model_dump(), **changes, "optim": {**base.optim.model_dump(), "lr": lr}}
    recipe = parse(type(base), values, subject="recipe")
    model = begin(recipe, open_student(student))
    losses: list[dict[str, float]] = []

    def note(kind: str, record: Any) -> None:
        if kind == "step":
            losses.append({name: record["losses"][name] for name in ("regression_1", "regression_2", "matching")})

    began_s = time.perf_counter()
    with TemporaryDirectory() as folder:
        mixture = Mixture(datasets=[pairs], pairs=[len(pairs)])
        train_mast3r(recipe, model=model, mixture=mixture, out=Path(folder) / "run", listener=note)
    seconds = time.perf_counter() - began_s
    mean_map = np.mean([in_first_camera(pair) for pair in pairs.pairs], axis=0)
    measured = [measure(model.eval(), pair, mean_map) for pair in pairs.pairs]
    names = [name for name, value in measured[0].items() if isinstance(value, float)]
    report = {
        "benchmark": "heads.overfit",
        "machine": describe(("torch", "numpy", "cv2")),
        "recipe": recipe.model_dump(mode="json"),
        "student": student.name,
        "train_s": seconds,
        "losses": {"first": losses[0], "last": losses[-1]},
        "chance_matching_loss": 2 * float(np.log(recipe.loss.matches)),
        "pairs": measured,
        "means": {name: float(np.mean([pair[name] for pair in measured])) for name in names},
        "medians": {name: float(np.median([pair[name] for pair in measured])) for name in names},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key not in ("machine", "recipe")}, indent=1))
    return report


def _pairs(rooms: int, *, motorcycle: bool, size: tuple[int, int], seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    dataset = RayCastPairs(name="rooms", seed=seed, size=size, pyramids=textures(None), overlap=(0.5, 0.9))
    pairs = [dataset.pair(index, rng) for index in range(rooms)]
    return [*pairs, prepare(MotorcyclePair().pair(0, rng), size, rng, PLAIN)] if motorcycle else pairs


def in_first_camera(pair: Pair) -> np.ndarray:
    """Return the true points of both views in the first camera, (2, H, W, 3)."""
    inward = inverse_pose(pair[0].camera_pose)
    return np.stack([transform(inward, world_points(view)) for view in pair])


@torch.inference_mode()
def measure(model: PairModel, pair: Pair, mean_map: np.ndarray) -> dict[str, Any]:
    """Return errors of a pair, in percent of the mean distance, percent of pixels, and degrees.

    Args:
        model: model in evaluation mode.
        pair: views of one size.
        mean_map: mean of the true points of the training, (2, H, W, 3), in the first camera.
    """
    one, two = model(*(torch.from_numpy(view.image[None].copy()) for view in pair))
    predicted = np.stack([one["pts3d"][0].numpy(), two["pts3d_in_other_view"][0].numpy()])
    true, valid = in_first_camera(pair), np.stack([view.valid for view in pair])
    distance = np.linalg.norm(true, axis=-1)[valid].mean()

    def error(points: np.ndarray) -> float:
        return float(100 * np.linalg.norm(points - true, axis=-1)[valid].mean() / distance)

    here, there = mutual_pixels(posed(pair[0]), posed(pair[1]), clip=False)
    matches = match_views(one, two, subsample=4)
    pose = two_view_pose(matches, pair[0].intrinsics, pair[1].intrinsics)
    motion = inverse_pose(pair[1].camera_pose) @ pair[0].camera_pose
    turn = pose.rotation.T @ motion[:3, :3]
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))) if not pose.failure else 180.0
    identity = float(np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))))
    return {
        "pair": f"{pair[0].dataset}/{pair[0].label}",
        "points_error_percent": error(predicted),
        "points_error_of_mean_map_percent": error(mean_map),
        "within_2px_percent": close(one["desc"][0], two["desc"][0], here, there),
        "within_2px_of_patches_percent": close(patches(pair[0].image), patches(pair[1].image), here, there),
        "pnp_rotation_degrees": degrees,
        "rotation_of_identity_degrees": identity,
        "translation_error_m": float(np.linalg.norm(pose.translation - motion[:3, 3]))
        if not pose.failure
        else float(np.linalg.norm(motion[:3, 3])),
        "inliers": int(pose.inliers.sum()),
        "matches": len(matches.pixels1),
    }


def close(desc1: Tensor, desc2: Tensor, here: np.ndarray, there: np.ndarray) -> float:
    """Return the percentage of matching pixels whose nearest neighbour in view 2 is within 2 px of the true one."""
    width = desc2.shape[1]
    nearest, _ = exhaustive(desc1, desc2)
    found = nearest.reshape(desc1.shape[:2])[here[:, 1], here[:, 0]]
    pixels = np.stack([found % width, found // width], axis=1)
    return float(100 * (np.linalg.norm(pixels - there, axis=1) <= CLOSE_PX).mean())


def patches(image: np.ndarray) -> Tensor:
    """Return the normalised 9 x 9 patch of grey values around each pixel, (H, W, 81)."""
    grey = torch.from_numpy(image.astype(np.float32)).mean(-1)[None, None]
    side = 2 * PATCH_RADIUS_PX + 1
    padded = functional.pad(grey, (PATCH_RADIUS_PX,) * 4, mode="reflect")
    flat = functional.unfold(padded, side)[0].T.reshape(*image.shape[:2], side**2)
    return functional.normalize(flat - flat.mean(-1, keepdim=True), dim=-1)


if __name__ == "__main__":
    tyro.cli(main)
