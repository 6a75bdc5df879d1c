"""Reads the goldens: numbers of the original authors' code on tiny models with random weights."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from backbones.images import normalise
from train.run.dune_checkpoint import DuneCheckpoint, load

FOLDER = Path(__file__).parents[1] / "golden" / "train"
CONFIG = json.loads((FOLDER / "CONFIG.json").read_text())
FEATURES_ATOL = 5e-5
LOSS_ATOL = 1e-6
# the goldens' teachers, sorted, and what they are called here
TEACHERS = {
    "dino2reg_vitlarge_14": "dinov2",
    "mast3r_vitlarge_16": "mast3r",
    "multihmr_vitlarge_14_672": "multihmr",
}


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def scalars(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def images(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) as the goldens store them -> what a network takes."""
    return normalise(pixels.permute(0, 2, 3, 1))


def max_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


def student() -> DuneCheckpoint:
    return load(FOLDER / "dune_student.safetensors", num_heads=CONFIG["dune_student"]["num_heads"])


def student_with_cls_for_all(folder: Path) -> DuneCheckpoint:
    """The same student, whose projectors predict a CLS token for every teacher (the file says who has one)."""
    weights = {name: value for name, value in tensors("dune_student").items() if "teacher_norms" not in name}
    save_file(weights, folder / "student.safetensors")
    return load(folder / "student.safetensors", num_heads=CONFIG["dune_student"]["num_heads"])
