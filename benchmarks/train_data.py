"""Data of the benchmark of training: random teachers, smooth random pixels, caches of both in float16 and in codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

import store
from backbones import dino
from backbones.vit import DinoVisionTransformer
from benchmarks.noise import manifest_of_noise
from extract.teachers.base import Teacher
from extract.teachers.croco import CrocoEncoder
from extract.teachers.dinov2 import DinoTeacher
from extract.teachers.mast3r import CrocoTeacher
from extract.teachers.options import Request
from store.compact.compact import compact
from store.format.schema import PIXELS

SHARD_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of the views (px), of the teachers (embed_dim, depth, num_heads), the student's recipe and the batch."""

    image_size: int
    teacher: tuple[int, int, int]
    recipe: str
    batch: int


SCALES = {
    "full": Scale(image_size=336, teacher=(1024, 24, 16), recipe="dune-base-336", batch=2),
    "small": Scale(image_size=56, teacher=(64, 2, 1), recipe="tiny", batch=6),
}


def make_teachers(sizes: Scale, *, dtype: str, device: torch.device) -> dict[str, Teacher]:
    """Build DUNE's three teachers with random weights."""
    width, depth, heads = sizes.teacher
    torch.manual_seed(0)
    requests = {
        name: Request.model_validate({"model": name, "weights": "random", "dtype": dtype})
        for name in ("dinov2", "multihmr", "mast3r")
    }
    teachers: dict[str, Teacher] = {}
    for name, registers in (("dinov2", 4), ("multihmr", 0)):
        network = DinoVisionTransformer(
            embed_dim=width, depth=depth, num_heads=heads, register_tokens=registers, layer_scale=1.0
        )
        architecture = dino.infer(network.state_dict(), num_heads=heads, source="random weights")
        teachers[name] = DinoTeacher(
            network, request=requests[name], architecture=architecture, keep_cls=name == "dinov2"
        )
    encoder = CrocoEncoder(embed_dim=width, depth=depth, num_heads=heads, patch_size=16, mlp_hidden=4 * width)
    teachers["mast3r"] = CrocoTeacher(encoder, request=requests["mast3r"], architecture={})
    return {name: teacher.place_on(device) for name, teacher in sorted(teachers.items())}


def tokens_of(teacher: Teacher, pixels: Tensor) -> Tensor:
    """Return prefix and patches (B, P + N, C) in float32."""
    return torch.cat(teacher(pixels), dim=1)


def build_cache(location: Path, teachers: dict[str, Teacher], sizes: Scale, *, rows: int, batch: int) -> None:
    """Write a sealed cache of smooth random pixels and the teachers' tokens of them."""
    cache = store.create(location, {"image_size": sizes.image_size, "shard_rows": SHARD_ROWS})
    paths = [f"{row}.png" for row in range(rows)]
    numbers = pa.array(range(rows), pa.int64())
    images = pa.table({"image_index": numbers, "path": paths, "bytes": numbers})
    dataset = cache.create_dataset("noise", images=images, group="all", split="train", mode="train", views=1)
    grid = sizes.image_size // 14
    for name, teacher in teachers.items():
        dataset.create_teacher(
            name,
            identity={"random": name},
            groups=["all"],
            patch_grid=(grid, grid),
            prefix_tokens=teacher.prefix_tokens,
            channels=teacher.channels,
        )
    for shard in range(dataset.shards):
        shard_rows = dataset.shard_rows_of(shard)
        pixels = _noise(len(shard_rows), sizes.image_size, seed=shard)
        with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
            for view in pixels.numpy():
                writer.append(view)
            writer.finish(manifest=manifest_of_noise(shard_rows))
        digest = dataset.read_trailer(PIXELS, shard).digest
        for name, teacher in teachers.items():
            with dataset.write_shard(name, shard, provenance={}, pixels_digest=digest) as writer:
                for part in torch.split(pixels, batch):
                    for row in tokens_of(teacher, part).half().cpu().numpy():
                        writer.append(row)
                writer.finish()
    store.seal(cache)


def _noise(count: int, size: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    fine = 0.1 * torch.rand(count, 3, size, size, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return ((smooth + fine).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def coded_caches(location: Path, ratios: Sequence[float]) -> dict[float, Path]:
    """Return where caches of the same rows in codes lie beside a cache, by ratio; those that are not there are made.

    Codes are rotations: few rows calibrate them, and decoding takes at least the products of a basis of components.
    """
    places = {ratio: location.with_name(f"{location.name}-{ratio:g}x") for ratio in ratios}
    for ratio, place in places.items():
        compact(str(location), str(place), ratio=ratio, basis="rotation")
    return places
