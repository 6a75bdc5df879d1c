"""Export of an encoder as a folder that timm, torch.hub and the Hugging Face hub read."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from backbones.images import IMAGENET_MEAN, IMAGENET_STD
from backbones.position import resample_pos_embed
from backbones.vit import DinoVisionTransformer
from store.common import atomic, checksums
from store.errors import OutputExists, StorageFailed
from train.export import onnx_model
from train.export.card import CardFacts, licence_file, model_card
from train.export.hubconf import hubconf
from train.model.encoder import Encoder, TimmEncoder

WEIGHTS, CONFIG, CARD, LICENCE, HUBCONF = "model.safetensors", "config.json", "README.md", "LICENSE.md", "hubconf.py"
ONNX = "model.onnx"
TIMM_BASE = "vit_base_patch14_reg4_dinov2"  # gives the class; every size is overridden by `model_args`


def export_encoder(
    encoder: Encoder, directory: str | Path, *, image_size: int, card: CardFacts | None = None, onnx: bool = False
) -> None:
    """Write the encoder as `timm.create_model("local-dir:DIRECTORY", pretrained=True)` reads it.

    timm's `forward_features` ends with the final norm, which distillation never trains (the released encoders apply it
    too); `forward_intermediates(norm=False)` gives the tokens that projectors read.

    Args:
        encoder: encoder to export.
        directory: empty or new directory.
        image_size: side of the images that timm's model takes, px. The position embedding is resampled to it by DUNE's
            rule, because timm's own resampling gives other features.
        card: facts for a model card; None writes none.
        onnx: write `model.onnx` too, once its output has been compared with the encoder's.

    Raises:
        OutputExists: the directory is not empty.
        InvalidInput: the size is not a multiple of the patch size, or ONNX cannot hold this encoder exactly.
        MissingExtra: ONNX is asked for and not installed.
        StorageFailed: it cannot be written, for example onto a full disk; nothing of it stays.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise OutputExists(f"output '{directory}' is not empty. Choose another directory or delete it")
    if onnx:
        onnx_model.require()
    state = timm_state(encoder, image_size=image_size)
    texts = {CONFIG: json.dumps(timm_config(encoder, image_size=image_size), indent=2) + "\n"}
    texts[HUBCONF] = hubconf(card.name if card else directory.name)
    if card is not None:
        texts[CARD] = model_card(encoder, card, image_size=image_size, onnx=onnx)
        if licence := licence_file(card):
            texts[LICENCE] = licence
    with _nothing_left_on_failure(directory, [WEIGHTS, *texts, ONNX, checksums.SUMS]):
        with atomic.replacing(directory / WEIGHTS) as partial:
            # not save_file, whose files only their owner may read
            partial.write_bytes(save(state, metadata={"format": "pt"}))
        for name, text in texts.items():
            atomic.write_text(directory / name, text)
        if onnx:
            onnx_model.write(directory, directory / ONNX, encoder=encoder, image_size=image_size)
        checksums.write_folder_sums(directory, [WEIGHTS, *texts, *([ONNX] if onnx else [])])


@contextmanager
def _nothing_left_on_failure(directory: Path, names: Sequence[str]) -> Iterator[None]:
    """Remove `names` from a directory, and the directory if it was absent, when they cannot all be written."""
    existed = directory.exists()
    try:
        yield
    except BaseException as error:
        for name in names:
            (directory / name).unlink(missing_ok=True)
        if not existed:
            with suppress(OSError):
                directory.rmdir()
        reason = atomic.system_reason(error) if isinstance(error, Exception) else None
        if reason is None:
            raise
        message = f"output '{directory}' cannot be written: {reason}. Put that right and try again"
        raise StorageFailed(message) from error


@torch.no_grad()
def timm_state(encoder: Encoder, *, image_size: int) -> dict[str, Tensor]:
    """Return the weights under timm's names for one image size; the CLS token takes in its position embedding."""
    if isinstance(encoder, TimmEncoder):
        return {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.vit.state_dict().items()}
    state = dict(encoder.state_dict())
    grid = encoder.patch_grid(image_size, image_size)
    position = resample_pos_embed(encoder.pos_embed, grid, rule=encoder.pos_rule, stored_grid=encoder.pos_grid)
    state["cls_token"] = encoder.cls_token + position[:, :1]
    state["pos_embed"] = position[:, 1:]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def timm_config(encoder: Encoder, *, image_size: int) -> dict[str, Any]:
    """Return timm's `config.json`: architecture, its arguments and the preprocessing."""
    arguments: dict[str, Any] = {"img_size": image_size}
    architecture = TIMM_BASE
    if isinstance(encoder, TimmEncoder):
        architecture = encoder.name
        arguments["dynamic_img_size"] = True
    else:
        arguments |= _vit_arguments(encoder)
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, image_size, image_size],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }


def _vit_arguments(encoder: DinoVisionTransformer) -> dict[str, Any]:
    names = {name for name, _ in encoder.named_parameters()}
    return {
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.embed_dim,
        "depth": len(encoder.blocks),
        "num_heads": encoder.num_heads,
        "reg_tokens": encoder.register_tokens,
        "init_values": 1e-4 if "blocks.0.ls1.gamma" in names else 0.0,  # with None timm takes its own default
        "no_embed_class": True,
    }
