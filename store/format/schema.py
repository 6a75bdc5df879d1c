"""Metadata documents of a cache: names, paths, writing of zarr.json for groups and arrays, and checks when reading.

They are written as JSON rather than through zarr-python, so that creation is one atomic put and equal input gives equal
bytes. All attributes of codistill are under the attribute `codistill`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from store import errors
from store.format.layout import ShardLayout

FORMAT = 1
MISSING, OK, FAILED = 0, 1, 2
PIXELS = "pixels"
TOKENS = "tokens"
HIERARCHY = "features.zarr"
NAME_RULE = "small letters, digits, '_' and '-', not starting with '__'"
RESERVED_NAMES = frozenset(
    {PIXELS, "pixels_status", TOKENS, "status", "statistics", "manifest", "images", "seal", "row", "rows", "all"}
)
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()


def array_path(dataset: str, array: str) -> str:
    """Return the path of `pixels` or of a teacher's tokens below the cache."""
    return f"{HIERARCHY}/{dataset}/{PIXELS if array == PIXELS else f'{array}/{TOKENS}'}"


def status_path(dataset: str, array: str) -> str:
    """Return the path of the sealed status array of `pixels` or of a teacher."""
    return f"{HIERARCHY}/{dataset}/{'pixels_status' if array == PIXELS else f'{array}/status'}"


def statistics_path(dataset: str, teacher: str) -> str:
    """Return the path of a teacher's sealed statistics array."""
    return f"{HIERARCHY}/{dataset}/{teacher}/statistics"


def images_key(dataset: str) -> str:
    """Return the object of a dataset's image list."""
    return f"images/{dataset}.parquet"


def manifest_key(dataset: str) -> str:
    """Return the object of a dataset's sealed manifest."""
    return f"manifest/{dataset}.parquet"


def record_key(dataset: str, array: str) -> str:
    """Return the object of the record of the shards that the sealed tables of an array were made from."""
    return f"seal/{dataset}.{array}.safetensors"


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is allowed for a dataset or teacher.

    Args:
        kind: `dataset` or `teacher`, for the error.
        name: proposed name.

    Raises:
        errors.InvalidInput: a character is not allowed or the name is reserved.
    """
    if not re.fullmatch(r"[a-z0-9_-]+", name) or name.startswith("__"):
        raise errors.InvalidInput(f"{kind} name {name!r} is not allowed. Use {NAME_RULE}")
    if name in RESERVED_NAMES:
        raise errors.InvalidInput(f"{kind} name {name!r} is reserved. Choose one other than {sorted(RESERVED_NAMES)}")
    return name


def plain_json(value: Any) -> Any:
    """Return `value` as JSON would give it back (tuples become lists), so that comparisons are exact.

    Raises:
        errors.InvalidInput: it cannot be written as strict JSON (NaN and infinity included).
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise errors.InvalidInput(f"metadata must be plain JSON: {error}") from error


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """Return strict JSON with sorted keys: equal values give equal bytes."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, allow_nan=False, sort_keys=True, indent=indent, separators=separators).encode()


def digest(value: Any) -> str:
    """Return the sha256 (hex) of `value` as canonical JSON."""
    return hashlib.sha256(json_bytes(plain_json(value))).hexdigest()


def differences(stored: Any, asked: Any, *, path: str = "") -> list[str]:
    """Return every leaf in which two JSON values differ, as `path: stored X, asked Y`."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = sorted(set(stored) | set(asked))
        return [
            line
            for key in keys
            for line in differences(
                stored.get(key, "(absent)"), asked.get(key, "(absent)"), path=f"{path}.{key}" if path else key
            )
        ]
    return [] if stored == asked else [f"{path}: stored {stored!r}, asked {asked!r}"]


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the zarr.json of a group."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"codistill": attributes} if attributes else {}}
    return json_bytes(document, indent=2)


def array_document(
    *,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    dimension_names: Sequence[str],
    shard_rows: int,
    attributes: Mapping[str, Any],
) -> bytes:
    """Return the zarr.json of rows: one row a chunk, `shard_rows` rows a shard, and the `layout` promise."""
    layout = ShardLayout.of(shape, dtype, shard_rows)
    row = list(shape[1:])
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [1, *row], "codecs": inner, "index_codecs": inner, "index_location": "end"}
    attributes = {**attributes, "layout": {"stride": layout.stride, "shard_rows": shard_rows}}
    document = _array(shape, dtype, dimension_names, {"codistill": attributes})
    document["fill_value"] = "NaN" if dtype.kind == "f" else 0
    document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [shard_rows, *row]}}
    document["codecs"] = [{"name": "sharding_indexed", "configuration": sharding}]
    return json_bytes(document, indent=2)


