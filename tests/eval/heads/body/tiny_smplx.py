"""A tiny file in the layout of SMPLX_NEUTRAL.npz: random numbers, mirror-symmetric as the real model nearly is."""

from pathlib import Path
from typing import Any

import numpy as np

JOINTS, VERTICES = 55, 24
LEFT_RIGHT = ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (23, 24))
PARENTS = (
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15),
    *(20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38),
    *(21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53),
)
MIRROR = np.array([-1.0, 1.0, 1.0])


def arrays(seed: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    joints = np.arange(JOINTS)
    for left, right in (*LEFT_RIGHT, *((joint, joint + 15) for joint in range(25, 40))):
        joints[left], joints[right] = right, left
    vertices = np.arange(VERTICES) ^ 1  # neighbours are mirror images

    def even(values: np.ndarray) -> np.ndarray:
        return (values + MIRROR.reshape(1, 3, *[1] * (values.ndim - 2)) * values[vertices]) / 2

    def stochastic(rows: int, columns: int, order: np.ndarray, other: np.ndarray) -> np.ndarray:
        values = random.random((rows, columns)) ** 4
        values = values + values[order][:, other]
        return values / values.sum(1, keepdims=True)

    pose = random.normal(0, 0.01, (VERTICES, 3, JOINTS - 1, 3, 3))
    signs = np.einsum("c,a,b->cab", MIRROR, MIRROR, MIRROR)
    pose = (pose + pose[vertices][:, :, joints[1:] - 1] * signs[None, :, None]) / 2
    return {
        "v_template": even(random.normal(0, 0.5, (VERTICES, 3))),
        "shapedirs": even(random.normal(0, 0.05, (VERTICES, 3, 400))),
        "posedirs": pose.reshape(VERTICES, 3, -1),
        "J_regressor": stochastic(JOINTS, VERTICES, joints, vertices),
        "weights": stochastic(VERTICES, JOINTS, vertices, joints),
        "kintree_table": np.array([PARENTS, range(JOINTS)], dtype=np.int64) % 2**32,
        "f": random.integers(0, VERTICES, (30, 3)).astype(np.uint32),
    }


def write(path: Path, **changes: Any) -> Path:
    """Write the file; like the real one it holds an object that would have to be unpickled."""
    content = {**arrays(), "part2num": np.array({"Head": 15}, dtype=object), **changes}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path
