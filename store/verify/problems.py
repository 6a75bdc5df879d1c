"""Problems of a cache: the kinds that `codistill store verify` tells apart."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Kinds of problems; stable machine-readable names."""

    METADATA_DAMAGED = "metadata_damaged"  # a zarr.json that cannot be read, is absent, or does not fit its dataset
    METADATA_DIFFERS = "metadata_differs"  # every shard of an array records another identity than its zarr.json
    CODE_DAMAGED = "code_damaged"  # an array of a code is absent or damaged, or together they have another digest
    CODE_UNFIT = "code_unfit"  # the sealed distortion of a code is not what a code does that fits its tokens
    IMAGE_LIST_DAMAGED = "image_list_damaged"  # absent, or its sha256 is not the recorded one
    OBJECT_SIZE = "object_size"  # a shard that is too short or too long
    TRAILER_DAMAGED = "trailer_damaged"  # its checksum differs
    TRAILER_INCONSISTENT = "trailer_inconsistent"  # whole, but it contradicts itself or its dataset
    INDEX_DAMAGED = "index_damaged"  # the sharding index is not what the row states imply
    ROW_CHECKSUM = "row_checksum"  # bytes of a row do not fit their checksum
    ROW_DIFFERS = "row_differs"  # a row fits its own checksum but not the one in the trailer: rows were swapped
    ROW_NOT_FINITE = "row_not_finite"  # NaN or infinity in the tokens of an ok row
    OTHER_DECODER = "other_decoder"  # whole JPEGs that this machine decodes to other pixels than were recorded
    HOLE_NOT_ZERO = "hole_not_zero"  # bytes where a failed row has none
    MOMENTS_DIFFER = "moments_differ"  # the trailer's moments are not those of the data
    MISPLACED = "misplaced"  # a shard of another dataset, array or number
    OTHER_IDENTITY = "other_identity"  # a shard of another teacher, recipe or image list: another extraction
    OTHER_PIXELS = "other_pixels"  # tokens computed from other pixels than are stored
    PIXELS_MISSING = "pixels_missing"  # tokens whose pixel shard does not exist
    SHARD_GONE = "shard_gone"  # sealed, and not there any more
    SEALED_DAMAGED = "sealed_damaged"  # a sealed table that cannot be read
    SEALED_STATUS_DIFFERS = "sealed_status_differs"  # from the trailers
    SEALED_STATISTICS_DIFFER = "sealed_statistics_differ"  # from the trailers, beyond 1e-9
    SEALED_MANIFEST_DIFFERS = "sealed_manifest_differs"  # from the trailers
    SEAL_OUTDATED = "seal_outdated"  # a shard was replaced since it was sealed
    FOREIGN_OBJECT = "foreign_object"  # not part of the format
    LEFTOVER = "leftover"  # a temporary object of a writer that is dead
    QUARANTINED = "quarantined"  # a damaged object moved away by a repair that did not end


IN_SHARD = frozenset(
    {
        Kind.OBJECT_SIZE,
        Kind.TRAILER_DAMAGED,
        Kind.TRAILER_INCONSISTENT,
        Kind.INDEX_DAMAGED,
        Kind.ROW_CHECKSUM,
        Kind.ROW_DIFFERS,
        Kind.ROW_NOT_FINITE,
        Kind.HOLE_NOT_ZERO,
        Kind.MOMENTS_DIFFER,
        Kind.MISPLACED,
        Kind.OTHER_IDENTITY,
    }
)
OF_SHARD = IN_SHARD | {Kind.OTHER_PIXELS, Kind.PIXELS_MISSING, Kind.SHARD_GONE}
OF_SEAL = frozenset(
    {
        Kind.SEALED_DAMAGED,
        Kind.SEALED_STATUS_DIFFERS,
        Kind.SEALED_STATISTICS_DIFFER,
        Kind.SEALED_MANIFEST_DIFFERS,
        Kind.SEAL_OUTDATED,
    }
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        kind: kind of the problem.
        key: object that has the problem, below the cache.
        message: text for people, expected against found.
        dataset, array, shard: shard that has the problem, as far as it is known.
        rows: affected rows; empty if the problem is not about rows.
    """

    kind: Kind
    key: str
    message: str
    dataset: str | None = None
    array: str | None = None
    shard: int | None = None
    rows: tuple[int, ...] = ()

    @property
    def where(self) -> str:
        """The shard or object, for messages."""
        if self.shard is not None:
            return f"shard {self.shard} of '{self.dataset}/{self.array}'"
        return f"'{self.key}'"

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "kind": self.kind.value,
            "key": self.key,
            "message": self.message,
            "dataset": self.dataset,
            "array": self.array,
            "shard": self.shard,
            "rows": list(self.rows),
        }
