"""Made people, and a stand-in of a perception head that finds exactly them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eval.heads.body import rotations
from eval.heads.body.base import BodyModel
from eval.heads.hph.head import meshes
from eval.heads.hph.people import People
from eval.heads.hph.samples import Sample, SampleSet
from eval.heads.hph.sizes import HeadSizes

SIZES = HeadSizes(embed_dim=8, img_size=56)


@dataclass
class Pictures:
    """Images with 2, 0 and 1 people; the first pixel tells which."""

    people: tuple[int, ...] = (2, 0, 1)
    broken: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.people)

    def sample(self, index: int, *, img_size: int) -> Sample:
        random, count = np.random.default_rng(index), self.people[index]
        pixels = np.full((img_size, img_size, 3), index, dtype=np.uint8)
        place = np.stack([np.linspace(-1, 1, count), np.zeros(count), np.full(count, 6.0)], axis=1)
        rotvec = random.normal(0, 0.5, (count, 53, 3))
        if index in self.broken:
            rotvec = np.zeros((count, 7, 3))
        return Sample(
            name=f"picture{index}.png",
            pixels=pixels,
            intrinsics=np.array([[50, 0, 28], [0, 50, 28], [0, 0, 1]], dtype=np.float32),
            rotvec=rotvec.astype(np.float32),
            shape=random.normal(0, 1, (count, 10)).astype(np.float32),
            transl=place.astype(np.float32),
        )


class ExactHead(nn.Module):
    """Predicts the people of `Pictures`, changed by `spoil`."""

    def __init__(
        self, pictures: SampleSet, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    ) -> None:
        super().__init__()
        self.sizes, self.pictures, self.spoil = SIZES, pictures, spoil
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, tokens: Tensor, intrinsics: Tensor, *, body: BodyModel, **options: Any) -> People:
        self.calls += 1
        sample = self.pictures.sample(int(tokens[0, 0, 0]), img_size=self.sizes.img_size)
        rotvec, shape, transl = (torch.from_numpy(part) for part in (sample.rotvec, sample.shape, sample.transl))
        count = len(transl)
        posed = meshes(
            body,
            rotmat=rotations.from_vector(rotvec),
            shape=shape,
            expression=torch.zeros(count, 10),
            intrinsics=intrinsics.expand(count, 3, 3),
            shift=transl,
        )
        posed = posed if self.spoil is None else self.spoil(posed)
        nothing = torch.zeros(count, 2)
        return People(
            idx_image_row_col=torch.zeros(count, 3, dtype=torch.int64),
            scores_detected=torch.ones(count),
            offset=nothing,
            loc=nothing,
            dist_postprocessed=nothing[:, :1],
            dist=nothing[:, :1],
            rotmat=rotations.from_vector(rotvec),
            rotvec=rotvec,
            shape=shape,
            expression=torch.zeros(count, 10),
            transl=transl,
            score_map=torch.zeros(1, 4, 4),
            **posed,
        )


def first_pixel(pixels: Tensor) -> Tensor:
    """Tokens that tell which picture it is."""
    return pixels[:, :1, :1, 0].float()
