"""Images and folders that tests make for themselves."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from backbones.timm_library import timm
from extract.__main__ import main


def picture(seed: int, *, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth coloured picture, uint8 (height, width, 3), from integer arithmetic alone: the same everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [
        (x * (3 + seed % 5) + y * (2 + c) + (x * y * (1 + c + seed % 3)) // 64 + 40 * seed) % 512 for c in range(3)
    ]
    folded = [np.where(channel > 255, 511 - channel, channel) for channel in channels]
    return np.stack(folded, axis=-1).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def image_folder(folder: Path, count: int, *, kind: str = "PNG") -> Path:
    """A folder of `count` pictures of different sizes, some in subfolders."""
    for number in range(count):
        path = folder / f"part{number % 3}" / f"{number:03d}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, height=48 + number % 7, width=64 + number % 5), kind))
    return folder


def teacher_weights(path: Path, *, seed: int) -> Path:
    """Random weights of timm's tiny `test_vit` in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("test_vit", pretrained=False)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def small_catalogue(
    folder: Path, *, datasets: str | None = None, teachers: str | None = None, recipe: str = ""
) -> Path:
    """A catalogue over `folder`/images, with one teacher `first`, 28 px and shards of 8 rows, and `recipe` lines."""
    if teachers is None:
        teacher_weights(folder / "first.safetensors", seed=1)
        teachers = teacher_entry("first")
    sizes = f"[recipe]\nimage_size = 28\nshard_rows = 8\n{recipe}\n"
    text = f"{sizes}{datasets or dataset_entry('pictures')}\n{teachers}\n"
    path = folder / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    return path


def dataset_entry(name: str, options: str = "views = 2") -> str:
    """One `[[dataset]]` over the folder `images`."""
    return f'[[dataset]]\nname = "{name}"\ngroup = "generic"\nroot = "images"\n{options}\n'


def teacher_entry(name: str, options: str = 'model = "timm:test_vit"') -> str:
    """One `[[teacher]]` with weights in `<name>.safetensors`."""
    return f'[[teacher]]\nname = "{name}"\nweights = "{name}.safetensors"\ngroups = ["generic"]\n{options}\n'


def run_extract(*arguments: object) -> int:
    """`codistill extract run ...` in this process; its exit code."""
    return main(["run", *map(str, arguments)])


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
