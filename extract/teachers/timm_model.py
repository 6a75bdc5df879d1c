"""`timm:<name>`: any timm model that keeps a patch grid, transformer or hierarchical, from a local weight file.

Shapes: B batch, N patches, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.images import normalise, standardise_
from backbones.timm_library import resolve_model_data_config
from extract.teachers import timm_weights
from extract.teachers.base import Teacher
from extract.teachers.options import Request
from store.errors import InvalidInput

PROBE_GRID = (4, 6)  # not square, so that rows, columns and channels are told apart
FORWARD_ERRORS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)


class TimmTeacher(Teacher):
    """A timm model's own final features, or the output of one of its stages.

    Args:
        network: loaded model.
        request: options it was built from.
        reduction: input pixels per output cell.
        stage: number of the stage in `forward_intermediates`; None for the final features.
    """

    resize_rule = "bicubic, antialias, clamped to the pixel range, before normalisation"

    def __init__(self, network: nn.Module, *, request: Request, reduction: int, stage: int | None) -> None:
        data = resolve_model_data_config(network)
        super().__init__(
            network,
            request=request,
            architecture={"name": request.model.removeprefix(timm_weights.PREFIX).partition(".")[0], "stage": stage},
            patch_size=reduction,
            channels=0,  # set by the probe
            prefix_tokens=int(stage is None and getattr(network, "cls_token", None) is not None),
            position_rule="timm",
            mean=data["mean"],
            std=data["std"],
        )
        self.stage = stage
        self.channels_first = True
        self.only_size: tuple[int, int] | None = None
        self.size_was_set = False
        self._probe((data["input_size"][1], data["input_size"][2]))

    def prepare(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize and normalise as timm's own loader does, but in float32 and on the device."""
        if size == (pixels.shape[1], pixels.shape[2]):
            return normalise(pixels, mean=self.mean, std=self.std)
        images = normalise(pixels, mean=(0, 0, 0), std=(1, 1, 1))
        images = functional.interpolate(images, size=size, mode="bicubic", antialias=True).clamp_(0, 1)
        return standardise_(images, mean=self.mean, std=self.std)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        network: Any = self.network
        if self.stage is None:
            features: Tensor = network.forward_features(images)
            return features
        stages: list[Tensor] = network.forward_intermediates(
            images, indices=[self.stage], output_fmt="NCHW", intermediates_only=True
        )
        return stages[0]

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Split features into CLS, where there is one, and patches; registers and distillation tokens are left out."""
        if features.ndim == 3:
            first_patch = int(getattr(self.network, "num_prefix_tokens", self.prefix_tokens))
            return features[:, : self.prefix_tokens], features[:, first_patch:]
        patches = features.flatten(2).transpose(1, 2) if self.channels_first else features.flatten(1, 2)
        return patches[:, :0], patches

    def fit(self, size: tuple[int, int]) -> None:
        """Set a model of fixed input size to the size that the student's grid asks for, once.

        Raises:
            InvalidInput: the model takes no other size, or was set to another one before.
        """
        if self.only_size in (None, size):
            return
        network: Any = self.network
        if self.size_was_set or not hasattr(network, "set_input_size"):
            advice = (
                "Load it again for another size" if self.size_was_set else "Choose an image size that gives this grid"
            )
            raise InvalidInput(
                f"teacher '{self.model}': takes images of {self.only_size} px only; the student's "
                f"grid asks for {size}. {advice}"
            )
        self.fingerprint()  # before timm resamples its position tables
        network.set_input_size(img_size=size)
        self.only_size, self.size_was_set = size, True

    def _probe(self, native: tuple[int, int]) -> None:
        """Learn channels, layout and whether the input size is free from one small forward pass.

        Raises:
            InvalidInput: the model does not run, or keeps no patch grid.
        """
        reasons: list[str] = []
        for grid in (PROBE_GRID, (native[0] // self.patch_size, native[1] // self.patch_size)):
            size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
            try:
                with torch.no_grad():
                    features = self._features(torch.zeros(1, 3, *size))
            except FORWARD_ERRORS as error:
                reasons.append(f"{size[0]}x{size[1]} px: {error}")
                self.only_size = native
                continue
            self.channels_first = features.ndim == 4 and tuple(features.shape[2:]) == grid
            self.channels = features.shape[1 if self.channels_first else -1]
            if features.ndim not in (3, 4) or self._split(features)[1].shape[1] != grid[0] * grid[1]:
                raise InvalidInput(
                    f"teacher '{self.model}': expected a grid of {grid} patches for {size[0]}x{size[1]} px, found "
                    f"features of shape {tuple(features.shape)}. Choose a stage with stride, or another model"
                )
            return
        raise InvalidInput(f"teacher '{self.model}': does not run on images. {'; '.join(reasons)}")


def build(request: Request) -> Teacher:
    """Build a teacher from any timm model and a local file, in timm's naming or its authors'.

    Without `stride` the features are the model's final ones (`forward_features`: a transformer's tokens after its
    final norm); with it, the raw output of the last stage with that many input pixels per cell; later modules are
    dropped.

    Raises:
        InvalidInput: unknown model, wrong file, or a stride that the model does not have.
    """
    request.refuse("rule", "num_heads")
    network = timm_weights.load(request)
    reductions = [int(info["reduction"]) for info in network.feature_info]
    reduction, stage = reductions[-1], None
    if request.stride is not None:
        reduction, stage = request.stride, _cut_after(network, request.stride, reductions, model=request.model)
    timm_weights.remove_heads(network)
    return TimmTeacher(network, request=request, reduction=reduction, stage=stage)


def _cut_after(network: Any, stride: int, reductions: list[int], *, model: str) -> int:
    """Drop the modules after the last stage of this stride, and return timm's number for that stage afterwards."""
    if len(set(reductions)) == 1 or not hasattr(network, "prune_intermediate_layers"):
        raise InvalidInput(f"teacher '{model}': has no stages to choose from. Leave out stride")
    if stride not in reductions:
        raise InvalidInput(f"teacher '{model}': stride {stride}, expected one of {sorted(set(reductions))}")
    stage = len(reductions) - 1 - reductions[::-1].index(stride)
    (stage,) = network.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)
    return int(stage)
