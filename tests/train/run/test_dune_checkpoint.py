"""The released layout: read with every wrapping it may come in, and written with exactly its names and shapes."""

import argparse
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones import state_dicts, weight_files
from store.errors import Damaged, InvalidInput, OutputExists, StorageFailed
from tests.train import golden
from tests.train.builders import teacher_info
from train.model.distiller import Distiller, build_distiller
from train.objective.targets import TargetNorms
from train.recipe.config import Projector, Student
from train.run.dune_checkpoint import load, released_args, save, to_released

HEADS = golden.CONFIG["dune_student"]["num_heads"]
RELEASED_TEACHERS = {
    "dinov2": teacher_info(channels=1024, prefix_tokens=1),
    "mast3r": teacher_info(channels=1024, prefix_tokens=0),
    "multihmr": teacher_info(channels=1024, prefix_tokens=0),
}


def listed(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released file."""
    lines = (golden.FOLDER / "keys" / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {key: tuple(int(side) for side in shape.split("x")) for key, shape in pairs}


def student(architecture: str, **options: Any) -> Distiller:
    encoder = {name: options.pop(name) for name in ("registers", "patch_size", "layer_scale") if name in options}
    return build_distiller(
        student=Student(architecture=architecture, **encoder),
        projector=Projector(**options),
        teachers=RELEASED_TEACHERS,
        image_size=448,
        patch_grid=(32, 32),
        seed=0,
    )


@pytest.mark.parametrize("size", ["small", "base"])
def test_names_and_shapes_at_full_size(size: str) -> None:
    expected = listed(f"dune_vit{size}14_448")
    assert len(expected) == 232
    with torch.device("meta"):
        distiller, norms = student(size), TargetNorms(RELEASED_TEACHERS)
        released = {**distiller.state_dict(), **norms.state_dict()}
        assert all(tensor.is_meta for tensor in released.values())
    for module in (distiller, norms):
        module.to_empty(device="cpu")  # untouched memory, so that the full size costs nothing
    shapes = {name: tuple(tensor.shape) for name, tensor in to_released(distiller, norms).items()}
    assert shapes == expected


def same_outputs(first: Distiller, second: Distiller) -> bool:
    images = golden.images(golden.tensors("dune_student.io")["input.size1.image_u8"][:1])
    with torch.no_grad():
        outputs, expected = first(images), second(images)
    return all(torch.equal(a, b) for name in expected for a, b in zip(outputs[name], expected[name], strict=True))


def wrapped(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("with_args", [True, False])
def test_reads_every_wrapping(tmp_path: Path, prefix: str, with_args: bool) -> None:
    weights = wrapped(state_dicts.strip_wrappers(golden.tensors("dune_student")), prefix)
    schedule = np.linspace(0, 1, 5)  # the trainer keeps its schedules in args
    args = argparse.Namespace(image_size=336, enc_args={"arch": "x"}, proj_args={}, teachers=[], lr_schedule=schedule)
    path = tmp_path / "dune.pth"
    torch.save({"model": weights, "args": args, "iter": 3} if with_args else weights, path)
    loaded, expected = load(path, num_heads=HEADS), golden.student()
    assert loaded.image_size == 336
    assert loaded.distiller is not None
    assert expected.distiller is not None
    assert same_outputs(loaded.distiller, expected.distiller)
    assert loaded.norms is not None
    assert torch.equal(loaded.norms.stored("mast3r").patch.std, expected.norms.stored("mast3r").patch.std)  # type: ignore[union-attr]


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.encoder."])
def test_reads_an_encoder_alone(tmp_path: Path, prefix: str) -> None:
    encoder = state_dicts.select(state_dicts.strip_wrappers(golden.tensors("dune_student")), "encoder.")
    save_file(wrapped(encoder, prefix), tmp_path / "encoder.safetensors")
    loaded = load(tmp_path / "encoder.safetensors", num_heads=HEADS)
    assert (loaded.distiller, loaded.norms, loaded.image_size) == (None, None, 336)
    expected = golden.student().encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.encoder.state_dict().items())
    assert not loaded.encoder.norm.weight.requires_grad


def test_everything_comes_back_under_its_own_name() -> None:
    weights = state_dicts.strip_wrappers(golden.tensors("dune_student"))
    checkpoint = golden.student()
    assert checkpoint.distiller is not None
    assert checkpoint.norms is not None
    released = to_released(checkpoint.distiller, checkpoint.norms)
    assert set(released) == set(weights)
    for name, tensor in released.items():
        assert tensor.shape == weights[name].shape
        assert torch.equal(tensor, weights[name]) or name == "encoder.mask_token"  # unused, written as zeros


def test_teacher_names_may_stay_as_they_are() -> None:
    checkpoint = load(golden.FOLDER / "dune_student.safetensors", num_heads=HEADS, names={})
    assert checkpoint.distiller is not None
    assert list(checkpoint.distiller.teachers) == list(golden.TEACHERS)


def test_a_saved_student_reads_back(tmp_path: Path) -> None:
    distiller = build_distiller(
        student=Student(architecture="small"),
        projector=Projector(),
        teachers={
            "dinov2": teacher_info("dinov2", channels=8, prefix_tokens=1),
            "own": teacher_info("own", channels=4, prefix_tokens=0),
        },
        image_size=56,
        patch_grid=(4, 4),
        seed=1,
    )
    norms = TargetNorms(distiller.teachers)
    norms.norms["own"]["patch"].mean.fill_(0.25)
    path = tmp_path / "student.pth"
    save(path, distiller, norms)
    content = weight_files.load(path)
    assert set(content) == {"model", "args"}
    assert vars(content["args"]) == {
        "image_size": 56,
        "enc_args": {"arch": "vit_small"},
        "proj_args": {},
        "teachers": ["dino2reg_vitlarge_14", "own"],
    }
    loaded = load(path)
    assert loaded.distiller is not None
    assert same_outputs(loaded.distiller, distiller)
    assert loaded.distiller.teachers == distiller.teachers
    assert loaded.norms is not None
    assert loaded.norms.stored("own").patch.mean.unique().tolist() == [0.25]
    with pytest.raises(OutputExists, match="exists"):
        save(path, distiller, norms)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(Damaged, match=r"student\.pth has sha256 .*, expected .* \(student\.pth\.sha256\)"):
        load(path)


def test_a_student_that_a_full_disk_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    distiller = student("small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageFailed, match=r"student\.pth' cannot be written: file too large"):
            save(tmp_path / "student.pth", distiller, TargetNorms(distiller.teachers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("tiny", {}, "192, 12, 3"),
        ("small", {"registers": 0}, "0 registers, expected 4"),
        ("small", {"layer_scale": None}, "no LayerScale"),
        ("small", {"blocks": 2}, r"projectors of \[2\] blocks"),
    ],
)
def test_what_their_loader_cannot_build_is_refused(architecture: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        distiller = student(architecture, **options)
    with pytest.raises(InvalidInput, match=message):
        released_args(distiller)


def test_another_kind_of_student_has_no_place_in_the_layout() -> None:
    norms = TargetNorms(RELEASED_TEACHERS)
    with pytest.raises(InvalidInput, match=r"transformer projectors \(tp\) only"):
        to_released(student("tiny", kind="sp"), norms)
    other = Student(architecture="timm:vit_tiny_patch16_224")
    with pytest.raises(InvalidInput, match="found a timm model"):
        to_released(
            build_distiller(
                student=other,
                projector=Projector(),
                teachers=RELEASED_TEACHERS,
                image_size=56,
                patch_grid=(4, 4),
                seed=0,
            ),
            norms,
        )


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = golden.tensors("dune_student")
    del weights["module.projectors.mast3r_vitlarge_16.blocks.0.norm2.bias"]
    save_file(weights, tmp_path / "broken.safetensors")
    with pytest.raises(InvalidInput, match=r"1 missing \(blocks.0.norm2.bias\)"):
        load(tmp_path / "broken.safetensors", num_heads=HEADS)
