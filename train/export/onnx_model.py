"""ONNX file of an exported student, compared with the student itself before it gets its name.

Shapes: B images, N tokens, D channels.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from store.common import atomic
from store.errors import InvalidInput, MissingExtra
from train.model.encoder import Encoder

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUT, OUTPUTS = "images", ("tokens", "patches")
CHECKED_BATCHES = (1, 2, 5)
TOLERANCE = 1e-4  # largest difference of any value, as a share of the largest absolute value; float32 gives about 1e-6
TRACED_BATCH = 2  # a batch of 1 would be taken for a constant
MAX_BYTES = 2**31 - 2**20  # of one protobuf message
CHECK_SEED = 0


class _Outputs(nn.Module):
    """timm's model with both outputs of the file: all tokens after the final norm, and the patches before it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to (B, N, D) and (B, patches, D)."""
        extract: Any = self.model.forward_intermediates
        tokens, patches = extract(images, indices=1, norm=False, output_fmt="NLC")
        return tokens, patches[0]


def require() -> None:
    """Refuse where a package is not installed.

    Raises:
        MissingExtra: naming them.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"--onnx needs {', '.join(missing)}. Run: pip install 'codistill[onnx]'")


def write(folder: Path, path: Path, *, encoder: Encoder, image_size: int) -> None:
    """Write the ONNX file of a folder that timm reads: input `images` (B, 3, H, W), any B.

    Args:
        folder: exported folder with weights and configuration.
        path: file to write; it appears only if its outputs are the encoder's.
        encoder: encoder that was exported.
        image_size: side of the images, px; fixed in the file.

    Raises:
        InvalidInput: the exporter cannot translate the model, it is too large for one file, or its output differs.
    """
    parameters_bytes = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    if parameters_bytes > MAX_BYTES:
        raise InvalidInput(f"--onnx: {parameters_bytes / 1e9:.1f} GB of weights do not fit one ONNX file (2 GB)")
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.zeros(TRACED_BATCH, 3, image_size, image_size)
    with atomic.replacing(path) as partial:
        _translate(model, images, partial)
        check(partial, encoder, image_size=image_size)


def check(path: Path, encoder: Encoder, *, image_size: int) -> None:
    """Compare the outputs of an ONNX file with those of an encoder, on noise, for several batch sizes.

    Raises:
        InvalidInput: a value differs by more than `TOLERANCE` of the largest one, or a shape differs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(CHECK_SEED)
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, 3, image_size, image_size, generator=generator)
        with torch.no_grad():
            expected = (encoder(images), encoder.split(encoder.forward_tokens(images)[0])[2])
        outputs = session.run(list(OUTPUTS), {INPUT: images.numpy()})
        for name, found, wanted in zip(OUTPUTS, outputs, (tensor.numpy() for tensor in expected), strict=True):
            if found.shape != wanted.shape:
                raise InvalidInput(f"--onnx: '{name}' of {batch} images is {found.shape}, expected {wanted.shape}")
            difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
            if not difference <= TOLERANCE:  # also NaN
                raise InvalidInput(
                    f"--onnx: '{name}' of {batch} images differs from PyTorch's by {difference:.1e} of its largest "
                    f"value, allowed are {TOLERANCE:g}; no file was written. Export without --onnx, or with other "
                    "versions of torch, onnxscript and onnxruntime"
                )


def _translate(model: nn.Module, images: Tensor, path: Path) -> None:
    shapes = {INPUT: {0: torch.export.Dim("batch", min=1)}}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Outputs(model).eval(),
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=shapes,
                verbose=False,
            )
            if program is None:
                raise InvalidInput("--onnx: torch.onnx.export returned nothing")
            program.save(str(path), external_data=False)
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InvalidInput(f"--onnx: torch.onnx.export cannot translate this student: {first}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on itself (deprecations, missing torchvision operators) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