def small_array_document(shape: Sequence[int], dtype: np.dtype[Any], dimension_names: Sequence[str]) -> bytes:
    """Return the zarr.json of a sealed array: one chunk with a crc32c, so that replacing it is atomic."""
    document = _array(shape, dtype, dimension_names, {})
    document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": list(shape)}}
    document["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    return json_bytes(document, indent=2)


def _array(
    shape: Sequence[int], dtype: np.dtype[Any], dimension_names: Sequence[str], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "attributes": dict(attributes),
        "dimension_names": list(dimension_names),
        "storage_transformers": [],
    }


@dataclass(frozen=True, kw_only=True)
class Node:
    """One group or array as stored: its path below the cache and its parsed zarr.json."""

    path: str
    document: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes under `codistill`; empty where codistill did not write the node."""
        attributes = self.document.get("attributes", {}).get("codistill", {})
        return attributes if isinstance(attributes, dict) else {}

    def require(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the attributes if all `keys` are there.

        Raises:
            errors.UnsupportedFormat: one is absent; all absent ones are listed.
        """
        absent = [key for key in keys if key not in self.attributes]
        if absent:
            raise errors.UnsupportedFormat(f"'{self.path}/zarr.json': attributes.codistill lacks {absent}")
        return self.attributes


@dataclass(frozen=True, kw_only=True)
class ArrayNode(Node):
    """An array of rows; `layout` is None where codistill did not write it: it is then read through zarr."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: ShardLayout | None

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    def shard_key(self, shard: int) -> str:
        """Return the object of shard `shard`, below the cache."""
        return f"{self.path}/{shard_name(shard, len(self.shape))}"


def shard_name(shard: int, dimensions: int) -> str:
    """Return the file name of a shard: `c.17.0.0` for shard 17 of a 3-dimensional array."""
    return ".".join(["c", str(shard), *["0"] * (dimensions - 1)])


def parse_node(path: str, data: bytes) -> Node:
    """Parse a zarr.json.

    Raises:
        errors.UnsupportedFormat: not Zarr v3, a newer format, or an unknown feature under `requires`.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise errors.Damaged(f"'{path}/zarr.json' is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise errors.UnsupportedFormat(f"'{path}/zarr.json' is not a Zarr v3 node")
    node = Node(path=path, document=document)
    version = node.attributes.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        message = f"'{path}' has format {version!r}, this program reads up to {FORMAT}. Install a newer codistill"
        raise errors.UnsupportedFormat(message)
    unknown = sorted(set(node.attributes.get("requires", [])) - KNOWN_REQUIREMENTS)
    if unknown:
        raise errors.UnsupportedFormat(f"'{path}' requires {unknown}, unknown here. Install a newer codistill")
    return node


def parse_array(path: str, data: bytes) -> ArrayNode:
    """Parse the zarr.json of an array of rows, and check that its layout promise fits its codecs.

    Raises:
        errors.UnsupportedFormat: not an array, an unknown data type, or a promise that its codecs do not keep.
    """
    node = parse_node(path, data)
    document = node.document
    try:
        shape, dtype = tuple(int(n) for n in document["shape"]), np.dtype(document["data_type"])
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UnsupportedFormat(f"'{path}/zarr.json' is not an array that can be read: {error}") from error
    promise = node.attributes.get("layout")
    layout = None
    if promise is not None:
        layout = ShardLayout.of(shape, dtype, int(promise.get("shard_rows", 0)))
        if promise.get("stride") != layout.stride or not _keeps_layout(document, layout.shard_rows):
            message = f"'{path}/zarr.json': attribute 'layout' = {promise} does not fit the array's chunks and codecs"
            raise errors.UnsupportedFormat(message)
    return ArrayNode(path=path, document=document, shape=shape, dtype=dtype, layout=layout)


def _keeps_layout(document: dict[str, Any], shard_rows: int) -> bool:
    row = document["shape"][1:]
    try:
        (codec,) = document["codecs"]
        sharding = codec["configuration"]
        return (
            codec["name"] == "sharding_indexed"
            and document["chunk_grid"]["configuration"]["chunk_shape"] == [shard_rows, *row]
            and document["chunk_key_encoding"]["configuration"]["separator"] == "."
            and sharding["chunk_shape"] == [1, *row]
            and sharding.get("index_location", "end") == "end"
            and _little_endian_with_crc32c(sharding["codecs"])
            and _little_endian_with_crc32c(sharding["index_codecs"])
        )
    except (KeyError, TypeError, ValueError):
        return False


def _little_endian_with_crc32c(codecs: list[dict[str, Any]]) -> bool:
    endian = codecs[0].get("configuration", {}).get("endian", "little")  # absent for one-byte types
    return [codec["name"] for codec in codecs] == ["bytes", "crc32c"] and endian == "little"
