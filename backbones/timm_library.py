"""The parts of timm that are used here, imported without Weights & Biases.

timm imports wandb where it is installed, for a helper that nobody here calls. That makes two folders in the system's
temporary directory, which a process that is killed leaves behind. timm's helper imports it when it is called.
"""

import sys
from typing import Any

PACKAGE = "wandb"


class _ImportedLater:
    """Stand-in for wandb in timm's helper."""

    def __getattr__(self, name: str) -> Any:
        import wandb

        return getattr(wandb, name)


_is_hidden = "timm" not in sys.modules and PACKAGE not in sys.modules
if _is_hidden:
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # what Python itself takes for "cannot be imported"
try:
    import timm
    from timm.data import resolve_model_data_config
    from timm.layers import Mlp, PatchEmbed, SwiGLUPacked
    from timm.models.efficientnet import EfficientNet
    from timm.models.vision_transformer import Block
    from timm.utils import summary
finally:
    if _is_hidden:
        del sys.modules[PACKAGE]
if _is_hidden:
    summary.wandb = _ImportedLater()

__all__ = [
    "Block",
    "EfficientNet",
    "Mlp",
    "PatchEmbed",
    "SwiGLUPacked",
    "resolve_model_data_config",
    "timm",
]
