"""Encoders whose tokens are known, and miniature datasets in every layout."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.encoders.open_encoder import OpenEncoder


class ColourNetwork:
    """Tokens are functions of a cell's colours: its mean, or which of red, green and blue is strongest."""

    def __init__(self, cell_px: int, *, one_hot: bool = False, cls: bool = True) -> None:
        self.cell_px = cell_px
        self.one_hot = one_hot
        self.cls = cls
        self.channels = 3
        self.calls = 0

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        batch, height, width, _ = pixels.shape
        rows, cols = height // self.cell_px, width // self.cell_px
        cells = pixels.float().reshape(batch, rows, self.cell_px, cols, self.cell_px, 3).mean((2, 4)) / 255
        patches = cells.reshape(batch, rows * cols, 3)
        if self.one_hot:
            patches = torch.nn.functional.one_hot(patches.argmax(-1), 3).float()
        return patches.mean(1, keepdim=True)[:, : int(self.cls)], patches


def colour_encoder(cell_px: int = 4, *, one_hot: bool = False, cls: bool = True, name: str = "colours") -> OpenEncoder:
    network = ColourNetwork(cell_px, one_hot=one_hot, cls=cls)
    identity = {"name": name, "cell_px": cell_px, "one_hot": one_hot, "cls": cls}
    return OpenEncoder(name=name, identity=identity, network=network, cell_px=cell_px, device=torch.device("cpu"))


def calls_of(encoder: OpenEncoder) -> int:
    assert isinstance(encoder.network, ColourNetwork)
    return encoder.network.calls


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def stripes(classes: np.ndarray, seed: int) -> np.ndarray:
    """(H, W, 3) picture in which class 0 is mostly red, 1 green, 2 blue, with some noise."""
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
    noise = np.random.default_rng(seed).integers(-20, 20, (*classes.shape, 3))
    return (colours[classes] + noise).astype(np.uint8)


def class_map(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W) classes 0-2 in blocks of 6 px, all three present."""
    blocks = np.random.default_rng(seed).integers(0, 3, (-(-height // 6), -(-width // 6)))
    blocks.flat[:3] = (0, 1, 2)
    return blocks.repeat(6, 0).repeat(6, 1)[:height, :width]


def colour_folders(root: Path, *, train: int = 6, test: int = 4) -> Path:
    """Three classes of one colour each in train/ and test/."""
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("apple", "leaf", "sky")):
            for number in range(count):
                pixels = stripes(np.full((12, 16), label), seed=100 * label + number + (1000 if split == "test" else 0))
                save(root / split / name / f"{number:03d}.png", pixels)
    return root


def camvid_tree(root: Path, *, images: int = 4, size: tuple[int, int] = (24, 36)) -> Path:
    """Colours as classes 0-2 and one column of void (11) in train/ and test/."""
    for split, first in (("train", 0), ("test", 100)):
        for number in range(first, first + images):
            classes = class_map(*size, seed=number)
            labels = classes.astype(np.uint8)
            labels[:, 5] = 11
            save(root / split / "images" / f"{number:04d}.png", stripes(classes, seed=number))
            save(root / split / "labels" / f"{number:04d}.png", labels)
    return root
