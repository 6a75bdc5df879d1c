"""Identity says which features these are, whatever the container; provenance says where they came from."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from extract.teachers.loading import load
from store.errors import InvalidInput
from tests.extract.teachers.builders import HEADS, golden_teacher, golden_weights, released, write

MODELS = ["dinov2", "mast3r", "multihmr"]


@pytest.mark.parametrize("model", MODELS)
def test_same_in_every_container(tmp_path: Path, model: str) -> None:
    heads = HEADS.get(model)
    flat = golden_weights(model)
    save_file(flat, tmp_path / "flat.safetensors")
    torch.save(released(model, flat), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    files = [
        write(tmp_path / "plain.pth", model),
        write(tmp_path / "compiled.pth", model, prefix="module._orig_mod."),
        tmp_path / "flat.safetensors",
        tmp_path / "old.pth",
    ]
    teachers = [load(model, weights=file, num_heads=heads) for file in files]
    identities = [json.dumps(teacher.identity(336)) for teacher in teachers]
    assert len(set(identities)) == 1
    assert len({teacher.provenance()["weights_file_sha256"] for teacher in teachers}) == 4
    assert json.loads(identities[0]) == teachers[0].identity((336, 336))


def test_whatever_changes_features_changes_identity(tmp_path: Path) -> None:
    weights = golden_weights("dinov2")
    other = weights | {"norm.bias": weights["norm.bias"] + torch.eye(128)[5] * 1e-6}
    save_file(other, tmp_path / "other.safetensors")
    identities = [
        golden_teacher("dinov2", tmp_path).identity(336),
        golden_teacher("dinov2", tmp_path).identity(448),
        golden_teacher("dinov2", tmp_path, rule="hub").identity(336),
        golden_teacher("dinov2", tmp_path, dtype="float16").identity(336),
        golden_teacher("dinov2", tmp_path, tf32=True).identity(336),
        golden_teacher("dinov2", tmp_path, student_patch=16).identity(336),
        load("dinov2", weights=tmp_path / "other.safetensors").identity(336),
        load("dinov2", weights=tmp_path / "other.safetensors", num_heads=4).identity(336),
    ]
    assert len({json.dumps(identity) for identity in identities}) == len(identities)


def test_what_does_not_change_features_does_not_change_identity(tmp_path: Path) -> None:
    """Heads, the mask token and memory layout; and the position rule of models without registers."""
    identity = golden_teacher("dinov2", tmp_path).identity(336)
    weights = golden_weights("dinov2") | {"mask_token": torch.ones(1, 128)}
    save_file(weights, tmp_path / "pretrained.safetensors")
    assert load("dinov2", weights=tmp_path / "pretrained.safetensors", channels_last=True).identity(336) == identity
    half = golden_teacher("dinov2", tmp_path, dtype="float16").identity(336)
    assert half["weights_sha256"] == identity["weights_sha256"]
    dune, hub = (golden_teacher("multihmr", tmp_path, rule=rule).identity(336) for rule in ("dune", "hub"))
    assert dune == hub


def test_identity_does_not_depend_on_what_ran_before(tmp_path: Path) -> None:
    teacher = golden_teacher("dinov2", tmp_path, dtype="bfloat16")
    before = teacher.identity(336)
    teacher(torch.zeros(1, 28, 42, 3, dtype=torch.uint8))
    assert teacher.train().identity(336) == before
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_provenance(tmp_path: Path) -> None:
    provenance = golden_teacher("mast3r", tmp_path).provenance()
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["weights_file"] == "mast3r.pth"
    assert provenance["device"] == "cpu"
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]


def broken(edit: Callable[[dict[str, torch.Tensor]], object], model: str, path: Path) -> Path:
    weights = golden_weights(model)
    edit(weights)
    torch.save(released(model, weights), path)
    return path


def test_missing_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    path = broken(lambda weights: weights.pop("blocks.2.mlp.fc2.bias"), "dinov2", tmp_path / "a.pth")
    with pytest.raises(InvalidInput, match=r"a.pth' as dinov2: of 49 tensors.*1 missing \(blocks.2.mlp.fc2.bias\)"):
        load("dinov2", weights=path)
    path = broken(lambda weights: weights.update({"enc_norm.bias": torch.zeros(7)}), "mast3r", tmp_path / "b.pth")
    with pytest.raises(InvalidInput, match=r"norm.bias expected 128, found 7"):
        load("mast3r", weights=path)
    path = broken(lambda weights: weights.update({"blocks.1.extra": torch.zeros(7)}), "dinov2", tmp_path / "c.pth")
    with pytest.raises(InvalidInput, match=r"1 unexpected \(blocks.1.extra\)"):
        load("dinov2", weights=path)


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        ("dinov2", "mast3r", "expected tensors cls_token.*found groups .*enc_blocks"),
        ("dinov2", "multihmr", "expected tensors at the top.*found keys model_state_dict, args, epoch, iter"),
        ("mast3r", "dinov2", "expected tensors patch_embed.*enc_blocks.*found groups blocks"),
        ("multihmr", "dinov2", r"expected tensors named backbone.encoder.\*, found groups blocks"),
        ("dust3r", "mast3r", "expected a dust3r file, found one of mast3r"),
        ("croco", "mast3r", "expected a croco file, found one of mast3r"),
    ],
)
def test_another_models_file_is_refused(tmp_path: Path, model: str, file: str, message: str) -> None:
    path = write(tmp_path / "w.pth", file)
    with pytest.raises(InvalidInput, match=message):
        load(model, weights=path)


def test_siblings_with_other_positions_or_heads_are_refused(tmp_path: Path) -> None:
    weights = golden_weights("mast3r")
    for content, message in (
        ({"model": weights | {"enc_pos_embed": torch.zeros(1, 4, 128)}}, "CroCo-v1's cosine table"),
        ({"model": weights | {"prediction_head.weight": torch.zeros(1)}}, "found one of croco"),
        ({"model": weights, "args": Namespace(model="AsymmetricMASt3R(pos_embed='cosine')")}, "found cosine"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InvalidInput, match=message):
            load("mast3r", weights=tmp_path / "w.pth")
    with pytest.raises(InvalidInput, match=r"48 channels are no multiple of 64\. Pass num_heads"):
        load("multihmr", weights=write(tmp_path / "m.pth", "multihmr"))


def test_options_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", "mast3r")
    with pytest.raises(InvalidInput, match="does not know rule='hub'"):
        load("mast3r", weights=path, rule="hub")
    with pytest.raises(InvalidInput, match="does not know stride=16"):
        load("dinov2", weights=path, stride=16)
    with pytest.raises(InvalidInput, match="dtype 'fp16', expected one of float32, float16, bfloat16"):
        load("mast3r", weights=path, dtype="fp16")
    for model, message in (
        ("dinov3", r"unknown \(did you mean 'dinov2'\?\)"),
        ("timm:convnext_ato", r"no such model \(did you mean 'convnext_atto'\?\)"),
        ("timm:hf-hub:timm/resnet18", "no such model"),
        ("timm:vit_large_patch14_clip_224.openai", "Use 'timm:vit_large_patch14_clip_quickgelu_224.openai'"),
        ("nowhere:teacher", "cannot import it"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load(model, weights=path)


def test_pixels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    teacher = golden_teacher("mast3r", tmp_path)
    with pytest.raises(InvalidInput, match=r"expected torch.uint8.*found torch.float32"):
        teacher(torch.zeros(1, 28, 28, 3))
    with pytest.raises(InvalidInput, match="of 30x28 px: expected multiples of the student's patch, 14"):
        teacher(torch.zeros(1, 30, 28, 3, dtype=torch.uint8))
