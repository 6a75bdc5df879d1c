"""Metadata documents of a cache: names, paths, writing of zarr.json for groups and arrays, and checks when reading.

They are written as JSON rather than through zarr-python, so that creation is one atomic put and equal input gives equal
bytes. All attributes of codistill are under the attribute `codistill`; beside it lies a checksum of the document. A
document that differs from the rendering of its own values is damaged.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from store import errors
from store.common import strict_json
from store.common.strict_json import Fields
from store.format import jpeg
from store.format.indexed_layout import IndexedLayout
from store.format.layout import ShardLayout, checksum
from store.format.parts import PART

FORMAT = 1
MISSING, OK, FAILED = 0, 1, 2
PIXELS = "pixels"
TOKENS = "tokens"
CODES = "codes"
HIERARCHY = "features.zarr"
NAME_RULE = "small letters, digits, '_' and '-', not starting with '__'"
RESERVED_NAMES = frozenset(
    {PIXELS, "pixels_status", TOKENS, "status", "statistics", "manifest", "images", "seal", "row", "rows", "all"}
)
JPEG_PIXELS = "jpeg-pixels"  # pixels stored as JPEG, in shards found through their index
KNOWN_REQUIREMENTS = frozenset({CODES, JPEG_PIXELS, PART})
PIXELS_DIMENSIONS = ("row", "height", "width", "rgb")
TOKENS_DIMENSIONS = ("row", "token", "channel")
CODES_DIMENSIONS = ("row", "byte")
CHECKSUM_ATTRIBUTE = "codistill_crc32c"  # documents of earlier versions have none
UNSET_CHECKSUM = "0" * 8
EXITS = "Run: codistill store verify CACHE --repair, or restore the file from another copy"
GROUP_REMAINS = (b'"codistill"', f'"{CHECKSUM_ATTRIBUTE}"'.encode())
REMAINS = tuple(f'"{word}"'.encode() for word in (CHECKSUM_ATTRIBUTE, "layout", "stride", "shard_rows"))
DATA_TYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
)
# What metadata may claim: far beyond real caches, and little enough for arithmetic and memory.
MAX_ROWS = 2**31
MAX_SHARD_ROWS = 2**20
MAX_DIMENSIONS = 8
MAX_ROW_BYTES = 2**30
MAX_CHUNK_BYTES = 2**30


def array_path(dataset: str, array: str, form: str = TOKENS) -> str:
    """Return the path of `pixels`, or of a teacher's `tokens` or `codes`, below the cache."""
    return f"{HIERARCHY}/{dataset}/{PIXELS if array == PIXELS else f'{array}/{form}'}"


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


def is_name(name: str) -> bool:
    """Return whether a dataset or teacher may have this name; others may lead anywhere."""
    return bool(re.fullmatch(r"[a-z0-9_-]+", name)) and not name.startswith("__") and name not in RESERVED_NAMES


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
    """Return the zarr.json of a group; a teacher's has no attributes."""
    return signed(_group(attributes)) if attributes else json_bytes(_group({}), indent=2)


def array_document(
    *,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    dimension_names: Sequence[str],
    shard_rows: int,
    attributes: Mapping[str, Any],
) -> bytes:
    """Return the zarr.json of rows: one row a chunk, `shard_rows` rows a shard, and the `layout` promise."""
    return signed(_rows(shape, dtype, dimension_names, shard_rows=shard_rows, attributes=attributes))


def signed(document: Mapping[str, Any]) -> bytes:
    """Return a zarr.json with its checksum: the crc32c of these bytes, computed with eight zeros in its place."""
    unset = json_bytes(_with_checksum(document, UNSET_CHECKSUM), indent=2)
    return json_bytes(_with_checksum(document, f"{checksum(unset):08x}"), indent=2)


def without_checksum(data: bytes) -> bytes:
    """Return a zarr.json of codistill as earlier versions wrote it, from one with a checksum."""
    return json_bytes(_without_checksum(json.loads(data)), indent=2)


def _with_checksum(document: Mapping[str, Any], crc: str) -> dict[str, Any]:
    return {**document, "attributes": {**document["attributes"], CHECKSUM_ATTRIBUTE: crc}}


def _group(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"codistill": attributes} if attributes else {}}


def _rows(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    dimension_names: Sequence[str],
    *,
    shard_rows: int,
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    row = list(shape[1:])
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    promise: dict[str, Any] = {"stride": ShardLayout.of(shape, dtype, shard_rows).stride}
    inner = plain
    if JPEG_PIXELS in attributes.get("requires", ()):
        promise = {"indexed": True}
        inner = [{"name": jpeg.CODEC, "configuration": jpeg.CONFIGURATION}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [1, *row], "codecs": inner, "index_codecs": plain, "index_location": "end"}
    attributes = {**attributes, "layout": {**promise, "shard_rows": shard_rows}}
    document = _array(shape, dtype, dimension_names, {"codistill": attributes})
    document["fill_value"] = "NaN" if dtype.kind == "f" else 0
    document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [shard_rows, *row]}}
    document["codecs"] = [{"name": "sharding_indexed", "configuration": sharding}]
    return document


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
        attributes: dict[str, Any] = self.document.get("attributes", {}).get("codistill", {})
        return attributes

    @property
    def has_checksum(self) -> bool:
        """Return whether the document carries the checksum of a document of codistill."""
        return CHECKSUM_ATTRIBUTE in self.document.get("attributes", {})

    @property
    def fields(self) -> Fields:
        """The attributes, for typed reading."""
        return Fields(self.attributes, where=f"'{self.path}/zarr.json': codistill")

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
    layout: ShardLayout | IndexedLayout | None

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def form(self) -> str:
        """`pixels`, `tokens` or `codes`: the last part of its path."""
        return self.path.rpartition("/")[2]

    def shard_key(self, shard: int) -> str:
        """Return the object of shard `shard`, below the cache."""
        return f"{self.path}/{shard_name(shard, len(self.shape))}"


