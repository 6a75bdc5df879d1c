"""Ground truth of the perception head: from bodies in camera coordinates to cells, offsets and distances.

Shapes: B images, n x n cells, P people, J rotations, V vertices, K joints. Source: naver/multi-hmr.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.heads.body import rotations
from eval.heads.hph import camera

MIN_DEPTH_M = 0.01


@dataclass(frozen=True, kw_only=True)
class Truth:
    """True values of the people that have a cell, by the names of the golden files.

    Attributes:
        scores: float32 (B, n, n), 1 in the cells of people, else 0.
        idx_image_row_col: int64 (P, 3); people keep their order.
        loc: (P, 2), the head in px.
        offset: (P, 2), from the centre of the cell in cells; beyond +-0.5 for people outside the image.
        dist: (P,), depth of the **pelvis** in m, although the head's prediction places the head.
        dist_postprocessed: (P,), the number that the head should predict for it.
        rotmat: (P, J, 3, 3).
        rotvec: (P, J, 3).
        shape: (P, S).
        transl: (P, 3), the head joint in camera coordinates, m.
        transl_pelvis: (P, 3), m.
        v3d: (P, V, 3), m.
        j3d: (P, K, 3), m.
        v2d: (P, V, 2), px.
        j2d: (P, K, 2), px.
    """

    scores: Tensor
    idx_image_row_col: Tensor
    loc: Tensor
    offset: Tensor
    dist: Tensor
    dist_postprocessed: Tensor
    rotmat: Tensor
    rotvec: Tensor
    shape: Tensor
    transl: Tensor
    transl_pelvis: Tensor
    v3d: Tensor
    j3d: Tensor
    v2d: Tensor
    j2d: Tensor


def prepare(
    *,
    image: Tensor,
    rotvec: Tensor,
    shape: Tensor,
    vertices: Tensor,
    joints: Tensor,
    intrinsics: Tensor,
    img_size: int,
    pelvis: int = 0,
    head: int = 15,
) -> Truth:
    """Give every person the cell of its head.

    A person outside the image gets a cell of the border. Of several people in one cell the first stays and the others
    are left out of all losses, so people should come from near to far. People whose pelvis or head is not at least 1 cm
    in front of the camera, or not finite, are left out too.

    Args:
        image: int64 (P,), image of each person, ascending.
        rotvec: (P, J, 3), axis times angle.
        shape: (P, S).
        vertices: (P, V, 3) in camera coordinates, m.
        joints: (P, K, 3) in camera coordinates, m.
        intrinsics: (B, 3, 3), px of the square input image.
        img_size: its side in px.
        pelvis: number of the pelvis among the joints.
        head: number of the head among the joints.
    """
    in_front = (joints[:, [pelvis, head], 2] > MIN_DEPTH_M).all(1) & joints.isfinite().flatten(1).all(1)
    image, rotvec, shape, vertices, joints = (part[in_front] for part in (image, rotvec, shape, vertices, joints))
    grid = img_size // camera.CELL_PX
    loc = camera.project(joints[:, head : head + 1], intrinsics[image])[:, 0]
    column_row = (loc / camera.CELL_PX).floor().clamp(0, grid - 1)
    cells = torch.cat([image[:, None], column_row.long().flip(1)], dim=1)
    taken_before = (cells[:, None] == cells[None]).all(-1).tril(-1).any(1)
    kept = ~taken_before
    image, cells, loc, column_row = image[kept], cells[kept], loc[kept], column_row[kept]
    vertices, joints, rotvec = vertices[kept], joints[kept], rotvec[kept]
    scores = torch.zeros(len(intrinsics), grid, grid, device=loc.device)
    scores[cells.unbind(1)] = 1.0
    of_person = intrinsics[image]
    dist = joints[:, pelvis, 2]
    return Truth(
        scores=scores,
        idx_image_row_col=cells,
        loc=loc,
        offset=loc / camera.CELL_PX - (column_row + 0.5),
        dist=dist,
        dist_postprocessed=camera.log_from_distance(dist, of_person[:, 0, 0], img_size=img_size),
        rotmat=rotations.from_vector(rotvec),
        rotvec=rotvec,
        shape=shape[kept],
        transl=joints[:, head],
        transl_pelvis=joints[:, pelvis],
        v3d=vertices,
        j3d=joints,
        v2d=camera.project(vertices, of_person),
        j2d=camera.project(joints, of_person),
    )
