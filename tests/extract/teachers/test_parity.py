"""Every golden output of the authors' code, through the public interface and from files of the released layout."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from backbones.images import normalise
from extract.teachers.croco import CrocoEncoder, rotary_table
from extract.teachers.dinov2 import DinoTeacher
from extract.teachers.loading import load
from tests.extract.teachers.builders import ATOL, GOLDEN, error, golden, golden_pixels, golden_teacher, golden_weights

E2E = GOLDEN.parent / "train" / "dune_e2e.io.safetensors"
E2E_NAMES = {
    "dinov2": "dino2reg_vitlarge_14",
    "mast3r": "mast3r_vitlarge_16",
    "multihmr": "multihmr_vitlarge_14_672",
}


@pytest.mark.parametrize("name", ["dinov2_reg", "mast3r", "multihmr"])
def test_normalisation(name: str) -> None:
    io = golden(name)
    assert error(normalise(golden_pixels(io))[..., :4, :4], io["input.image_probe"]) < 1e-6


@pytest.mark.parametrize("rule", ["dune", "hub"])
def test_dinov2_with_registers(tmp_path: Path, rule: str) -> None:
    io = golden("dinov2_reg")
    teacher = golden_teacher("dinov2", tmp_path, rule=rule)
    pixels = golden_pixels(io)
    prefix, patches = teacher(pixels)

    assert teacher.patch_grid(336, 336) == (24, 24)
    assert error(prefix[:, 0], io[f"output.{rule}.x_norm_clstoken"]) < ATOL
    if rule == "dune":
        assert error(patches, io["output.dune.x_norm_patchtokens"]) < ATOL
    else:
        assert error(patches[:1], io["output.hub.x_norm_patchtokens_img0"]) < ATOL

    assert isinstance(teacher, DinoTeacher)
    images = normalise(pixels)
    with torch.no_grad():
        registers = teacher.vit.split(teacher.vit(images))[1]
        first = teacher.vit.embed(images[:1])[..., :16]
    assert error(registers, io[f"output.{rule}.x_norm_regtokens"]) < ATOL
    if rule == "hub":
        assert error(first, io["output.hub.tokens_before_blocks_img0_first16ch"]) < ATOL


def test_multihmr(tmp_path: Path) -> None:
    io = golden("multihmr")
    teacher = golden_teacher("multihmr", tmp_path)
    prefix, patches = teacher(golden_pixels(io))
    assert prefix.shape == (1, 0, 48)
    assert error(patches, io["output.dune.x_norm_patchtokens"]) < ATOL
    assert error(patches, io["output.multihmr.patch_tokens"]) < ATOL
    assert isinstance(teacher, DinoTeacher)
    with torch.no_grad():
        cls = teacher.vit(normalise(golden_pixels(io)))[:, 0]
    assert error(cls, io["output.dune.x_norm_clstoken"]) < ATOL


def test_mast3r(tmp_path: Path) -> None:
    io = golden("mast3r")
    teacher = golden_teacher("mast3r", tmp_path)
    pixels = golden_pixels(io)
    prefix, patches = teacher(pixels)
    assert prefix.shape == (2, 0, 128)
    assert error(patches, io["output.patch_tokens"]) < ATOL
    assert error(patches.mean(1), io["output.x_norm_clstoken_mean_of_patches"]) < ATOL

    prepared = teacher.prepare(pixels, (384, 384))
    assert error(prepared[..., :24, -24:], io["input.resized_half_norm_corner"]) < 1e-5
    assert isinstance(teacher.network, CrocoEncoder)
    embedded: list[torch.Tensor] = []
    first: list[torch.Tensor] = []
    teacher.network.patch_embed.register_forward_hook(lambda *call: embedded.append(call[-1]))
    teacher.network.blocks[0].register_forward_hook(lambda *call: first.append(call[-1]))
    teacher(pixels[:1])
    assert error(embedded[0][..., :16], io["output.patch_embed_img0_first16ch"]) < ATOL
    assert error(first[0][..., :16], io["output.block0_img0_first16ch"]) < ATOL


@pytest.mark.parametrize("model", E2E_NAMES)
def test_teachers_of_the_whole_objective(tmp_path: Path, model: str) -> None:
    """Images of 112 x 154 px: another grid, not square."""
    io = load_file(E2E)
    teacher = golden_teacher(model, tmp_path)
    prefix, patches = teacher(golden_pixels(io))
    raw = f"output.teacher_raw.{E2E_NAMES[model]}"
    assert teacher.patch_grid(112, 154) == (8, 11)
    assert error(patches[:1], io[f"{raw}.patch_img0"]) < ATOL
    if model == "dinov2":
        assert error(prefix[:, 0], io[f"{raw}.cls"]) < ATOL


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
@pytest.mark.parametrize("model", ["dinov2", "mast3r"])
def test_autocast_stays_close(tmp_path: Path, model: str, dtype: str, tolerance: float) -> None:
    """Relative RMS error: 1e-3 of float16's, 8e-3 of bfloat16's rounding; the tables of positions are float32."""
    io = load_file(E2E)
    pixels = golden_pixels(io)
    exact = golden_teacher(model, tmp_path)(pixels)[1]
    rough = golden_teacher(model, tmp_path, dtype=dtype)(pixels)[1]
    assert rough.dtype == torch.float32

    plain = golden_teacher(model, tmp_path)
    size = (8 * plain.patch_size, 11 * plain.patch_size)
    plain.fit(size)
    with torch.no_grad(), torch.autocast("cpu", dtype=getattr(torch, dtype)):
        by_autocast = plain.tokens(plain.prepare(pixels, size))[1]
    assert torch.equal(rough, by_autocast.float())
    assert 1e-5 < float((rough - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_and_residual_sum_stay_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    exact = rotary_table((3, 5), 64)
    encoder = golden_teacher("mast3r", tmp_path).network
    assert isinstance(encoder, CrocoEncoder)
    residual: list[torch.Tensor] = []
    encoder.blocks[-1].register_forward_hook(lambda *call: residual.append(call[-1]))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert torch.equal(rotary_table((3, 5), 64), exact)
        encoder(torch.zeros(1, 3, 48, 80))
    assert exact.dtype == residual[0].dtype == torch.float32


@pytest.mark.parametrize("model", E2E_NAMES)
def test_rows_do_not_depend_on_their_batch(tmp_path: Path, model: str) -> None:
    pixels = golden_pixels(load_file(E2E))
    teacher = golden_teacher(model, tmp_path)
    together = teacher(pixels)[1]
    alone = torch.cat([teacher(pixels[row : row + 1])[1] for row in range(len(pixels))])
    assert error(together, alone) < 1e-5


@pytest.mark.parametrize("model", E2E_NAMES)
def test_compiled_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Traced by torch.compile, without the slow code generation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    pixels = golden_pixels(load_file(E2E))[:2]
    compiled = golden_teacher(model, tmp_path, compile=True)
    assert compiled.provenance()["compile"]
    assert error(compiled(pixels)[1], golden_teacher(model, tmp_path)(pixels)[1]) < ATOL


def test_croco_takes_imagenet_normalisation(tmp_path: Path) -> None:
    """Same encoder as MASt3R's; what differs is the input."""
    pixels = golden_pixels(golden("mast3r"))[:1]
    mast3r = golden_teacher("mast3r", tmp_path)
    weights = golden_weights("mast3r") | {"prediction_head.proj.bias": torch.zeros(3)}
    torch.save({"croco_kwargs": {"pos_embed": "RoPE100"}, "model": weights}, tmp_path / "croco.pth")
    croco = load("croco", weights=tmp_path / "croco.pth")

    images = functional.interpolate(normalise(pixels), size=(384, 384), mode="bicubic", align_corners=True)
    with torch.no_grad():
        expected = mast3r.network(images)
    assert error(croco(pixels)[1], expected) < 1e-6
    assert croco.identity(336)["normalisation"] != mast3r.identity(336)["normalisation"]
