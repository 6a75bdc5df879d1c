"""`model.onnx` gives the student's tokens for any number of images, or is not there."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from store.common import checksums
from store.errors import InvalidInput, MissingExtra
from train.export import onnx_model
from train.export.timm_folder import export_encoder
from train.model.encoder import Encoder, build_encoder
from train.recipe.config import Student


def encoder(architecture: str = "tiny", **values: int) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(Student(architecture=architecture, **values), pos_grid=(3, 3)).eval()


@pytest.mark.parametrize("architecture", ["tiny", "timm:test_vit"])
def test_any_number_of_images_gives_the_tokens_of_the_student(tmp_path: Path, architecture: str) -> None:
    built = encoder(architecture, **({"depth": 2, "registers": 2} if architecture == "tiny" else {}))
    size = 3 * built.patch_size
    export_encoder(built, tmp_path / "student", image_size=size, onnx=True)
    checksums.check_folder(tmp_path / "student")
    path = tmp_path / "student" / "model.onnx"
    assert path.name in checksums.read_sums(tmp_path / "student" / checksums.SUMS)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3, 7):
        images = torch.randn(batch, 3, size, size)
        tokens, patches = session.run(["tokens", "patches"], {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(tokens, built(images).numpy(), atol=2e-5)
            raw = built.split(built.forward_tokens(images)[0])[2]
        np.testing.assert_allclose(patches, raw.numpy(), atol=2e-5)


def test_a_file_with_other_outputs_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, translate = encoder(depth=1), onnx_model._translate

    def wrong(model: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
        with torch.no_grad():
            model.get_parameter("blocks.0.mlp.fc2.bias")[0] += 0.01
        translate(model, images, path)

    monkeypatch.setattr(onnx_model, "_translate", wrong)
    with pytest.raises(InvalidInput, match=r"'tokens' of 1 images differs .* allowed are 0\.0001; no file was written"):
        export_encoder(built, tmp_path / "student", image_size=42, onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "PACKAGES", ("onnx", "onnx_that_is_not_there"))
    with pytest.raises(MissingExtra, match=r"needs onnx_that_is_not_there\. Run: pip install 'codistill\[onnx\]'"):
        export_encoder(encoder(depth=1), tmp_path / "student", image_size=42, onnx=True)
    assert list(tmp_path.iterdir()) == []
