"""Each known mistake is made on purpose, and parity must break: the goldens see what reviews overlook."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from extract.teachers import Teacher, croco, mast3r
from extract.teachers.dinov2 import DinoTeacher
from tests.extract.teachers.builders import ATOL, error, golden, golden_pixels, golden_teacher

OUTPUT = {"dinov2": ("dinov2_reg", "output.dune.x_norm_patchtokens"), "mast3r": ("mast3r", "output.patch_tokens")}
Mistake = Callable[[pytest.MonkeyPatch, Teacher], None]


def tanh_gelu(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    for module in teacher.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def norm_epsilon(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    for module in teacher.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def size_based_positions(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    dino(teacher).pos_rule = "stage"


def hub_positions(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    dino(teacher).pos_rule = "hub"


def no_registers(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    dino(teacher).reg_token = None
    dino(teacher).prefix_tokens = 1


def no_layer_scale(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    for block in dino(teacher).blocks:
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()


def no_final_norm(_: pytest.MonkeyPatch, teacher: Teacher) -> None:
    teacher.network.norm = nn.Identity()


def clamped(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    exact = mast3r.renormalise
    monkeypatch.setattr(mast3r, "renormalise", lambda images: exact(images).clamp(-1, 1))


def corners_not_aligned(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(images, size=size, mode="bicubic", align_corners=False)

    monkeypatch.setattr(mast3r, "dune_resize", resize)


def no_renormalisation(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    monkeypatch.setattr(mast3r, "renormalise", lambda images: images)


def rope_axes_swapped(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    exact = croco.rotary_table

    def swapped(grid: tuple[int, int], head_dim: int, *, device: torch.device) -> Tensor:
        return exact(grid, head_dim, device=device).roll(head_dim // 4, dims=1)

    monkeypatch.setattr(croco, "rotary_table", swapped)


def rope_base(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    monkeypatch.setattr(croco, "ROPE_BASE", 10_000.0)


def rope_pairs_neighbours(monkeypatch: pytest.MonkeyPatch, _: Teacher) -> None:
    monkeypatch.setattr(croco, "pair_up", lambda projection, _: projection)


def dino(teacher: Teacher) -> nn.Module:
    assert isinstance(teacher, DinoTeacher)
    return teacher.vit


# model, mistake, and the error that it causes in the authors' code (about)
MISTAKES = [
    ("dinov2", tanh_gelu, 1e-3),
    ("mast3r", tanh_gelu, 6e-4),
    ("dinov2", norm_epsilon, 3e-2),
    ("mast3r", norm_epsilon, 1.4e-2),
    ("dinov2", hub_positions, 2.5),
    ("dinov2", size_based_positions, 1.3),
    ("dinov2", no_registers, 1.3),
    ("dinov2", no_layer_scale, 2.7),
    ("dinov2", no_final_norm, 3.3),
    ("mast3r", no_final_norm, 1.0),
    ("mast3r", clamped, 1e-2),
    ("mast3r", corners_not_aligned, 0.09),
    ("mast3r", no_renormalisation, 1.0),
    ("mast3r", rope_axes_swapped, 1.6),
    ("mast3r", rope_base, 1.7),
    ("mast3r", rope_pairs_neighbours, 1.0),
]


@pytest.mark.parametrize(
    ("model", "mistake", "size"), [pytest.param(*row, id=f"{row[0]}-{row[1].__name__}") for row in MISTAKES]
)
def test_mistake_breaks_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, mistake: Mistake, size: float
) -> None:
    name, output = OUTPUT[model]
    io = golden(name)
    teacher = golden_teacher(model, tmp_path)
    mistake(monkeypatch, teacher)
    deviation = error(teacher(golden_pixels(io))[1], io[output])
    assert deviation > 10 * ATOL
    assert deviation > 0.5 * size
