"""What the human perception head says: one record a person, and the same stacked.

Shapes: P people, J rotations, S shape numbers, E expression numbers, V vertices, K joints.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import overload

from torch import Tensor

from store.errors import MissingName


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """Values of people, by the names that files of the authors have.

    Attributes:
        idx_image_row_col: int64 (P, 3), image and cell of the patch grid.
        scores_detected: (P,), score of the cell, in (0, 1).
        offset: (P, 2), offset (x, y) of the head from the centre of its cell, in cells.
        loc: (P, 2), the head in px of the input image, (x, y).
        dist_postprocessed: (P, 1), logarithm of the distance, scaled with the focal length; what the loss compares.
        dist: (P, 1), distance along the optical axis in m.
        rotmat: (P, J, 3, 3), rotations in the order of the body model; the first is the root's, in camera axes.
        rotvec: (P, J, 3), the same as axis times angle in rad.
        shape: (P, S), shape numbers of the body model.
        expression: (P, E), expression numbers of the body model.
        transl: (P, 3), the head joint in camera coordinates, m.
        v3d: (P, V, 3), vertices in camera coordinates, m; None without a body model, like all below.
        j3d: (P, K, 3), joints in camera coordinates, m.
        v2d: (P, V, 2), vertices in px.
        j2d: (P, K, 2), joints in px.
        transl_pelvis: (P, 1, 3), the pelvis in camera coordinates, m.
    """

    idx_image_row_col: Tensor
    scores_detected: Tensor
    offset: Tensor
    loc: Tensor
    dist_postprocessed: Tensor
    dist: Tensor
    rotmat: Tensor
    rotvec: Tensor
    shape: Tensor
    expression: Tensor
    transl: Tensor
    v3d: Tensor | None = None
    j3d: Tensor | None = None
    v2d: Tensor | None = None
    j2d: Tensor | None = None
    transl_pelvis: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        """The same as `scores_detected`."""
        return self.scores_detected

    def keys(self) -> list[str]:
        """Return the names of the values that are there."""
        return [field.name for field in fields(_Fields) if getattr(self, field.name) is not None]

    def value(self, name: str) -> Tensor:
        """Return a value by its name.

        Raises:
            MissingName: no such value, or none without a body model.
        """
        value = getattr(self, name) if name in {*self.keys(), "scores"} else None
        if not isinstance(value, Tensor):
            raise MissingName(f"'{name}': expected one of {', '.join(self.keys())}")
        return value


@dataclass(frozen=True, kw_only=True)
class Person(_Fields):
    """One person: the values of `People` without their first axis; also by name, `person["loc"]`."""

    def __getitem__(self, name: str) -> Tensor:
        return self.value(name)


@dataclass(frozen=True, kw_only=True)
class People(_Fields):
    """All people of a batch: a sequence of `Person` in the order image, row, column, and stacked by name.

    `people[2].loc`, `people[2]["loc"]` and `people["loc"][2]` are the same.

    Attributes:
        score_map: (B, n, n), scores of all cells before suppression.
    """

    score_map: Tensor

    def __len__(self) -> int:
        return len(self.idx_image_row_col)

    def __iter__(self) -> Iterator[Person]:
        return (self.person(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Person: ...

    @overload
    def __getitem__(self, index: str) -> Tensor: ...

    def __getitem__(self, index: int | str) -> Person | Tensor:
        return self.value(index) if isinstance(index, str) else self.person(index)

    def person(self, index: int) -> Person:
        """Return the record of one person.

        Raises:
            IndexError: there are not so many.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"person {index} of {len(self)}")
        return Person(**{name: self.value(name)[index] for name in self.keys()})

    def cpu(self) -> "People":
        """Return the same in host memory, without gradient."""
        values = {name: self.value(name).detach().cpu() for name in self.keys()}
        return People(**values, score_map=self.score_map.detach().cpu())

    def of_image(self, image: int) -> list[Person]:
        """Return the people of one image of the batch."""
        return [person for person in self if int(person.idx_image_row_col[0]) == image]
