"""Activations of MASt3R's heads: what turns raw maps into points, confidences and descriptors.

Shapes: B pairs, H W pixels, D channels of a descriptor. Source: MASt3R (Leroy et al., ECCV 2024), naver/mast3r.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from store.errors import InvalidInput

DEPTH_MODES = ("exp", "square", "linear")
CONFIDENCE_MODES = ("exp", "sigmoid")
SMALLEST_NORM = 1e-8

Mode = tuple[str, float, float]


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Modes of a model's outputs; the defaults are those of the released models.

    Attributes:
        depth: mode of the points and bounds, which only the released (-inf, inf) may be.
        conf: mode of the confidence, its least and its greatest value.
        desc_conf: the same for the descriptors' confidence, which may fall below 1; None takes that of `conf`.
        two_confs: the descriptors have a confidence of their own; otherwise it is a copy of the points'.
    """

    depth: Mode = ("exp", -math.inf, math.inf)
    conf: Mode = ("exp", 1.0, math.inf)
    desc_conf: Mode | None = ("exp", 0.0, math.inf)
    two_confs: bool = True

    def __post_init__(self) -> None:
        for name, modes in (("depth", DEPTH_MODES), ("conf", CONFIDENCE_MODES), ("desc_conf", CONFIDENCE_MODES)):
            value = getattr(self, name)
            if value is not None and not _is_mode(value, modes):
                raise InvalidInput(
                    f"{name}_mode {value!r}: expected (mode, least, greatest) with a mode of {', '.join(modes)}"
                )
        if self.depth[1:] != (-math.inf, math.inf):
            raise InvalidInput(f"depth_mode {self.depth!r}: expected no bounds, that is (-inf, inf)")


def _is_mode(value: Any, modes: tuple[str, ...]) -> bool:
    numbers = isinstance(value, tuple) and len(value) == 3 and all(isinstance(v, int | float) for v in value[1:])
    return numbers and value[0] in modes and value[1] < value[2]


def read_modes(arguments: Mapping[str, Any], *, stated: bool) -> Activations:
    """Return the modes that a constructor's arguments ask for.

    Args:
        arguments: keyword arguments of the constructor, of which `depth_mode`, `conf_mode`, `desc_conf_mode` and
            `two_confs` are read.
        stated: a constructor was there, so that an absent `desc_conf_mode` means that of `conf`, and absent
            `two_confs` none; False takes the released values.

    Raises:
        InvalidInput: unknown modes.
    """
    default = Activations(desc_conf=None, two_confs=False) if stated else Activations()
    values = {field.name: getattr(default, field.name) for field in fields(default)}
    for name in ("depth", "conf", "desc_conf"):
        if f"{name}_mode" in arguments:
            value = arguments[f"{name}_mode"]
            values[name] = tuple(value) if isinstance(value, list) else value
    if "two_confs" in arguments:
        values["two_confs"] = bool(arguments["two_confs"])
    return Activations(**values)


def points(raw: Tensor, mode: str = "exp") -> Tensor:
    """Turn raw xyz (..., 3) into points: the direction stays, the distance d becomes expm1(d), d^2 or d.

    A vector of length zero stays zero.
    """
    if mode == "linear":
        return raw
    distance = raw.norm(dim=-1, keepdim=True)
    direction = raw / distance.clip(min=SMALLEST_NORM)
    grown = torch.expm1(distance) if mode == "exp" else distance.square()
    activated: Tensor = direction * grown
    return activated


def confidence(raw: Tensor, mode: Mode = ("exp", 1.0, math.inf)) -> Tensor:
    """Turn raw values of any shape into confidences within the bounds of the mode."""
    kind, least, greatest = mode
    if kind == "sigmoid":
        return least + (greatest - least) * raw.sigmoid()
    grown = raw.exp()
    return least + (grown if math.isinf(greatest) else grown.clip(max=greatest - least))


def activate(points_raw: Tensor, descriptors_raw: Tensor, modes: Activations) -> dict[str, Tensor]:
    """Turn the raw maps of one view into its outputs.

    Args:
        points_raw: (B, 4, H, W): x, y, z and confidence.
        descriptors_raw: (B, D + 1, H, W), or (B, D, H, W) without a confidence of their own.
        modes: modes of the model.

    Returns:
        `pts3d` (B, H, W, 3), `conf` (B, H, W), `desc` (B, H, W, D) of length 1, `desc_conf` (B, H, W).
    """
    maps, described = points_raw.permute(0, 2, 3, 1), descriptors_raw.permute(0, 2, 3, 1)
    conf = confidence(maps[..., 3], modes.conf)
    if modes.two_confs:
        desc_conf = confidence(described[..., -1], modes.desc_conf or modes.conf)
        described = described[..., :-1]
    else:
        desc_conf = conf.clone()
    return {
        "pts3d": points(maps[..., :3], modes.depth[0]),
        "conf": conf,
        "desc": described / described.norm(dim=-1, keepdim=True),
        "desc_conf": desc_conf,
    }
