"""Golden numbers of the human perception head: the authors' code on a tiny model with random weights."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from eval.heads.body import rotations

FOLDER = Path(__file__).parents[3] / "golden" / "heads"
WEIGHTS = FOLDER / "hph.safetensors"
SIZES = {
    "embed_dim": 32,
    "img_size": 112,
    "num_betas": 10,
    "dim": 48,
    "depth": 2,
    "heads": 3,
    "mlp_dim": 56,
    "dim_head": 8,
}


@cache
def numbers() -> dict[str, Tensor]:
    return load_file(FOLDER / "hph.io.safetensors")


def losses() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "hph_losses.json").read_text())
    return content


def keys(name: str) -> list[str]:
    lines = (FOLDER / "keys" / name).read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


class LinearBody:
    """The stand-in body of the goldens: linear in shape, expression and axis-angle pose."""

    rotations, shape_numbers, expression_numbers, pelvis, head = 53, 10, 10, 0, 15
    faces = np.array([[0, 1, 2], [3, 4, 5]])

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts

    def __call__(self, matrices: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        pose = rotations.to_vector(matrices).flatten(1)

        def combine(terms: dict[str, Tensor], start: Tensor) -> Tensor:
            for name, values in terms.items():
                start = start + torch.einsum("vck,pk->pvc", self.parts[name], values)
            return start

        vertices = combine({"bv": shape, "ev": expression, "pv": pose}, self.parts["tv"])
        return vertices, combine({"bj": shape, "pj": pose}, self.parts["tj"])


def linear_body() -> LinearBody:
    prefix = "input.fake_body."
    return LinearBody({name.removeprefix(prefix): t for name, t in numbers().items() if name.startswith(prefix)})
