"""Endless synthetic pairs: a new room with boxes for every number, with exact depth, pose and camera.

A pair is a function of (seed, index). Textures are images that scikit-image ships, or those of a folder. Depth is that
of the ray through the pixel's centre; colours are the mean of several rays.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.heads.pairs.box_cameras import Camera, random_cameras, random_room
from eval.heads.pairs.box_scene import Boxes, cast, colours, pyramid
from eval.heads.pairs.files import Tree
from eval.heads.pairs.views import Pair, View, checked_view
from store.common.stateless_random import key
from store.errors import MissingExtra, MissingFile

ENDLESS_PAIRS = 2**40
SHIPPED_TEXTURES = (
    *("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "immunohistochemistry"),
    *("rocket", "text", "page", "coins"),
)
TEXTURE_PATTERNS = ("*.jpg", "*.jpeg", "*.png", "*.webp")
LARGEST_TEXTURE_PX = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class RayCastPairs:
    """Pairs of views of random rooms.

    Attributes:
        name: name of the dataset.
        seed: with the index, decides the pair.
        size: (width, height) of the images.
        pyramids: textures with their reductions, see `textures`.
        overlap: least and most share of view 1 that view 2 shows, too.
        samples: rays along each side of a pixel for its colour.
        count: number of pairs; endless by default.
    """

    name: str
    seed: int
    size: tuple[int, int]
    pyramids: list[list[Tensor]]
    overlap: tuple[float, float] = (0.3, 0.9)
    samples: int = 2
    count: int = ENDLESS_PAIRS

    def __len__(self) -> int:
        return self.count

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """See `PairDataset.pair`; `rng` is not used."""
        boxes, cameras = self.scene(index)
        first, second = (
            self.view(boxes, camera, instance=f"{index}/{number}") for number, camera in enumerate(cameras)
        )
        return first, second

    def scene(self, index: int) -> tuple[Boxes, tuple[Camera, Camera]]:
        """Return the room and the two cameras of a pair."""
        rng = np.random.default_rng(key("ray-cast pair", self.seed, index))
        boxes = random_room(rng, textures=len(self.pyramids))
        return boxes, random_cameras(boxes, rng, size=self.size, overlap=self.overlap)

    def view(self, boxes: Boxes, camera: Camera, *, instance: str) -> View:
        """Return what a camera sees of a room."""
        image, depth = render(boxes, camera, self.pyramids, samples=self.samples)
        return checked_view(
            image=image,
            depthmap=depth,
            camera_pose=camera.pose.numpy(),
            intrinsics=camera.intrinsics.numpy(),
            is_metric=True,
            dataset=self.name,
            label=instance.split("/")[0],
            instance=instance,
        )


@torch.no_grad()
def render(
    boxes: Boxes, camera: Camera, pyramids: list[list[Tensor]], *, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, uint8 (H, W, 3), and the depth, float32 (H, W), that a camera sees.

    Args:
        boxes: the room.
        camera: the camera.
        pyramids: textures with their reductions.
        samples: rays along each side of a pixel for its colour.
    """
    width, height = camera.size
    grid = torch.meshgrid(
        torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64), indexing="xy"
    )
    pixels = torch.stack([grid[0].flatten(), grid[1].flatten()], dim=1)
    depth = cast(boxes, camera.pose[:3, 3], camera.rays(pixels)).distance
    offsets = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
    total = torch.zeros(len(pixels), 3)
    for x in offsets:
        for y in offsets:
            hits = cast(boxes, camera.pose[:3, 3], camera.rays(pixels + torch.stack([x, y])))
            total += colours(boxes, hits, pyramids, hits.distance / camera.intrinsics[0, 0] / samples)
    image = (total / samples**2).round().clamp(0, 255).to(torch.uint8)
    return image.reshape(height, width, 3).numpy(), depth.reshape(height, width).float().numpy()


def textures(folder: Path | None) -> list[list[Tensor]]:
    """Return textures with their reductions.

    Args:
        folder: takes all images directly in it, in order of name; None takes those that scikit-image ships.

    Raises:
        MissingFile: no image in the folder.
        MissingExtra: scikit-image is not installed.
    """
    if folder is not None:
        tree = Tree(folder, subject="textures")
        names = sorted(name for pattern in TEXTURE_PATTERNS for name in tree.glob(pattern))
        if not names:
            raise MissingFile(f"textures: no image in '{folder}'. Expected {' '.join(TEXTURE_PATTERNS)}")
        return [texture(tree.image(name)) for name in names]
    try:
        from skimage import data
    except ImportError:
        raise MissingExtra("'skimage' is not installed. Run: pip install 'codistill[demo]'") from None
    return [texture(getattr(data, name)()) for name in SHIPPED_TEXTURES]


def texture(image: np.ndarray) -> list[Tensor]:
    """Return an image, uint8 (h, w) or (h, w, 3), as a texture of at most 1024 px with its reductions."""
    colour = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
    return pyramid(torch.from_numpy(colour[:LARGEST_TEXTURE_PX, :LARGEST_TEXTURE_PX].copy()).float())
