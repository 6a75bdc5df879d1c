"""Golden values, and checkpoint files of exactly the released layouts, written by the tests that read them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from extract.teachers import Teacher
from extract.teachers.loading import load

GOLDEN = Path(__file__).parents[2] / "golden" / "teachers"
ATOL = 5e-5
HEADS = {"multihmr": 3}  # 48 channels; the other two have 64 channels a head, as released models do
WEIGHTS = {"dinov2": "dinov2_reg", "multihmr": "multihmr", "mast3r": "mast3r"}
CONSTRUCTOR = "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512))"


def golden(name: str) -> dict[str, Tensor]:
    """Inputs and outputs of the authors' code."""
    return load_file(GOLDEN / f"{name}.io.safetensors")


def golden_pixels(io: dict[str, Tensor]) -> Tensor:
    """The golden images as a cache stores them: uint8 (B, H, W, 3)."""
    return io["input.image_u8"].permute(0, 2, 3, 1).contiguous()


def golden_weights(model: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{WEIGHTS[model]}.safetensors")


def released(model: str, weights: dict[str, Tensor], *, prefix: str = "") -> Any:
    """Wrap weights as the authors' files do: nested, with a Namespace that holds schedules as numpy arrays."""
    weights = {prefix + name: tensor for name, tensor in weights.items()}
    args = Namespace(lr=3e-4, lr_schedule=np.linspace(0, 3e-4, 7), best=np.float64(0.5), betas=(0.9, 0.99), out=None)
    if model == "dinov2":
        return weights
    if model == "multihmr":
        return {"model_state_dict": weights, "args": args, "epoch": 3, "iter": np.int64(120_000)}
    args.model = CONSTRUCTOR
    heads = {f"downstream_head{n}.dpt.act_postprocess.0.0.weight": torch.randn(4, 8, 1, 1) for n in (1, 2)}
    return {"model": weights | heads, "args": args}


def write(path: Path, model: str, *, prefix: str = "") -> Path:
    """Write the golden weights of a model as its authors would have."""
    torch.save(released(model, golden_weights(model), prefix=prefix), path)
    return path


def golden_teacher(model: str, folder: Path, **options: Any) -> Teacher:
    """Load a golden teacher through the public interface, from a file of the released layout."""
    weights = write(folder / f"{model}.pth", model)
    return load(model, weights=weights, num_heads=HEADS.get(model), **options)


def error(computed: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert computed.shape == expected.shape
    return float((computed.detach() - expected.detach()).abs().max())


def full_size_state(name: str) -> dict[str, Tensor]:
    """Tensors of a released model's names and shapes, all views of one small random storage.

    So a 2.8 GB checkpoint takes 17 MB, on disk too.
    """
    lines = (GOLDEN / "keys" / f"{name}.txt").read_text().splitlines()
    shapes = {
        key: tuple(map(int, shape.split("x")))
        for key, shape in (line.split("\t") for line in lines if not line.startswith("#"))
    }
    pool = 0.02 * torch.randn(max(int(np.prod(shape)) for shape in shapes.values()))
    return {key: pool[: int(np.prod(shape))].view(shape) for key, shape in shapes.items()}
