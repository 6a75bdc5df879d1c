"""What the attributes of `codes` say of a code: sizes of its groups, gains, subset, and the digest of its arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from store import errors
from store.common.strict_json import Fields, is_integer
from store.format.books import SIZES
from store.format.distortion import KINDS, Kind
from store.format.token_subset import TokenSubset

VERSION = 1
MAX_RATIO = 2**20
MAX_GAIN = 16.0
MAX_COMPONENTS = 2**17

Groups = tuple[tuple[int, int], ...]
"""(m, n) of each group of components: n components in codewords of m."""


@dataclass(frozen=True, kw_only=True)
class CodeSpec:
    """A code without its arrays.

    Attributes:
        version: of the form of codes.
        digest: sha256 (hexadecimal) of groups, gains, subset and arrays; two codes with one digest decode alike.
        ratio: the ratio that was asked for: bytes of float16 tokens over bytes of their codes, at least.
        groups: groups of the components of prefix and of patch tokens, m ascending; none for prefix tokens where a
            teacher has none.
        gains: factor of each group that makes the slope 1.
        subset: which patches are stored; None if all are.
        calibration: what the code was fitted to, for people; plain JSON.
    """

    version: int = VERSION
    digest: str
    ratio: float
    groups: Mapping[Kind, Groups]
    gains: Mapping[Kind, tuple[float, ...]]
    subset: TokenSubset | None
    calibration: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Return the channels of a token."""
        return sum(count for _, count in self.groups["patch"])

    @property
    def prefix_record_bytes(self) -> int:
        """Return the bytes of a prefix token; 0 where there is none."""
        return record_bytes(self.groups["prefix"])

    @property
    def record_bytes(self) -> int:
        """Return the bytes of a patch token: one scale a group, and its codes."""
        return record_bytes(self.groups["patch"])

    @property
    def book_sizes(self) -> tuple[int, ...]:
        """Return the values m of the codewords of all books in use, ascending."""
        return tuple(sorted({size for groups in self.groups.values() for size, _ in groups}))

    def stored_patches(self, patches: int) -> int:
        """Return how many of a row's patches are stored."""
        return patches if self.subset is None else patches // 4 * self.subset.kept

    def row_bytes(self, prefix_tokens: int, patches: int) -> int:
        """Return the bytes of a row."""
        return prefix_tokens * self.prefix_record_bytes + self.stored_patches(patches) * self.record_bytes

    def as_attributes(self) -> dict[str, Any]:
        """Return the code as the attributes of `codes` have it; plain JSON."""
        return {
            "version": self.version,
            "digest": self.digest,
            "ratio": self.ratio,
            **self.digested(),
            "calibration": dict(self.calibration),
        }

    def digested(self) -> dict[str, Any]:
        """Return the attributes that the digest covers; plain JSON."""
        return {
            "groups": {kind: [list(group) for group in self.groups[kind]] for kind in KINDS},
            "gains": {kind: list(self.gains[kind]) for kind in KINDS},
            "subset": None if self.subset is None else self.subset.as_attributes(),
        }

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> "CodeSpec":
        """Check the attribute `code` of a `codes` array.

        Args:
            values: the attribute, an object.
            where: name of the document and of the object in it, for errors.

        Raises:
            errors.UnsupportedFormat: a later version.
            errors.Damaged: a value is absent, of another type or out of bounds.
        """
        fields = Fields(values, where=where)
        version = fields.integer("version", low=1, high=2**31)
        if version > VERSION:
            message = f"{where}.version is {version}, this program reads up to {VERSION}. Install a newer codistill"
            raise errors.UnsupportedFormat(message)
        groups = Fields(fields.mapping("groups"), where=f"{where}.groups")
        gains = Fields(fields.mapping("gains"), where=f"{where}.gains")
        parsed = {kind: _groups(groups, values["groups"], kind) for kind in KINDS}
        if parsed["prefix"] and _components(parsed["prefix"]) != _components(parsed["patch"]):
            raise fields.invalid("groups", "as many components of prefix as of patch tokens")
        subset = None
        if values.get("subset") is not None:
            subset = TokenSubset.of(Fields(fields.mapping("subset"), where=f"{where}.subset"))
        elif "subset" not in values:
            raise fields.invalid("subset", "null or an object")
        return cls(
            version=version,
            digest=fields.hexadecimal("digest", digits=64),
            ratio=_real(fields, values, "ratio", high=MAX_RATIO),
            groups=parsed,
            gains={kind: _gains(gains, values["gains"], kind, len(parsed[kind])) for kind in KINDS},
            subset=subset,
            calibration=fields.mapping("calibration"),
        )


def record_bytes(groups: Groups) -> int:
    """Return the bytes of a token: one scale a group, and its codes."""
    return len(groups) + sum(count // size for size, count in groups)


def _components(groups: Groups) -> int:
    return sum(count for _, count in groups)


def _groups(fields: Fields, values: Mapping[str, Any], kind: Kind) -> Groups:
    pairs = values.get(kind)
    expected = f"[m, components] of each group, m ascending in {list(SIZES)}, components a multiple of m"
    if not isinstance(pairs, list) or len(pairs) > len(SIZES) or (kind == "patch" and not pairs):
        raise fields.invalid(kind, expected)
    for pair in pairs:
        fits = isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and pair[0] in SIZES
        if not fits or not is_integer(pair[1], low=1, high=MAX_COMPONENTS) or pair[1] % pair[0]:
            raise fields.invalid(kind, expected)
    if any(left[0] >= right[0] for left, right in pairwise(pairs)):
        raise fields.invalid(kind, expected)
    return tuple((size, count) for size, count in pairs)


def _gains(fields: Fields, values: Mapping[str, Any], kind: Kind, count: int) -> tuple[float, ...]:
    gains = values.get(kind)
    if not isinstance(gains, list) or len(gains) != count or not all(_is_real(gain, MAX_GAIN) for gain in gains):
        raise fields.invalid(kind, f"{count} numbers above 0 and up to {MAX_GAIN:g}, one a group")
    return tuple(float(gain) for gain in gains)


def _real(fields: Fields, values: Mapping[str, Any], name: str, *, high: float) -> float:
    if not _is_real(values.get(name), high):
        raise fields.invalid(name, f"a number above 0 and up to {high:g}")
    return float(values[name])


def _is_real(value: Any, high: float) -> bool:
    return type(value) in (int, float) and 0 < value <= high
