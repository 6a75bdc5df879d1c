"""A room with boxes in it, textured, seen by ray casting: colours, exact depth. In plain torch, in double precision.

The world is in metres with z up. The room is an axis-aligned box seen from inside; boxes stand on its floor, turned
about the vertical. Every face shows a texture at its own scale and place. Shapes: R rays, K boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 7  # of the texture pyramids, each half as large as the one before
NEAREST_M = 1e-6


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Solids. The first one is the room, which is seen from inside.

    Attributes:
        centre: float64 (K, 3), metres.
        half: float64 (K, 3), half of the sides, metres.
        turn: float64 (K,), angle about the vertical, radians; 0 for the room.
        texture: int64 (K, 6), texture of each face.
        texels_per_m: float64 (K, 6), pixels of the texture that cover a metre.
        offset: float64 (K, 6, 2), place of the texture, pixels.
        shade: float64 (K, 6), brightness of each face; the same from everywhere.
    """

    centre: Tensor
    half: Tensor
    turn: Tensor
    texture: Tensor
    texels_per_m: Tensor
    offset: Tensor
    shade: Tensor


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Where rays end.

    Attributes:
        distance: float64 (R,), in lengths of the ray.
        box: int64 (R,), the solid.
        face: int64 (R,), axis + 3 if the face is at the axis' positive end.
        place: float64 (R, 2), metres on the face from its centre.
    """

    distance: Tensor
    box: Tensor
    face: Tensor
    place: Tensor


def cast(boxes: Boxes, origin: Tensor, rays: Tensor) -> Hits:
    """Follow rays to the first surface.

    Args:
        boxes: room and solids; `origin` is inside the room and outside of the solids.
        origin: float64 (3,).
        rays: float64 (R, 3), of any length.
    """
    cosine, sine = torch.cos(boxes.turn), torch.sin(boxes.turn)
    start = _unturned(origin - boxes.centre, cosine, sine)  # (K, 3)
    along = _unturned(rays[:, None, :].expand(-1, len(cosine), -1), cosine, sine)  # (R, K, 3)
    along = torch.where(along.abs() < 1e-12, 1e-12, along)
    one, two = (-boxes.half - start) / along, (boxes.half - start) / along
    enter, enter_axis = torch.minimum(one, two).max(dim=-1)
    leave, leave_axis = torch.maximum(one, two).min(dim=-1)
    distance = torch.where((enter < leave) & (enter > NEAREST_M), enter, torch.inf)
    distance[:, 0] = leave[:, 0]
    axis = enter_axis
    axis[:, 0] = leave_axis[:, 0]
    nearest, box = distance.min(dim=1)
    number = torch.arange(len(rays))
    axis = axis[number, box]
    point = start[box] + along[number, box] * nearest[:, None]  # in the frame of the solid
    positive = point[number, axis] > 0
    others = torch.tensor([[1, 2], [0, 2], [0, 1]])[axis]
    return Hits(distance=nearest, box=box, face=axis + 3 * positive, place=point.gather(1, others))


def colours(boxes: Boxes, hits: Hits, pyramids: Sequence[Sequence[Tensor]], pixel_m: Tensor) -> Tensor:
    """Return the colour of each hit.

    Args:
        boxes: room and solids.
        hits: where the rays end.
        pyramids: of each texture its levels, float32 (h, w, 3), each half as large as the one before.
        pixel_m: float64 (R,), width of a pixel at the hit in metres; decides the level.

    Returns:
        float32 (R, 3), 0 to 255.
    """
    which = hits.box, hits.face
    texels = hits.place * boxes.texels_per_m[which][:, None] + boxes.offset[which]
    level = (pixel_m * boxes.texels_per_m[which]).clamp(min=1).log2().round().long().clamp(max=LEVELS - 1)
    kinds = boxes.texture[which] * LEVELS + level
    painted = torch.zeros(len(texels), 3)
    for kind in sorted(set(kinds.tolist())):
        chosen = (kinds == kind).nonzero()[:, 0]
        source = pyramids[kind // LEVELS][kind % LEVELS]
        painted[chosen] = _bilinear(source, (texels[chosen] + 0.5) / 2 ** (kind % LEVELS) - 0.5)
    return painted * boxes.shade[which][:, None].float()


def pyramid(texture: Tensor) -> list[Tensor]:
    """Return a texture float32 (h, w, 3) and its reductions by 2, 4 ..., as often as `LEVELS` says."""
    levels = [texture]
    for _ in range(LEVELS - 1):
        planes = levels[-1].permute(2, 0, 1)[None]
        side = min(planes.shape[-2:])
        smaller = torch.nn.functional.avg_pool2d(planes, 2) if side >= 2 else planes
        levels.append(smaller[0].permute(1, 2, 0).contiguous())
    return levels


def inside_boxes(boxes: Boxes, point: Tensor, *, margin_m: float) -> bool:
    """Tell whether a point (3,) is within a margin of a solid, or not that far inside of the room."""
    local = _unturned(point - boxes.centre, torch.cos(boxes.turn), torch.sin(boxes.turn)).abs()
    solid = (local[1:] < boxes.half[1:] + margin_m).all(dim=1).any()
    outside = (local[0] > boxes.half[0] - margin_m).any()
    return bool(solid | outside)


def looking_at(origin: Tensor, target: Tensor, *, roll: float) -> Tensor:
    """Return the pose (4, 4) of a camera at `origin` that looks at `target` (3,), turned by `roll` radians."""
    z = target - origin
    z = z / z.norm()
    down = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    x = torch.linalg.cross(down, z)
    x = x / x.norm()
    y = torch.linalg.cross(z, x)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0] = math.cos(roll) * x + math.sin(roll) * y
    pose[:3, 1] = math.cos(roll) * y - math.sin(roll) * x
    pose[:3, 2] = z
    pose[:3, 3] = origin
    return pose


def _unturned(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn vectors (..., K, 3) of the world into the frames of the solids."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([cosine * x + sine * y, cosine * y - sine * x, z], dim=-1)


def _bilinear(texture: Tensor, place: Tensor) -> Tensor:
    """Return colours of a repeating texture (h, w, 3) at places (R, 2) in its pixels."""
    height, width = texture.shape[:2]
    corner = torch.floor(place)
    x, y = (place - corner).float().unbind(1)
    left, top = corner[:, 0].long() % width, corner[:, 1].long() % height
    right, bottom = (left + 1) % width, (top + 1) % height
    above = texture[top, left] * (1 - x)[:, None] + texture[top, right] * x[:, None]
    below = texture[bottom, left] * (1 - x)[:, None] + texture[bottom, right] * x[:, None]
    return above * (1 - y)[:, None] + below * y[:, None]
