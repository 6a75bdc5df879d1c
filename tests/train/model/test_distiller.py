"""The student as built from a recipe: shapes, initial weights, seeds, gradients everywhere, timm's ViTs."""

from typing import Any

import pytest
import torch

from store import TeacherInfo
from store.errors import InvalidInput
from tests.train.builders import teacher_info
from train.model.distiller import Distiller, build_distiller
from train.model.encoder import build_encoder, depth, has_cls, resize_position
from train.recipe.config import Projector, Student

TEACHERS = {"scene": teacher_info(channels=10, prefix_tokens=0), "generic": teacher_info(channels=6, prefix_tokens=1)}
TRANSFORMER = Projector()
SMALL = Student(architecture="tiny", embed_dim=32, depth=3, num_heads=2)


def build(
    student: Student = SMALL,
    projector: Projector = TRANSFORMER,
    *,
    teachers: dict[str, TeacherInfo] = TEACHERS,
    seed: int = 0,
    image_size: int = 56,
) -> Distiller:
    return build_distiller(
        student=student,
        projector=projector,
        teachers=teachers,
        image_size=image_size,
        patch_grid=(4, 4),
        seed=seed,
    )


KINDS: list[dict[str, Any]] = [
    {"kind": "tp"},
    {"kind": "tp", "blocks": 2, "layer_scale": None},
    {"kind": "sp", "last_hidden_dim": 24},
    {"kind": "lp", "hidden_dim": 16, "last_hidden_dim": 24, "which_blocks": (0, 2), "prenorm": True, "midnorm": True},
]


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("options", KINDS)
def test_every_trainable_parameter_learns_and_shapes_are_the_teachers(registers: int, options: dict[str, Any]) -> None:
    encoder = Student(architecture="tiny", embed_dim=32, depth=3, num_heads=2, registers=registers)
    model = build(encoder, Projector(**options))
    predictions = model(torch.randn(2, 3, 56, 56))
    assert list(predictions) == ["generic", "scene"]  # sorted, whatever order they were given in
    assert {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in predictions.items()} == {
        "generic": ((2, 1, 6), (2, 16, 6)),
        "scene": ((2, 0, 10), (2, 16, 10)),
    }
    torch.cat([part.flatten() for pair in predictions.values() for part in pair]).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert (without, frozen) == ([], ["encoder.norm.weight", "encoder.norm.bias"])


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build(seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(seed=7).state_dict(), build(seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.pos_embed"], other["encoder.pos_embed"])


def test_the_encoder_starts_as_the_released_one() -> None:
    state = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(8, 8)).state_dict()
    assert state["pos_embed"].shape == (1, 65, 192)
    for name in ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight"):
        assert float(state[name].std()) == pytest.approx(0.02, rel=0.03)
    for name in ("cls_token", "reg_token"):
        assert 0 < float(state[name].abs().max()) < 1e-5
    assert state["reg_token"].shape == (1, 4, 192)
    assert not state["blocks.0.attn.qkv.bias"].any()
    assert state["blocks.0.ls2.gamma"].unique().tolist() == pytest.approx([1e-4])
    assert state["patch_embed.proj.bias"].any()  # PyTorch's default


@pytest.mark.parametrize(
    ("name", "expected"), [("small", (384, 12, 6)), ("base", (768, 12, 12)), ("large", (1024, 24, 16))]
)
def test_sizes(name: str, expected: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        encoder = build_encoder(Student(architecture=name), pos_grid=(24, 24))
    assert (encoder.embed_dim, depth(encoder), encoder.num_heads) == expected


@pytest.mark.parametrize(
    ("name", "registers", "cls"),
    [
        ("vit_tiny_patch16_224", 0, True),
        ("vit_small_patch14_reg4_dinov2", 4, True),
        ("deit_tiny_distilled_patch16_224", 1, True),  # its distillation token has no counterpart in a teacher
        ("eva02_tiny_patch14_224", 0, True),
    ],
)
def test_a_vit_of_timm_fits_the_grid_of_the_cache(name: str, registers: int, cls: bool) -> None:
    model = build(Student(architecture=f"timm:{name}"))
    assert (model.encoder.register_tokens, has_cls(model.encoder)) == (registers, cls)
    predictions = model(torch.randn(1, 3, 56, 56))  # patch 16 gets 64 px
    assert predictions["generic"][1].shape == (1, 16, 6)
    torch.cat([part.flatten() for pair in predictions.values() for part in pair]).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
def test_taps_of_a_timm_vit_are_raw_block_outputs() -> None:
    encoder = build_encoder(Student(architecture="timm:vit_tiny_patch16_224"), pos_grid=(2, 3)).eval()
    images = torch.randn(1, 3, 32, 48)
    last, (tap, same) = encoder.forward_tokens(images, taps=(3, 11))
    assert torch.equal(last, same)
    assert torch.allclose(encoder.vit.norm(last), encoder(images), atol=1e-6)
    seen = []
    encoder.blocks[3].register_forward_hook(lambda _module, _input, output: seen.append(output))
    encoder(images)
    assert torch.equal(seen[0], tap)


def test_resizing_the_position_embedding_of_a_timm_vit() -> None:
    encoder = build_encoder(Student(architecture="timm:vit_tiny_patch16_224"), pos_grid=(2, 2))
    resize_position(encoder, (3, 3))
    assert encoder.vit.pos_embed.shape == (1, 10, 192)
    assert encoder.pos_grid == (3, 3)


def test_a_vit_without_cls_teaches_patches_only() -> None:
    name = "timm:vit_base_patch16_siglip_224"
    with torch.device("meta"):
        model = build_encoder(Student(architecture=name), pos_grid=(4, 4))
    assert not has_cls(model)
    with pytest.raises(InvalidInput, match="predicts at most 0"):
        build(Student(architecture=name))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Student(architecture="bsae"), "did you mean 'base'"),
        (Student(architecture="timm:vit_tiny_patch16_24"), "did you mean 'vit_tiny_patch16_224'"),
        (Student(architecture="timm:resnet18"), "expected a ViT, found ResNet"),
        (Student(architecture="timm:beit_base_patch16_224"), "takes one input size only"),
        (Student(architecture="timm:vit_tiny_patch16_224", registers=0), "registers = 0 would have no effect"),
    ],
)
def test_encoders_that_do_not_exist_are_refused(config: Student, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build_encoder(config, pos_grid=(4, 4))


def test_a_student_needs_teachers_and_whole_cells() -> None:
    with pytest.raises(InvalidInput, match="at least one teacher"):
        build(teachers={})
    with pytest.raises(InvalidInput, match="whole cells on views of 60 px"):
        build_distiller(
            student=SMALL, projector=Projector(), teachers=TEACHERS, image_size=60, patch_grid=(4, 5), seed=0
        )
