"""DOC train.data.teacher_sharing."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from store.errors import InvalidInput

Bool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Sharing = Literal["full", "generic", "none"]


def eligibility_table(
    sharing: Sharing,
    *,
    groups: Sequence[str],
    teacher_groups: Mapping[str, Sequence[str]],
    generic_groups: Sequence[str],
) -> Bool:
    """Say which teachers an image may learn from, by the group of its dataset.

    `full`: from all. `none` (released as `own_data`): from the teachers that its group belongs to. `generic` (released
    as `own+generic_data`): the same, but images of generic groups go to all teachers.

    Args:
        sharing: one of the three modes.
        groups: names of the G groups of the mixture.
        teacher_groups: teacher -> the groups that are its own.
        generic_groups: groups whose images everyone learns from under `generic` (DUNE: the one of DINOv2).

    Returns:
        bool (T, G); the mask of a batch is `table[:, group_of_image]`.

    Raises:
        InvalidInput: unknown mode, or a group that no teacher would learn from.
    """
    if sharing not in get_args(Sharing):
        raise InvalidInput(f"sharing {sharing!r}: expected one of {', '.join(get_args(Sharing))}")
    table = np.array(
        [
            [
                sharing == "full"
                or group in teacher_groups[teacher]
                or (sharing == "generic" and group in generic_groups)
                for group in groups
            ]
            for teacher in sorted(teacher_groups)
        ],
        dtype=np.bool_,
    ).reshape(len(teacher_groups), len(groups))
    orphans = [group for number, group in enumerate(groups) if not table[:, number].any()]
    if orphans:
        owned = "; ".join(f"{teacher}: {', '.join(own) or 'none'}" for teacher, own in sorted(teacher_groups.items()))
        raise InvalidInput(
            f"sharing {sharing!r}: no teacher learns from group {', '.join(orphans)} (groups of each teacher: {owned})"
            ". Leave these datasets out, add their teacher, or choose sharing 'full'"
        )
    return table
