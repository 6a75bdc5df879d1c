"""An exported encoder gives the same tokens in timm alone."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbones import weight_files
from backbones.images import IMAGENET_MEAN, IMAGENET_STD
from backbones.timm_library import timm
from backbones.vit import DinoVisionTransformer
from store.errors import Damaged, InvalidInput, OutputExists, StorageFailed
from tests.train import golden
from train.export.card import CardFacts, DatasetFacts, TeacherFacts
from train.export.timm_folder import export_encoder
from train.model.encoder import build_encoder
from train.recipe.config import Student

CARD = CardFacts(
    name="Tiny student",
    recipe="tiny",
    steps=12,
    teachers=[TeacherFacts(name="mast3r", text="MASt3R ViT-L/16, weights 1234abcd")],
    datasets=[DatasetFacts(name="bedlam", group="people", rows=7)],
    fidelity={"held": {"mast3r": 0.91234}},
)


@pytest.mark.parametrize(("image_size", "tolerance"), [(336, 0.0), (112, 0.0), (448, 0.0)])
@torch.no_grad()
def test_timm_alone_gives_the_same_tokens(tmp_path: Path, image_size: int, tolerance: float) -> None:
    encoder = golden.student().encoder
    export_encoder(encoder, tmp_path / "model", image_size=image_size, card=CARD)
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    images = torch.randn(1, 3, image_size, image_size)
    assert golden.max_error(model.forward_features(images), encoder(images)) <= max(tolerance, 1e-6)
    raw = model.forward_intermediates(images, indices=1, norm=False, output_fmt="NLC", intermediates_only=True)[0]
    patches = encoder.split(encoder.forward_tokens(images)[0])[2]
    assert golden.max_error(raw, patches) <= 1e-6


@pytest.mark.parametrize(
    "config",
    [
        Student(architecture="tiny", depth=1, registers=0, layer_scale=None),
        Student(architecture="tiny", depth=2, patch_size=16, registers=2),
        Student(architecture="timm:vit_tiny_patch16_224"),
    ],
)
@torch.no_grad()
def test_other_encoders(tmp_path: Path, config: Student) -> None:
    encoder = build_encoder(config, pos_grid=(4, 4)).eval()
    size = 4 * encoder.patch_size
    export_encoder(encoder, tmp_path, image_size=size)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, size, size)
    assert golden.max_error(model.forward_features(images), encoder(images)) <= 1e-6


def test_a_process_that_has_only_timm(tmp_path: Path) -> None:
    encoder = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(4, 4)).eval()
    assert isinstance(encoder, DinoVisionTransformer)
    export_encoder(encoder, tmp_path / "model", image_size=56)
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1  # whoever reads one reads all
    images = torch.randn(1, 3, 56, 56)
    save_file({"images": images}, tmp_path / "images.safetensors")
    script = f"""
import sys, timm, torch
from safetensors.torch import load_file, save_file
model = timm.create_model("local-dir:{tmp_path / "model"}", pretrained=True).eval()
with torch.no_grad():
    tokens = model.forward_features(load_file("{tmp_path / "images.safetensors"}")["images"])
save_file({{"tokens": tokens}}, "{tmp_path / "tokens.safetensors"}")
assert not {{"train", "backbones", "store"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = encoder(images)
    assert golden.max_error(load_file(tmp_path / "tokens.safetensors")["tokens"], expected) <= 1e-5


def test_the_card_says_what_it_is_and_the_config_how_to_prepare(tmp_path: Path) -> None:
    encoder = golden.student().encoder
    export_encoder(encoder, tmp_path, image_size=336, card=CARD)
    card = (tmp_path / "README.md").read_text()
    for fact in (
        "# Tiny student",
        "`tiny`, 12 steps",
        "| bedlam | people | 7 |",
        "weights 1234abcd",
        "| held | 0.9123 |",
    ):
        assert fact in card
    assert "CLS, 4 registers, 576 patches" in card
    prepared = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert prepared["mean"] == [0.485, 0.456, 0.406]
    assert prepared["input_size"] == [3, 336, 336]
    with pytest.raises(OutputExists, match="not empty"):
        export_encoder(encoder, tmp_path, image_size=336)


def test_torch_hub_gives_the_same_model_and_its_preprocessing(tmp_path: Path) -> None:
    encoder = build_encoder(Student(architecture="tiny", depth=2), pos_grid=(4, 4)).eval()
    export_encoder(encoder, tmp_path / "a student", image_size=56, card=CARD)
    images = torch.randn(2, 3, 56, 56)
    save_file({"images": images}, tmp_path / "images.safetensors")
    script = f"""
import sys, torch
from PIL import Image
from safetensors.torch import load_file, save_file
folder = {str(tmp_path / "a student")!r}
model = torch.hub.load(folder, "student", source="local").eval()
transform = torch.hub.load(folder, "transform", source="local")
with torch.no_grad():
    tokens = model.forward_features(load_file({str(tmp_path / "images.safetensors")!r})["images"])
white = transform(Image.new("RGB", (80, 60), "white"))
save_file({{"tokens": tokens, "white": white}}, {str(tmp_path / "out.safetensors")!r})
assert not {{"train", "backbones", "store"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    found = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        assert golden.max_error(found["tokens"], encoder(images)) <= 1e-5
    white = torch.tensor([(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    assert golden.max_error(found["white"], white[:, None, None].expand(3, 56, 56)) <= 1e-6


def test_a_size_that_the_patch_does_not_divide_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="multiples of the patch size"):
        export_encoder(golden.student().encoder, tmp_path / "model", image_size=100)
    assert not (tmp_path / "model" / "model.safetensors").exists()


def test_a_changed_export_is_refused_by_our_readers_and_read_by_timm(tmp_path: Path) -> None:
    encoder = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(4, 4)).eval()
    export_encoder(encoder, tmp_path / "model", image_size=56, card=CARD)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "LICENSE.md", "hubconf.py", "SHA256SUMS"}
    timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    weights = tmp_path / "model" / "model.safetensors"
    assert weight_files.load(weights)
    for name in sorted(names - {"SHA256SUMS"}):
        path = tmp_path / "model" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Damaged, match=rf"{name} has sha256 .* expected .*Copy or download it again"):
            weight_files.load(weights)
        path.write_bytes(whole)
    assert weight_files.load(weights)


def test_an_export_onto_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    encoder = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(4, 4)).eval()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(StorageFailed, match="no space left on device"):
        export_encoder(encoder, tmp_path / "model", image_size=56, card=CARD)
    assert list(tmp_path.iterdir()) == []
