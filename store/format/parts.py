"""Parts of a dataset: images that were added later are a dataset of their own behind the name of the first one.

Part 0 is the dataset as it was first stored, under its own name. Rows and images of a dataset are numbered through its
parts in order, so nothing that is stored changes when a part is added.
"""

import re
from dataclasses import dataclass
from typing import Any

from store import errors
from store.common.strict_json import Fields

PART = "part"  # in `requires` and of the attribute
LAST_PART = 9999
PART_NAME = re.compile(r"([a-z0-9_-]+)--part-([0-9]{4})")


@dataclass(frozen=True, kw_only=True)
class PartOf:
    """Which part of which dataset a stored dataset is.

    Attributes:
        dataset: name of the whole dataset.
        number: number of the part, 1 or more.
        first_image: images of the parts before it.
        first_row: rows of the parts before it.
        after: sha256 of the image list of the part before it.
    """

    dataset: str
    number: int
    first_image: int
    first_row: int
    after: str

    @property
    def stored_name(self) -> str:
        """Name under which the part is stored."""
        return part_name(self.dataset, self.number)

    def as_attributes(self) -> dict[str, Any]:
        """Return the attributes of a group that is this part."""
        return {"requires": [PART], PART: dict(vars(self))}

    @classmethod
    def of(cls, fields: Fields, *, name: str, largest: int) -> "PartOf | None":
        """Check the attributes of a group; None if it is no part.

        Args:
            fields: attributes of the group.
            name: name under which it is stored.
            largest: largest number of rows.

        Raises:
            errors.Damaged: one is absent, of another type, out of bounds, or belongs to another name.
        """
        values = fields.mapping(PART, optional=True)
        if not values:
            return None
        inner = Fields(values, where=f"part of '{name}'")
        part = cls(
            dataset=inner.text("dataset"),
            number=inner.integer("number", low=1, high=LAST_PART),
            first_image=inner.integer("first_image", low=1, high=largest),
            first_row=inner.integer("first_row", low=1, high=largest),
            after=inner.hexadecimal("after", digits=64),
        )
        if part.stored_name != name:
            raise errors.Damaged(f"'{name}' says that it is part {part.number} of '{part.dataset}'")
        return part


def part_name(dataset: str, number: int) -> str:
    """Return the name under which a part of a dataset is stored; part 0 has the dataset's own."""
    return dataset if number == 0 else f"{dataset}--part-{number:04d}"


def whole_name(name: str) -> str | None:
    """Return the name of the dataset that a stored dataset of this name would be a part of; None for other names."""
    match = PART_NAME.fullmatch(name)
    return match.group(1) if match else None


def refuse_part_name(name: str) -> str:
    """Return the name of a new dataset unless it is one of a part.

    Raises:
        errors.InvalidInput: it is.
    """
    if whole_name(name) is not None:
        raise errors.InvalidInput(f"dataset name {name!r} is reserved for parts that `extract run --append` adds")
    return name