def shard_name(shard: int, dimensions: int) -> str:
    """Return the file name of a shard: `c.17.0.0` for shard 17 of a 3-dimensional array."""
    return ".".join(["c", str(shard), *["0"] * (dimensions - 1)])


def parse_node(path: str, data: bytes) -> Node:
    """Parse a zarr.json.

    Raises:
        errors.Damaged: it is not JSON, or codistill wrote it and it is not the rendering of its own values.
        errors.UnsupportedFormat: not Zarr v3, a newer format, or an unknown feature under `requires`.
    """
    where = f"'{path}/zarr.json'"
    document = strict_json.parse_object(data, where=where)
    if document.get("zarr_format") != 3:
        raise errors.UnsupportedFormat(f"{where} is not a Zarr v3 node")
    attributes = Fields(document, where=where).mapping("attributes", optional=True)
    Fields(attributes, where=f"{where}: attributes").mapping("codistill", optional=True)
    node = Node(path=path, document=document)
    if node.has_checksum and signed(_without_checksum(document)) != data:
        raise errors.Damaged(f"{where}: its checksum differs. {EXITS}")
    version = node.attributes.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        message = f"'{path}' has format {version!r}, this program reads up to {FORMAT}. Install a newer codistill"
        raise errors.UnsupportedFormat(message)
    requires = node.fields.texts("requires") if "requires" in node.attributes else ()
    unknown = sorted(set(requires) - KNOWN_REQUIREMENTS)
    if unknown:
        raise errors.UnsupportedFormat(f"'{path}' requires {unknown}, unknown here. Install a newer codistill")
    if _written_here(node, data) and _rendered(lambda: rendering(document)) != data:
        raise errors.Damaged(f"{where} is not what codistill writes for the values in it. {EXITS}")
    return node


def parse_group(path: str, data: bytes) -> Node:
    """Parse the zarr.json of a group; raises as `parse_node`."""
    node = parse_node(path, data)
    if node.document.get("node_type") != "group":
        raise errors.UnsupportedFormat(f"'{path}/zarr.json' is not a group")
    return node


def rendering(document: Mapping[str, Any]) -> bytes:
    """Return the zarr.json of a group or of rows as codistill writes it for the values of a parsed one.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it lacks values or they have other types.
    """
    attributes = document["attributes"]
    own = attributes["codistill"]
    if document["node_type"] == "array":
        others = {key: value for key, value in own.items() if key != "layout"}
        rendered = _rows(
            document["shape"],
            np.dtype(document["data_type"]),
            document["dimension_names"],
            shard_rows=own["layout"]["shard_rows"],
            attributes=others,
        )
    else:
        rendered = _group(own)
    return signed(rendered) if CHECKSUM_ATTRIBUTE in attributes else json_bytes(rendered, indent=2)


def parse_array(path: str, data: bytes) -> ArrayNode:
    """Parse the zarr.json of an array of rows.

    Raises:
        errors.Damaged: it is not strict JSON, or codistill wrote it and it is not the rendering of its own values.
        errors.UnsupportedFormat: not an array, an unknown data type, or sizes out of bounds.
    """
    node = parse_node(path, data)
    fields = Fields(node.document, where=f"'{path}/zarr.json'", error=errors.UnsupportedFormat)
    fields.text("node_type", allowed=("array",))
    shape = fields.integers("shape", low=1, high=MAX_ROWS, lengths=range(1, MAX_DIMENSIONS + 1))
    dtype = np.dtype(fields.text("data_type", allowed=DATA_TYPES))
    if math.prod(shape[1:]) * dtype.itemsize > MAX_ROW_BYTES:
        raise fields.invalid("shape", f"rows of at most {MAX_ROW_BYTES} bytes")
    layout: ShardLayout | IndexedLayout | None = None
    if "layout" in node.attributes:
        promise = Fields(node.fields.mapping("layout"), where=f"'{path}/zarr.json': codistill.layout")
        kind = IndexedLayout if "indexed" in node.attributes["layout"] else ShardLayout
        layout = kind.of(shape, dtype, promise.integer("shard_rows", low=1, high=MAX_SHARD_ROWS))
    return ArrayNode(path=path, document=node.document, shape=shape, dtype=dtype, layout=layout)


def _written_here(node: Node, data: bytes) -> bool:
    """Return whether codistill wrote a document, by its attributes or by what damage left of them.

    An array of another program has no `layout`; a damaged byte hides one of these words and not two.
    """
    if node.document.get("node_type") == "array":
        return node.has_checksum or "layout" in node.attributes or sum(word in data for word in REMAINS) >= 2
    return node.has_checksum or bool(node.attributes) or any(word in data for word in GROUP_REMAINS)


def _without_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    others = {key: value for key, value in document["attributes"].items() if key != CHECKSUM_ATTRIBUTE}
    return {**document, "attributes": others}


def _rendered(render: Callable[[], bytes]) -> bytes | None:
    """Return what `render` gives; None where a document cannot be rendered."""
    try:
        return render()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
