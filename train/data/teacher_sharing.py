"""Data sharing: the teachers that an image may learn from, by the group of its dataset.

Shapes: T teachers (sorted by name), G groups.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from store.errors import InvalidInput

Bool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
SharingMode = Literal["full", "generic", "none"]


def eligibility_table(
    mode: SharingMode,
    *,
    groups: Sequence[str],
    teacher_groups: Mapping[str, Sequence[str]],
    generic_groups: Sequence[str],
) -> Bool:
    """Tell which teachers the images of each group may learn from.

    `full`: all. `none` (released as `own_data`): the teachers that specialise in the group. `generic` (released as
    `own+generic_data`): the same, but images of generic groups learn from all teachers.

    Args:
        mode: sharing mode of the recipe.
        groups: names of the G groups of the mixture.
        teacher_groups: name of a teacher -> groups that it specialises in.
        generic_groups: groups whose images learn from all teachers in mode `generic` (DUNE: the group of DINOv2).

    Returns:
        bool (T, G); the mask of a batch is `table[:, group_of_image]`.

    Raises:
        InvalidInput: unknown mode, or a group that no teacher would learn from.
    """
    if mode not in get_args(SharingMode):
        raise InvalidInput(f"sharing {mode!r}: expected one of {', '.join(get_args(SharingMode))}")
    table = np.array(
        [
            [
                mode == "full" or group in teacher_groups[teacher] or (mode == "generic" and group in generic_groups)
                for group in groups
            ]
            for teacher in sorted(teacher_groups)
        ],
        dtype=np.bool_,
    ).reshape(len(teacher_groups), len(groups))
    without_teacher = [group for number, group in enumerate(groups) if not table[:, number].any()]
    if without_teacher:
        owned = "; ".join(f"{teacher}: {', '.join(own) or 'none'}" for teacher, own in sorted(teacher_groups.items()))
        raise InvalidInput(
            f"sharing {mode!r}: no teacher learns from group {', '.join(without_teacher)} (groups of each teacher: "
            f"{owned}). Leave these datasets out, add their teacher, or choose sharing 'full'"
        )
    return table
