"""Overhead of DUNE's teachers over timm's bare network of the same size, measured in turns on the same pixels.

A teacher adds normalisation, its resize, its rule for position embeddings (MASt3R: rotary ones in every block), and the
check of every row on its way to float16. The bare network gets normalised pixels of its input size and ends with its
final norm, under the same autocast.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.train_data import SCALES, make_teachers, tokens_of
from extract.teachers.base import Teacher
from extract.teachers.runner import check_tokens

ROUNDS = 5


def overheads(scale: str, *, device: str, dtype: str, batch_size: int) -> dict[str, dict[str, float]]:
    """Return for each teacher the median seconds of a batch, those of the bare network, the overhead, and images/s.

    Args:
        scale: key of `benchmarks.train_data.SCALES`.
        device: cpu or cuda.
        dtype: dtype of the teachers' arithmetic.
        batch_size: images in a batch.
    """
    sizes, torch_device = SCALES[scale], torch.device(device)
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, sizes.image_size, sizes.image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(torch_device)
    results = {}
    for name, teacher in make_teachers(sizes, dtype=dtype, device=torch_device).items():
        bare = bare_network(teacher, sizes.teacher, image_size=sizes.image_size).to(torch_device)
        side = sizes.image_size // 14 * teacher.patch_size
        images = torch.randn(batch_size, 3, side, side, device=torch_device)
        forward = bare_forward(bare, images, dtype=dtype)
        times = in_turns(partial(checked_tokens, teacher, pixels), forward, torch_device)
        results[name] = times | {"images_per_second": batch_size / times["teacher_s"]}
    return results


def checked_tokens(teacher: Teacher, pixels: Tensor) -> None:
    """Do what the features stage does with a teacher for a batch uint8 (B, H, W, 3)."""
    check_tokens(tokens_of(teacher, pixels))


def bare_network(teacher: Teacher, sizes: tuple[int, int, int], *, image_size: int) -> nn.Module:
    """Return timm's ViT with the teacher's patch, tokens and widths, and random weights."""
    width, depth, heads = sizes
    rotary = teacher.model == "mast3r"
    network: nn.Module = VisionTransformer(
        img_size=image_size // 14 * teacher.patch_size,
        patch_size=teacher.patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        init_values=None if rotary else 1.0,
        class_token=not rotary,
        reg_tokens=4 if teacher.model == "dinov2" else 0,
        global_pool="avg" if rotary else "token",
    )
    return network.eval().requires_grad_(False)


def bare_forward(network: Any, images: Tensor, *, dtype: str) -> Callable[[], Any]:
    """Return a forward pass of the network on images (B, 3, H, W), with weights and arithmetic of `dtype`."""

    def autocast() -> AbstractContextManager[Any]:
        if dtype == "float32":
            return nullcontext()
        return torch.autocast(images.device.type, dtype=getattr(torch, dtype))

    def forward() -> Any:
        with torch.inference_mode(), autocast():
            return network.forward_features(images)

    return forward


def in_turns(ours: Callable[[], Any], bare: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the median seconds of both, called in turns after one call each to warm up."""
    times: dict[str, list[float]] = {"teacher_s": [], "bare_s": []}
    for round_number in range(ROUNDS + 1):
        for name, work in (("teacher_s", ours), ("bare_s", bare)):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["teacher_s"], times["bare_s"], strict=True)
    return {**medians, "overhead": statistics.median(ours / bare for ours, bare in pairs) - 1}
