"""The interface of a teacher: a frozen network with its own preprocessing and the identity of its weights.

Shapes: B batch, H W pixels, P prefix tokens, N patches (rows * cols of the student's grid), C channels.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from importlib.metadata import version
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones import state_dicts
from backbones.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from extract.teachers.options import Request
from store.errors import InvalidInput
from store.format.attributes import RANDOM_SEED

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
AUTOCAST_MODULES = (nn.Linear, nn.Conv2d)  # exactly these; subclasses may compute with their weights in float32


class Teacher(nn.Module, ABC):
    """A frozen network: stored pixels in, float32 prefix and patch tokens out.

    A subclass maps images to tokens; a kind with its own resize or normalisation also overrides `prepare` and
    `resize_rule`. A lower `dtype` runs under autocast.

    Args:
        network: loaded network.
        request: options it was built from.
        architecture: JSON description that goes into the identity.
        patch_size: side of the square that one patch token covers, px (a stage's stride in a CNN).
        channels: size of a token.
        prefix_tokens: number of stored tokens before the patches (CLS), 0 or more.
        position_rule: name of the rule by which positions follow the grid; goes into the identity.
        mean: per-channel mean subtracted from values in [0, 1].
        std: per-channel standard deviation they are then divided by.
    """

    resize_rule = "bicubic, align_corners=True, no antialias, after normalisation"

    def __init__(
        self,
        network: nn.Module,
        *,
        request: Request,
        architecture: Mapping[str, Any],
        patch_size: int,
        channels: int,
        prefix_tokens: int,
        position_rule: str = "none",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network = network
        self.request = request
        self.model = request.model
        self.architecture = dict(architecture)
        self.patch_size = patch_size
        self.channels = channels
        self.prefix_tokens = prefix_tokens
        self.position_rule = position_rule
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._run = self.tokens
        self.requires_grad_(False)
        self.eval()

    @abstractmethod
    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map prepared images (B, 3, rows * patch, cols * patch) to prefix (B, P, C) and patches (B, N, C)."""

    def prepare(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Normalise pixels (B, H, W, 3) and resize them to `size` px by DUNE's rule."""
        return dune_resize(normalise(pixels, mean=self.mean, std=self.std), size)

    def fit(self, size: tuple[int, int]) -> None:
        """Prepare for images of `size` px: work that depends on the size alone, kept out of what may be compiled."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the tokens of stored pixels.

        Args:
            pixels: uint8 (B, H, W, 3) on any device.

        Returns:
            prefix (B, P, C) and patches (B, N, C) in float32 on the teacher's device, patches row-major.

        Raises:
            InvalidInput: not uint8 pixels, a size that the student's patch does not divide, or a network whose
                output has other shapes than the teacher declares.
        """
        device = self.device
        rows, cols = self.patch_grid(pixels.shape[1], pixels.shape[2])
        dtype = DTYPES[self.request.dtype]
        with torch.no_grad(), tf32(self.request.tf32) if device.type == "cuda" else nullcontext():
            size = (rows * self.patch_size, cols * self.patch_size)
            self.fit(size)
            images = self.prepare(pixels.to(device, non_blocking=True), size)
            if self.request.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                prefix, patches = self._run(images)
        expected = ((len(pixels), self.prefix_tokens, self.channels), (len(pixels), rows * cols, self.channels))
        if (tuple(prefix.shape), tuple(patches.shape)) != expected:
            raise InvalidInput(
                f"teacher '{self.model}': expected prefix and patches of shapes {expected[0]} and {expected[1]}, found "
                f"{tuple(prefix.shape)} and {tuple(patches.shape)}"
            )
        return prefix.float(), patches.float()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a teacher is frozen, also inside a module that trains."""
        return super().train(False)

    def place_on(self, device: torch.device | str) -> Self:
        """Move the teacher to a device and apply the options it was built with, once after building; returns itself.

        With a lower dtype, linear and convolution weights are rounded to it now: autocast would do the same at every
        call, for 6 % of the time of a ViT-L on an H100.
        """
        options = self.request
        if options.dtype != "float32":
            self.fingerprint()  # of the weights as the file has them
            for module in self.network.modules():
                if type(module) in AUTOCAST_MODULES:
                    module.to(DTYPES[options.dtype])
        self.to(device)
        if options.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._run = torch.compile(self.tokens, dynamic=False) if options.compile else self.tokens
        return self

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def patch_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return (rows, cols) of the patch tokens: the student's grid, whatever the teacher's own patch size.

        Raises:
            InvalidInput: a side that is no multiple of the student's patch size.
        """
        patch = self.request.student_patch
        if height_px < patch or width_px < patch or height_px % patch or width_px % patch:
            raise InvalidInput(
                f"image of {height_px}x{width_px} px: expected multiples of the student's patch, {patch}"
            )
        return height_px // patch, width_px // patch

    def fingerprint(self) -> str:
        """Return the sha256 of the tensors in use; the same for the same weights in another container."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return state_dicts.fingerprint(self.network.state_dict())

    def identity(self, image_size: int | tuple[int, int]) -> dict[str, Any]:
        """Return everything that decides the features of images of `image_size` px, as JSON; the cache enforces it."""
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        rows, cols = self.patch_grid(height, width)
        size = (rows * self.patch_size, cols * self.patch_size)
        return {
            "architecture": self.architecture,
            "weights_sha256": self.fingerprint(),
            "position_rule": self.position_rule,
            "normalisation": {"mean": list(self.mean), "std": list(self.std)},
            "input_px": list(size),
            "resize": "none" if size == (height, width) else self.resize_rule,
            "patch_grid": [rows, cols],
            "prefix_tokens": self.prefix_tokens,
            "channels": self.channels,
            "compute_dtype": self.request.dtype,
            "tf32": self.request.tf32,
        } | ({} if self.request.random_seed is None else {RANDOM_SEED: self.request.random_seed})

    def provenance(self) -> dict[str, Any]:
        """Return weight file, device, layout and library versions, as JSON; shown and never enforced."""
        device = self.device
        cuda = device.type == "cuda"
        return {
            "model": self.model,
            **self._weights_provenance(),
            "device": torch.cuda.get_device_name(device) if cuda else device.type,
            "channels_last": self.request.channels_last,
            "compile": self.request.compile,
            "versions": {name: version(name) for name in ("codistill", "torch", "timm")},
        }

    def _weights_provenance(self) -> dict[str, Any]:
        if self.request.random_seed is not None:
            return {RANDOM_SEED: self.request.random_seed}
        return {"weights_file": self.request.weights.name, "weights_file_sha256": self._file_sha256}

    @cached_property
    def _file_sha256(self) -> str:
        with self.request.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def dune_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize normalised images (B, 3, H, W) as DUNE does, only if the size differs.

    Source: naver/dune; bicubic, align_corners=True, no antialias, overshoot not clamped. align_corners=False would
    change MASt3R's features by 0.09.
    """
    if size == tuple(images.shape[-2:]):
        return images
    return functional.interpolate(images, size=size, mode="bicubic", align_corners=True)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA matrix products and convolutions, and put back what was set before."""
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn]
    attribute: str = "allow_tf32"
    value: bool | str = allowed
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # newer torch, whose two settings must not be mixed
        backends = [torch.backends.cuda.matmul, cudnn.conv]
        attribute, value = "fp32_precision", "tf32" if allowed else "ieee"
    before = [getattr(backend, attribute) for backend in backends]
    for backend in backends:
        setattr(backend, attribute, value)
    try:
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            setattr(backend, attribute, setting)
