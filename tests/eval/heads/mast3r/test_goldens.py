"""Outputs of the pair model against those of the authors' code, within the tolerances stated with the numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.heads import mast3r
from eval.heads.mast3r import layout
from eval.heads.mast3r.activations import Activations, activate
from eval.heads.mast3r.dpt import HeadSizes, PairHead
from eval.heads.mast3r.encoders import STUDENT_NORM_EPS, StudentPairEncoder
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.sizes import PairSizes
from tests.eval.heads.mast3r.goldens import GOLDEN, PAIR, PAIR_HEADS, read, tiny_student

TOLERANCE = {"pts3d": (5e-5, 2e-5), "conf": (5e-5, 1e-5), "desc_conf": (5e-5, 1e-5), "desc": (1e-4, 0.0)}


def check_view(outputs: dict[str, Tensor], golden: dict[str, Tensor], prefix: str) -> None:
    for name, maps in outputs.items():
        expected = golden[f"{prefix}.{name}"]
        atol, rtol = TOLERANCE[name.removesuffix("_in_other_view")]
        torch.testing.assert_close(maps[:, ::3, ::3], expected, atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def pair() -> PairModel:
    torch.set_num_threads(1)
    return mast3r.load(PAIR, **PAIR_HEADS)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read("mast3r_pair.io")


def test_tokens_and_raw_maps(pair: PairModel, golden: dict[str, Tensor]) -> None:
    views = [golden[f"input.square.view{view}.image_u8"].permute(0, 2, 3, 1) for view in (1, 2)]
    for number, (entries, raw) in enumerate(
        zip(pair.mast3r.view_entries(*map(pair.encode, views)), pair.raw(*views), strict=True), start=1
    ):
        for hook, tokens in enumerate(entries):
            expected = golden[f"output.square.view{number}.tokens_hook{hook}"]
            torch.testing.assert_close(tokens, expected, atol=5e-5, rtol=0)
        torch.testing.assert_close(
            raw[:, :, ::3, ::3], golden[f"output.square.view{number}.dpt_raw"], atol=5e-5, rtol=0
        )


def test_a_landscape_with_a_portrait(pair: PairModel, golden: dict[str, Tensor]) -> None:
    views = [golden[f"input.mixed_pair.view{view}.image_u8"].permute(0, 2, 3, 1).numpy() for view in (1, 2)]
    one, two = pair(*views)
    check_view(one, golden, "output.mixed_pair.view1")
    check_view(two, golden, "output.mixed_pair.view2")


@pytest.mark.parametrize("symmetrised", [False, True])
def test_portraits_stored_transposed_in_one_batch(
    pair: PairModel, golden: dict[str, Tensor], symmetrised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = golden["input.train_mixed.images_u8"].permute(0, 2, 3, 1)
    shapes, other = golden["input.train_mixed.true_shape_hw"], [1, 0, 3, 2]
    assert mast3r.is_symmetrised(list("abcd"), ["abcd"[i] for i in other])
    encoded = []
    encode = pair.encoder.forward
    monkeypatch.setattr(pair.encoder, "forward", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    one, two = pair(
        images, images[other], true_shape1=shapes, true_shape2=shapes[other].tolist(), symmetrised=symmetrised
    )
    assert sum(encoded) == (4 if symmetrised else 8)
    check_view(one, golden, "output.train_mixed.view1")
    check_view(two, golden, "output.train_mixed.view2")


def test_head_and_norm_on_a_student() -> None:
    golden, weights = read("dunemast3r_head.io"), read("dunemast3r_head")
    sizes = HeadSizes(patch_size=14, layer_dims=(4, 8, 16, 32), feature_dim=12, last_dim=6, desc_dim=3, desc_hidden=96)
    head = PairHead(enc_embed_dim=48, dec_embed_dim=16, sizes=sizes)
    state = layout.completed(layout.state_dicts.select(weights, "mast3r."), plain=False, source="golden")
    absent = head.load_state_dict(layout.state_dicts.select(state, "downstream_head1."), strict=False)
    assert {name.split(".")[3] for name in absent.missing_keys} == {"resConfUnit1"}  # of the coarsest step: unused
    entries = [golden[f"output.square.view1.tokens_hook{hook}"] for hook in range(4)]
    with torch.no_grad():
        raw, described = head(entries, (4, 4))
    torch.testing.assert_close(raw, golden["output.square.view1.dpt_raw"], atol=5e-5, rtol=0)
    check_view(activate(raw, described, Activations()), golden, "output.square.view1")
    norm = torch.nn.LayerNorm(48, eps=STUDENT_NORM_EPS)
    norm.load_state_dict({name: weights[f"norm.{name}"] for name in ("weight", "bias")})
    torch.testing.assert_close(norm(golden["input.norm_probe"]), golden["output.norm_probe"], atol=5e-5, rtol=0)


@pytest.mark.parametrize(("name", "channels"), [("base", 768), ("small", 384)])
def test_names_and_shapes_of_the_released_files(name: str, channels: int) -> None:
    with torch.device("meta"):
        student = StudentPairEncoder(tiny_student(channels))
        model = PairModel(student, PairSizes(enc_embed_dim=channels).build(), Activations(), student=True)
    own = model.state_dict()
    ours = {theirs: tuple(own[name].shape) for name, theirs in layout.released_names(model).items()}
    ours |= {name: tuple(tensor.shape) for name, tensor in layout.unused_shapes(model).items()}
    assert ours == listed(GOLDEN / "keys" / f"dunemast3r_cvpr25_vit{name}.pth.model.txt")


def listed(path: Path) -> dict[str, tuple[int, ...]]:
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: tuple(map(int, shape.split("x"))) for name, shape in lines}
