"""Sizes of a human perception head: given by name, or read off its tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from eval.heads.hph.camera import CELL_PX, EMBEDDING_CHANNELS
from store.common.config import near_miss
from store.errors import InvalidConfig, InvalidInput

RELEASED_HEAD_WIDTH = 32
NUMBERS_A_ROTATION = 6
CAMERA_NUMBERS = 3
MAY_BE_ZERO = ("blocks", "expressions")
BLOCK_PREFIX = "prepended_blocks."


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Everything that the shapes of a head depend on; defaults are those of the released models.

    Attributes:
        embed_dim: channels of a token, C.
        img_size: side of the square input image in px; the grid has img_size / 14 cells a side.
        num_betas: shape numbers that are predicted.
        rotations: rotations of a body; 53 for SMPL-X: root, 21 of the body, 15 of each hand, jaw.
        expressions: expression numbers that are predicted.
        dim: inner width of the person decoder.
        depth: its layers.
        heads: its attention heads.
        dim_head: width of one of them.
        mlp_dim: hidden width of its MLPs.
        blocks: transformer blocks before the head, on the student's tokens; Multi-HMR has none, DUNE two.
        block_heads: attention heads of these blocks.
    """

    embed_dim: int
    img_size: int
    num_betas: int = 10
    rotations: int = 53
    expressions: int = 10
    dim: int = 1024
    depth: int = 2
    heads: int = 8
    dim_head: int = RELEASED_HEAD_WIDTH
    mlp_dim: int = 1024
    blocks: int = 0
    block_heads: int = 12

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected a positive integer, found {value}"
            for name, value in asdict(self).items()
            if not isinstance(value, int) or value < (0 if name in MAY_BE_ZERO else 1)
        ]
        if not problems and self.img_size % CELL_PX:
            problems.append(f"img_size: expected a multiple of {CELL_PX} px, found {self.img_size}")
        if not problems and self.blocks and self.embed_dim % self.block_heads:
            problems.append(f"block_heads: {self.block_heads} do not divide embed_dim {self.embed_dim}")
        if problems:
            raise InvalidConfig("sizes of the perception head", problems)

    @property
    def grid(self) -> int:
        """Cells a side, n."""
        return self.img_size // CELL_PX

    @property
    def context_dim(self) -> int:
        """Channels of a token with its camera embedding."""
        return self.embed_dim + EMBEDDING_CHANNELS

    @property
    def pose_numbers(self) -> int:
        """Numbers of all rotations together."""
        return NUMBERS_A_ROTATION * self.rotations


NOT_IN_TENSORS = ("heads", "dim_head", "block_heads")
SIZE_NAMES = tuple(field.name for field in fields(HeadSizes))


def sizes_of(state: Mapping[str, Tensor], given: Mapping[str, Any], *, source: str) -> HeadSizes:
    """Return the sizes of the head whose tensors these are.

    Only the number of attention heads cannot be read off them: it is computed with the released width, 32, unless
    `heads` or `dim_head` is given.

    Args:
        state: tensors of the head by their released names.
        given: sizes by name that the caller knows; each must agree with the tensors.
        source: name of the file in messages.

    Raises:
        InvalidInput: an unknown size, one that the tensors contradict, tensors missing, or heads that are not known.
    """
    unknown = [f"{name}: unknown size{near_miss(name, SIZE_NAMES)}" for name in given if name not in SIZE_NAMES]
    if unknown:
        raise InvalidInput(f"{source}: {'; '.join(unknown)}. Known sizes: {', '.join(SIZE_NAMES)}")
    found = _found(state, source=source)
    inner = found.pop("inner")
    found |= _heads(inner, given, source=source)
    wrong = [
        f"{name} is {given[name]}, the tensors have {found[name]}"
        for name in given
        if name in found and given[name] is not None and given[name] != found[name]
    ]
    if wrong:
        raise InvalidInput(f"{source}: {'; '.join(wrong)}. Leave out sizes that the file tells")
    if found["blocks"] and given.get("block_heads"):
        found["block_heads"] = given["block_heads"]
    return HeadSizes(**found)


def _found(state: Mapping[str, Tensor], *, source: str) -> dict[str, int]:
    decoder = "x_attention_head.transformer."
    layer = decoder + "transformer.layers."

    def shape(name: str, axis: int) -> int:
        tensor = state.get(name)
        if tensor is None or tensor.ndim <= axis:
            raise InvalidInput(
                f"{source}: expected a human perception head, but '{name}' is missing or of another form. Give a "
                "multiHMR_*.pt file with SMPL-X, or one that a training of this head wrote"
            )
        return int(tensor.shape[axis])

    def count(prefix: str) -> int:
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
        return len(numbers)

    return {
        "embed_dim": shape("mlp_classif.0.weight", 0),
        "img_size": CELL_PX * shape("x_attention_head.cross_queries_x", 0),
        "num_betas": shape("x_attention_head.decshape.weight", 0),
        "rotations": shape("x_attention_head.decpose.weight", 0) // NUMBERS_A_ROTATION,
        "expressions": shape("x_attention_head.init_expression", 1),
        "dim": shape(decoder + "pos_embedding", 2),
        "depth": count(layer),
        "mlp_dim": shape(f"{layer}0.2.fn.net.0.weight", 0),
        "inner": shape(f"{layer}0.1.fn.to_q.weight", 0),
        "blocks": count(BLOCK_PREFIX + "blocks."),
    }


def _heads(inner: int, given: Mapping[str, Any], *, source: str) -> dict[str, int]:
    heads, width = given.get("heads"), given.get("dim_head")
    if heads is None and width is None:
        width = RELEASED_HEAD_WIDTH
    heads = inner // max(1, width or 1) if heads is None else heads
    width = inner // max(1, heads) if width is None else width
    if heads <= 0 or heads * width != inner:
        raise InvalidInput(
            f"{source}: attention of width {inner}, found {heads} heads of {width}. Give heads=, or dim_head=, so that "
            f"their product is {inner}"
        )
    return {"heads": int(heads), "dim_head": int(width)}
