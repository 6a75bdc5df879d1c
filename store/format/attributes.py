"""Attributes of a cache, its datasets and teachers: from a parsed zarr.json to checked values, or one clear error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store import errors
from store.common.strict_json import Fields, JsonError
from store.format.code_spec import CodeSpec
from store.format.indexed_layout import IndexedLayout
from store.format.parts import PART, PartOf
from store.format.schema import (
    CODES,
    CODES_DIMENSIONS,
    MAX_CHUNK_BYTES,
    MAX_DIMENSIONS,
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_SHARD_ROWS,
    PIXELS,
    PIXELS_DIMENSIONS,
    TOKENS_DIMENSIONS,
    ArrayNode,
    Node,
)

MAX_IMAGE_SIZE_PX = 2**14
MAX_VIEWS = 2**16
MAX_GRID_SIDE = 2**12
MAX_PREFIX_TOKENS = 2**16
MAX_CHANNELS = 2**17
PIXEL_FORMS = ("raw", "jpeg")
ARCHIVE = "archive"  # its codec
SPLITS = ("train", "val")
MODES = ("train", "center")
RANDOM_SEED = "random_weights_seed"  # in the identity of a teacher that was built without weights, for trials


@dataclass(frozen=True, kw_only=True)
class CacheAttributes:
    """Attributes of the root group.

    Attributes:
        uuid: identifier of the cache.
        recipe: view recipe that the pixels were made by; plain JSON.
        image_size: side of the pixels, px.
        shard_rows: rows of a full shard.
        jpeg: whether pixels are stored as JPEG.
    """

    uuid: str
    recipe: dict[str, Any]
    image_size: int
    shard_rows: int
    jpeg: bool = False

    @classmethod
    def of(cls, node: Node) -> "CacheAttributes":
        """Check the attributes of a root group.

        Raises:
            errors.UnsupportedFormat: one is absent.
            errors.Damaged: one has another type or is out of bounds.
        """
        node.require(("format", "uuid", "recipe"))
        recipe = node.fields.mapping("recipe")
        where = f"'{node.path}/zarr.json': recipe"
        image_size, shard_rows = pixel_sizes(Fields(recipe, where=where))
        uuid, jpeg = node.fields.text("uuid"), stored_as_jpeg(recipe, where=where)
        return cls(uuid=uuid, recipe=recipe, image_size=image_size, shard_rows=shard_rows, jpeg=jpeg)


@dataclass(frozen=True, kw_only=True)
class DatasetAttributes:
    """Attributes of the group of a dataset, as `store.cache.metadata.DatasetMetadata` describes them."""

    group: str
    split: str
    mode: str
    views: int
    first_view: int
    images: int
    rows: int
    image_list_sha256: str
    source: dict[str, Any]
    part: PartOf | None = None

    @classmethod
    def of(cls, node: Node) -> "DatasetAttributes":
        """Check the attributes of a dataset.

        Raises:
            errors.UnsupportedFormat: one is absent.
            errors.Damaged: one has another type or is out of bounds, or rows are not images times views.
        """
        node.require(("group", "split", "mode", "views", "first_view", "images", "rows", "image_list_sha256"))
        fields = node.fields
        attributes = cls(
            group=fields.text("group"),
            split=fields.text("split", allowed=SPLITS),
            mode=fields.text("mode", allowed=MODES),
            views=fields.integer("views", low=1, high=MAX_VIEWS),
            first_view=fields.integer("first_view", low=0, high=2**31 - 1 - MAX_VIEWS),  # numbers of views are int32
            images=fields.integer("images", low=1, high=MAX_ROWS),
            rows=fields.integer("rows", low=1, high=MAX_ROWS),
            image_list_sha256=fields.hexadecimal("image_list_sha256", digits=64),
            source=fields.mapping("source", optional=True),
            part=PartOf.of(fields, name=node.path.rpartition("/")[2], largest=MAX_ROWS),
        )
        if attributes.rows != attributes.images * attributes.views:
            expected = f"{attributes.images} images times {attributes.views} views"
            raise fields.invalid("rows", expected)
        if attributes.part is not None and attributes.part.first_row != attributes.part.first_image * attributes.views:
            raise fields.invalid(PART, f"a first row that is the first image times {attributes.views} views")
        return attributes


@dataclass(frozen=True, kw_only=True)
class TeacherAttributes:
    """Attributes of a tokens or codes array, as `store.cache.metadata.TeacherInfo` describes them."""

    identity: dict[str, Any]
    groups: tuple[str, ...]
    patch_grid: tuple[int, int]
    prefix_tokens: int
    channels: int
    code: CodeSpec | None

    @classmethod
    def of(cls, node: ArrayNode) -> "TeacherAttributes":
        """Check the attributes of tokens or codes, and that the array has the shape that follows from them.

        Raises:
            errors.UnsupportedFormat: one is absent.
            errors.Damaged: one has another type or is out of bounds, or does not fit the shape.
        """
        node.require(("identity", "groups", "patch_grid", "prefix_tokens"))
        fields = node.fields
        rows, cols = fields.integers("patch_grid", low=1, high=MAX_GRID_SIDE, lengths=range(2, 3))
        prefix_tokens = fields.integer("prefix_tokens", low=0, high=MAX_PREFIX_TOKENS)
        channels, code = node.shape[-1], None
        if node.form == CODES:
            channels, code = _code_of(node, prefix_tokens=prefix_tokens, patches=rows * cols)
        elif channels > MAX_CHANNELS:
            raise errors.Damaged(f"'{node.path}/zarr.json': {node.shape[-1]} channels, expected at most {MAX_CHANNELS}")
        elif len(node.shape) != 3 or node.shape[1] != prefix_tokens + rows * cols:
            found = f"shape {list(node.shape)}"
            message = f"'{node.path}/zarr.json': {found} does not fit {prefix_tokens} prefix tokens and {rows}x{cols}"
            raise errors.Damaged(f"{message} patches")
        return cls(
            identity=fields.mapping("identity"),
            groups=fields.texts("groups"),
            patch_grid=(rows, cols),
            prefix_tokens=prefix_tokens,
            channels=channels,
            code=code,
        )


def _code_of(node: ArrayNode, *, prefix_tokens: int, patches: int) -> tuple[int, CodeSpec]:
    """Return channels and code of an array of codes, checked against its shape."""
    node.require(("requires", "channels", "code", "prefix_bytes"))
    where = f"'{node.path}/zarr.json': codistill"
    channels = node.fields.integer("channels", low=1, high=MAX_CHANNELS)
    code = CodeSpec.of(node.fields.mapping("code"), where=f"{where}.code")
    if code.channels != channels:
        raise node.fields.invalid("channels", f"{code.channels}, the components of the code")
    row_bytes, prefix_bytes = code.row_bytes(prefix_tokens, patches), prefix_tokens * code.prefix_record_bytes
    decoded_bytes = 2 * (prefix_tokens + patches) * channels
    if decoded_bytes > MAX_ROW_BYTES:
        raise errors.Damaged(f"{where}: rows of {decoded_bytes} bytes once decoded, expected at most {MAX_ROW_BYTES}")
    if node.shape[1:] != (row_bytes,):
        raise errors.Damaged(f"'{node.path}/zarr.json': rows of {row_bytes} bytes expected, found {node.shape[1:]}")
    if node.fields.integer("prefix_bytes", low=0, high=row_bytes) != prefix_bytes:
        raise node.fields.invalid("prefix_bytes", str(prefix_bytes))
    return channels, code


def pixel_sizes(recipe: Fields) -> tuple[int, int]:
    """Return (image_size, shard_rows) of a recipe, checked."""
    image_size = recipe.integer("image_size", low=1, high=MAX_IMAGE_SIZE_PX)
    return image_size, recipe.integer("shard_rows", low=1, high=MAX_SHARD_ROWS)


def stored_as_jpeg(recipe: Mapping[str, Any], *, where: str, error: JsonError = errors.Damaged) -> bool:
    """Return whether a recipe stores pixels as JPEG, checked; without the key they are raw."""
    fields = Fields({"pixels": "raw", **recipe}, where=where, error=error)
    return fields.text("pixels", allowed=PIXEL_FORMS) == "jpeg"


def is_archive(node: ArrayNode) -> bool:
    """Return whether an array is an archive of float16 tokens: compressed by codistill, read and checked by zarr."""
    return node.layout is None and ARCHIVE in node.attributes


def check_array(node: ArrayNode, *, array: str, rows: int, attributes: CacheAttributes) -> None:
    """Check that the array of a dataset fits the dataset and the recipe.

    Args:
        node: the array.
        array: `pixels` or a teacher's name.
        rows: rows of the dataset.
        attributes: attributes of the cache.

    Raises:
        errors.UnsupportedFormat: it does not; expected and found are shown.
    """
    if node.shape[0] != rows:
        raise errors.UnsupportedFormat(f"'{node.path}' has {node.shape[0]} rows, its dataset has {rows}")
    if node.layout is None:
        _check_chunks(node)
        return
    problems = []
    names = PIXELS_DIMENSIONS if array == PIXELS else CODES_DIMENSIONS if node.form == CODES else TOKENS_DIMENSIONS
    found = node.document.get("dimension_names")
    if found != list(names):
        problems.append(f"dimension names {list(names)} expected, found {found}")
    if node.layout.shard_rows != attributes.shard_rows:
        problems.append(f"{attributes.shard_rows} rows a shard expected, found {node.layout.shard_rows}")
    size = attributes.image_size
    if isinstance(node.layout, IndexedLayout) != (array == PIXELS and attributes.jpeg):
        forms = ("raw", "JPEG") if attributes.jpeg else ("JPEG", "raw")
        problems.append(f"rows stored as {forms[1]} expected by the recipe, found {forms[0]}")
    if array == PIXELS and (node.shape[1:], node.dtype.name) != ((size, size, 3), "uint8"):
        problems.append(f"uint8 pixels of {size}x{size}x3 expected, found {node.dtype} of {list(node.shape[1:])}")
    if node.form == CODES and (len(node.shape), node.dtype.name) != (2, "uint8"):
        problems.append(f"uint8 [row, byte] expected, found {node.dtype} of shape {list(node.shape)}")
    if array != PIXELS and node.form != CODES and (len(node.shape), node.dtype.name) != (3, "float16"):
        problems.append(f"float16 [row, token, channel] expected, found {node.dtype} of shape {list(node.shape)}")
    if problems:
        raise errors.UnsupportedFormat(f"'{node.path}/zarr.json': {'; '.join(problems)}")


def _check_chunks(node: ArrayNode) -> None:
    """Bound the chunks of an array that zarr reads: it asks for their memory before it looks at what is stored."""
    grid = Fields(node.document, where=f"'{node.path}/zarr.json'").mapping("chunk_grid")
    fields = Fields(grid, where=f"'{node.path}/zarr.json': chunk_grid", error=errors.UnsupportedFormat)
    configuration = Fields(fields.mapping("configuration"), where=f"'{node.path}/zarr.json': chunk_grid.configuration")
    chunk = configuration.integers("chunk_shape", low=1, high=MAX_ROWS, lengths=range(1, MAX_DIMENSIONS + 1))
    if math.prod(chunk) * node.dtype.itemsize > MAX_CHUNK_BYTES:
        raise configuration.invalid("chunk_shape", f"chunks of at most {MAX_CHUNK_BYTES} bytes")
