"""Teachers made by hand, for outputs that no real one gives on request; loaded as `<module>:<function>`."""

import torch
from torch import Tensor, nn

from extract.teachers.base import Teacher
from extract.teachers.options import Request


class Spiky(Teacher):
    """Mean colours of each patch; overflows float16 on bright images and gives a NaN on dark ones."""

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = nn.functional.avg_pool2d(images, self.patch_size).flatten(2).transpose(1, 2)
        brightness = images.mean(dim=(1, 2, 3)).view(-1, 1, 1)
        patches = torch.where(brightness > 1, patches * 1e6, patches)
        patches = torch.where(brightness < -1, patches * float("nan"), patches)
        return patches[:, :0], patches


def spiky(request: Request) -> Spiky:
    """Build the teacher; named by the catalogue."""
    network = nn.Linear(1, 1)
    return Spiky(network, request=request, architecture={"name": "spiky"}, patch_size=14, channels=3, prefix_tokens=0)


class Projected(Teacher):
    """Fixed random projections of the pixels of each patch, and their mean as prefix token: quick, of many channels."""

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = nn.functional.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        matrix = torch.randn(pixels.shape[2], self.channels, generator=torch.Generator().manual_seed(3)) / 8
        patches = torch.tanh(pixels @ matrix) * torch.linspace(1, 4, self.channels) + 2
        return patches.mean(dim=1, keepdim=True), patches


def projected(request: Request) -> Projected:
    """Build the teacher; named by the catalogue."""
    network = nn.BatchNorm2d(1)  # whose weights are always the same
    description = {"name": "projected"}
    return Projected(network, request=request, architecture=description, patch_size=14, channels=16, prefix_tokens=1)
