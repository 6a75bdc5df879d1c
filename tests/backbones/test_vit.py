"""The DINOv2-type transformer: position rules, shapes, gated MLP, taps."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from backbones import dino
from backbones.position import PositionRule, resample_pos_embed
from backbones.vit import DinoVisionTransformer
from store.errors import InvalidInput
from tests.extract.teachers.builders import ATOL, GOLDEN, error, golden, golden_weights

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 2, "pos_grid": (4, 4)}


def cubic(distance: float) -> float:
    """PyTorch's bicubic kernel, a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def axis_weights(stored: int, wanted: int, scale: float) -> np.ndarray:
    """Rows of bicubic weights (wanted, stored), written out by hand."""
    weights = np.zeros((wanted, stored))
    for i in range(wanted):
        centre = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(tap, 0), stored - 1)] += cubic(centre - tap)
    return weights


@pytest.mark.parametrize("grid", [(3, 5), (6, 4), (9, 16)])
@pytest.mark.parametrize("rule", ["dune", "stage"])
def test_position_rules_by_hand(rule: PositionRule, grid: tuple[int, int]) -> None:
    stored = (5, 6)
    table = torch.randn(1, 1 + 30, 3)
    offset = 0.1 if rule == "dune" else 0.0
    rows, cols = (axis_weights(s, g, (g + offset) / s) for s, g in zip(stored, grid, strict=True))
    expected = np.einsum("ra,cb,abk->rck", rows, cols, table[0, 1:].reshape(5, 6, 3).numpy())
    resampled = resample_pos_embed(table, grid, rule=rule, stored_grid=stored)
    assert error(resampled[0, 1:], torch.tensor(expected, dtype=torch.float32).flatten(0, 1)) < 1e-5
    assert torch.equal(resampled[:, 0], table[:, 0])


def test_position_goldens() -> None:
    stage = load_file(GOLDEN.parent / "train" / "dune_pos_resize.io.safetensors")
    assert error(resample_pos_embed(stage["input.pos_embed"], (32, 32), rule="stage"), stage["output.pos_embed"]) < 1e-6
    table, io = golden_weights("dinov2")["pos_embed"][..., :16], golden("dinov2_reg")
    for rule in ("dune", "hub"):
        resampled = resample_pos_embed(table, (24, 24), rule=rule)
        assert error(resampled, io[f"output.{rule}.pos_embed_first16ch"]) < 1e-6
    table = golden_weights("multihmr")["backbone.encoder.pos_embed"][..., :16]
    resampled = resample_pos_embed(table, (24, 24), rule="dune")
    assert error(resampled, golden("multihmr")["output.multihmr.pos_embed_first16ch"]) < 1e-6


def test_stored_grid_is_used_as_it_is() -> None:
    table = torch.randn(1, 17, 8)
    for rule in ("dune", "hub", "stage"):
        assert torch.equal(resample_pos_embed(table, (4, 4), rule=rule), table)
    assert not torch.equal(resample_pos_embed(table, (2, 8), rule="dune"), table)  # as many patches, another shape
    with pytest.raises(InvalidInput, match="16 patches"):
        resample_pos_embed(table, (4, 4), rule="dune", stored_grid=(3, 5))


def test_taps_and_norm() -> None:
    model = DinoVisionTransformer(**TINY, register_tokens=3, layer_scale=1e-4).eval()
    images = torch.randn(2, 3, 42, 70)
    last, (second, first) = model.forward_tokens(images, taps=(1, 0))
    assert last.shape == (2, 1 + 3 + 15, 64)
    assert torch.equal(last, second)
    assert not torch.equal(first, second)
    assert torch.equal(model(images), model.norm(last))
    cls, registers, patches = model.split(last)
    assert (cls.shape[1], registers.shape[1], patches.shape[1]) == (1, 3, 15)
    assert torch.equal(torch.cat([cls, registers, patches], 1), last)
    with pytest.raises(InvalidInput, match="block numbers from 0 to 1"):
        model.forward_tokens(images, taps=(2,))
    with pytest.raises(InvalidInput, match="multiples of the patch size 14"):
        model(torch.randn(1, 3, 42, 71))


def test_checkpointing_changes_no_gradient() -> None:
    model = DinoVisionTransformer(**TINY, layer_scale=0.1)
    images = torch.randn(1, 3, 28, 28)
    gradients = []
    for on in (False, True):
        model.grad_checkpointing = on
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_gated_mlp_of_the_giant() -> None:
    """DINOv2's giant names it w12 and w3: value = w12's second half, gated by the SiLU of the first."""
    model = DinoVisionTransformer(**TINY, swiglu=True, mlp_hidden=2 * 88, layer_scale=1.0)
    original = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    built, architecture = dino.build(original, num_heads=2, source="giant")
    assert architecture.swiglu
    assert architecture.mlp_hidden == 176
    tokens = torch.randn(1, 5, 64)
    gate, value = functional.linear(tokens, original["blocks.0.mlp.w12.weight"]).chunk(2, -1)
    expected = functional.linear(functional.silu(gate) * value, original["blocks.0.mlp.w3.weight"])
    assert error(built.blocks[0].mlp(tokens), expected) < 1e-5


def test_timm_alone_gives_the_same_tokens() -> None:
    """At the stored grid timm's own class agrees, once CLS's position is folded into CLS."""
    ours = DinoVisionTransformer(**TINY, register_tokens=2, layer_scale=0.5).eval()
    torch.nn.init.normal_(ours.cls_token)
    state: dict[str, Tensor] = dict(ours.state_dict())
    state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    state["pos_embed"] = state["pos_embed"][:, 1:]
    theirs = VisionTransformer(
        img_size=56, patch_size=14, embed_dim=64, depth=2, num_heads=2, num_classes=0, init_values=0.5,
        reg_tokens=2, no_embed_class=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        assert error(ours(images), theirs.forward_features(images)) < ATOL
