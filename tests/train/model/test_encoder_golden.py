"""The student against the authors' code: encoder, projectors, target norms, and that the usual mistakes would show."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backbones.position import resample_pos_embed
from tests.train import golden
from train.model.distiller import Distiller
from train.model.encoder import resize_position
from train.run.dune_checkpoint import DuneCheckpoint


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return golden.tensors("dune_student.io")


@pytest.fixture
def student(tmp_path: Path) -> Distiller:
    distiller = golden.student_with_cls_for_all(tmp_path).distiller
    assert distiller is not None
    return distiller.eval()


def projector_error(student: Distiller, recorded: dict[str, Tensor], size: str) -> float:
    """Largest absolute difference over all teachers, CLS and patches."""
    predictions = student(golden.images(recorded[f"input.{size}.image_u8"]))
    errors = []
    for theirs, ours in golden.TEACHERS.items():
        prefix, patches = predictions[ours]
        errors.append(golden.max_error(prefix[:, 0], recorded[f"output.{size}.projector.{theirs}.cls"]))
        errors.append(golden.max_error(patches, recorded[f"output.{size}.projector.{theirs}.patch"]))
    return max(errors)


@pytest.mark.parametrize("size", ["size0", "size1"])
@torch.no_grad()
def test_tokens_are_those_of_the_authors(student: Distiller, recorded: dict[str, Tensor], size: str) -> None:
    images = golden.images(recorded[f"input.{size}.image_u8"])
    assert golden.max_error(images[:, :, :4, :4], recorded[f"input.{size}.image_probe"]) < 1e-6
    tokens, _ = student.encoder.forward_tokens(images)
    cls, registers, patches = student.encoder.split(tokens)
    assert golden.max_error(cls[:, 0], recorded[f"output.{size}.encoder.cls"]) < golden.FEATURES_ATOL
    assert golden.max_error(registers, recorded[f"output.{size}.encoder.registers"]) < golden.FEATURES_ATOL
    assert golden.max_error(patches, recorded[f"output.{size}.encoder.patch"]) < golden.FEATURES_ATOL
    normed = student.encoder.split(student.encoder(images))
    for kind, tokens_of_kind in (("cls", normed[0][:, 0]), ("patch", normed[2])):
        if (name := f"output.{size}.encoder_only_default_norm.{kind}") in recorded:
            assert golden.max_error(tokens_of_kind, recorded[name]) < golden.FEATURES_ATOL
    assert projector_error(student, recorded, size) < golden.FEATURES_ATOL


@torch.no_grad()
def test_small_tokens_expose_the_layer_norm_epsilon(student: Distiller, recorded: dict[str, Tensor]) -> None:
    tokens = recorded["input.projector_probe.tokens"]
    normed = student.encoder.norm(tokens)
    assert golden.max_error(normed, recorded["output.encoder_norm_probe"]) < golden.FEATURES_ATOL
    for theirs, ours in golden.TEACHERS.items():
        predicted = torch.cat(student.projectors[ours]([tokens]), dim=1)
        assert golden.max_error(predicted, recorded[f"output.projector_probe.{theirs}"]) < golden.FEATURES_ATOL


def test_only_teachers_with_a_cls_token_get_one_predicted(recorded: dict[str, Tensor]) -> None:
    distiller = golden.student().distiller
    assert distiller is not None
    with torch.no_grad():
        predictions = distiller(golden.images(recorded["input.size1.image_u8"]))
    assert {name: prefix.shape[1] for name, (prefix, _) in predictions.items()} == {
        "dinov2": 1,
        "mast3r": 0,
        "multihmr": 0,
    }
    for theirs, ours in golden.TEACHERS.items():
        expected = recorded[f"output.size1.projector.{theirs}.patch"]
        assert golden.max_error(predictions[ours][1], expected) < golden.FEATURES_ATOL


def test_stored_statistics_standardise_as_the_authors_do(recorded: dict[str, Tensor]) -> None:
    norms = golden.student().norms
    assert norms is not None
    for theirs, ours in golden.TEACHERS.items():
        norm = norms.stored(ours)
        for kind, statistics in (("cls", norm.prefix), ("patch", norm.patch)):
            name = f"tnorm.{theirs}.{kind}"
            assert (statistics is None) == (f"input.{name}" not in recorded)
            if statistics is not None:
                standardised = statistics.apply(recorded[f"input.{name}"])
                assert golden.max_error(standardised, recorded[f"output.{name}"]) < 1e-6


def wrong_epsilon(student: Distiller) -> None:
    for module in student.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def tanh_gelu(student: Distiller) -> None:
    for module in student.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def registers_into_projectors(student: Distiller) -> None:
    student._without_registers = lambda tokens: tokens  # type: ignore[method-assign]
    for projector in student.projectors.values():
        # cut them from the predictions only, where the shapes are right again
        projector.linear.register_forward_hook(lambda _module, _input, out: torch.cat([out[:, :1], out[:, 5:]], dim=1))
        projector.forward = lambda features, p=projector: torch.split(  # type: ignore[method-assign]
            p.linear(p.blocks(features[0])), [1, features[0].shape[1] - 5], dim=1
        )


def final_norm_before_projectors(student: Distiller) -> None:
    plain = student._without_registers
    student._without_registers = lambda tokens: plain(student.encoder.norm(tokens))  # type: ignore[method-assign]


def hub_position_rule(student: Distiller) -> None:
    student.encoder.pos_rule = "hub"


def position_by_size(student: Distiller) -> None:
    student.encoder.pos_rule = "stage"


@pytest.mark.parametrize(
    "mistake",
    [
        wrong_epsilon,
        tanh_gelu,
        registers_into_projectors,
        final_norm_before_projectors,
        hub_position_rule,
        position_by_size,
    ],
)
@torch.no_grad()
def test_the_golden_would_show_a_mistake(
    student: Distiller, recorded: dict[str, Tensor], mistake: Callable[[Distiller], None]
) -> None:
    mistake(student)
    assert projector_error(student, recorded, "size1") > 5 * golden.FEATURES_ATOL


def test_position_embedding_between_training_stages(recorded: dict[str, Tensor]) -> None:
    stages = golden.tensors("dune_pos_resize.io")
    resized = resample_pos_embed(stages["input.pos_embed"], (32, 32), rule="stage")
    assert golden.max_error(resized, stages["output.pos_embed"]) == 0

    checkpoint: DuneCheckpoint = golden.student()
    before = checkpoint.encoder.pos_embed.detach().clone()
    resize_position(checkpoint.encoder, (32, 32))
    assert checkpoint.encoder.pos_grid == (32, 32)
    assert torch.equal(checkpoint.encoder.pos_embed, resample_pos_embed(before, (32, 32), rule="stage"))
    assert checkpoint.encoder.pos_embed.requires_grad
