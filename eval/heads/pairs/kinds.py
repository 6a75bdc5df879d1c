"""Kinds of pair datasets by name: what their options are, and how they are opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, model_validator

from eval.heads.pairs import raycast
from eval.heads.pairs.files import Tree
from eval.heads.pairs.layouts import (
    arkitscenes,
    blendedmvs,
    co3d,
    mapfree,
    megadepth,
    scannetpp,
    staticthings3d,
    tartanair,
    virtualkitti,
    wildrgbd,
)
from eval.heads.pairs.layouts.options import ObjectOptions, Options, VideoOptions
from eval.heads.pairs.motorcycle import MotorcyclePair
from eval.heads.pairs.views import PairDataset
from store.errors import MissingFile

Side = Annotated[int, Field(ge=8, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]


class RayCastOptions(Options):
    """Options of ray-cast rooms; the root, if there is one, is a folder of textures.

    Attributes:
        seed: decides all rooms.
        size: (width, height) of the images.
        overlap: least and most share of view 1 that view 2 shows, too.
        samples: rays along each side of a pixel for its colour.
        count: number of pairs; endless by default.
    """

    seed: int = Field(default=0, ge=0)
    size: tuple[Side, Side] = (320, 240)
    overlap: tuple[Share, Share] = (0.3, 0.9)
    samples: int = Field(default=2, ge=1, le=8)
    count: int = Field(default=raycast.ENDLESS_PAIRS, ge=1, le=raycast.ENDLESS_PAIRS)

    @model_validator(mode="after")
    def _ordered(self) -> "RayCastOptions":
        if self.overlap[0] >= self.overlap[1]:
            raise ValueError(f"overlap: expected least < most, found {list(self.overlap)}")
        return self


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of dataset.

    Attributes:
        options: model of its options.
        open: opens it, given name, root and options.
        needs_root: whether it reads a folder.
    """

    options: type[Options]
    open: Callable[[str, Path | None, Any], PairDataset]
    needs_root: bool = True


def _layout(module: Any, options: type[Options]) -> Kind:
    """Return the kind of a reader of a layout."""

    def open_layout(name: str, root: Path | None, chosen: Options) -> PairDataset:
        if root is None:
            raise MissingFile(f"{name}: no root; give the folder of the dataset")
        return cast(PairDataset, module.open_pairs(Tree(root, subject=name), chosen))

    return Kind(options=options, open=open_layout)


def _open_raycast(name: str, root: Path | None, options: RayCastOptions) -> PairDataset:
    return raycast.RayCastPairs(name=name, pyramids=raycast.textures(root), **options.model_dump())


def _open_motorcycle(name: str, root: Path | None, options: Options) -> PairDataset:
    return MotorcyclePair(name=name)


KINDS: dict[str, Kind] = {
    "raycast": Kind(options=RayCastOptions, open=_open_raycast, needs_root=False),
    "motorcycle": Kind(options=Options, open=_open_motorcycle, needs_root=False),
    "arkitscenes": _layout(arkitscenes, arkitscenes.ARKitScenesOptions),
    "blendedmvs": _layout(blendedmvs, Options),
    "co3d": _layout(co3d, ObjectOptions),
    "mapfree": _layout(mapfree, mapfree.MapFreeOptions),
    "megadepth": _layout(megadepth, megadepth.MegaDepthOptions),
    "scannetpp": _layout(scannetpp, scannetpp.ScanNetPPOptions),
    "staticthings3d": _layout(staticthings3d, staticthings3d.StaticThings3DOptions),
    "tartanair": _layout(tartanair, VideoOptions),
    "virtualkitti": _layout(virtualkitti, VideoOptions),
    "wildrgbd": _layout(wildrgbd, ObjectOptions),
}
