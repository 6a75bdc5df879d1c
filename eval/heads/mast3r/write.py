"""Write pair models in the released layouts, as the authors' classes load them."""

import argparse
from pathlib import Path
from typing import Any

from backbones import weight_files
from eval.heads.mast3r import constructor
from eval.heads.mast3r.encoders import CrocoPairEncoder
from eval.heads.mast3r.layout import to_released
from eval.heads.mast3r.model import PairModel

SHORTEST_SIDE_PX = 512  # of the released models: 512 with patch 16, 518 with patch 14


def constructor_arguments(model: PairModel, *, img_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments from which the authors' class builds decoder, heads and MASt3R's encoder."""
    modes, decoder = model.activations, model.mast3r
    network = model.encoder.network if isinstance(model.encoder, CrocoPairEncoder) else None
    student_heads = getattr(getattr(model.encoder, "network", None), "num_heads", 1)
    outputs = decoder.downstream_head1.head_local_features.fc2.out_features // model.patch_size**2
    arguments = {
        "pos_embed": "RoPE100",
        "patch_embed_cls": "PatchEmbedDust3R",
        "patch_size": model.patch_size,
        "img_size": img_size,
        "head_type": "catmlp+dpt",
        "output_mode": f"pts3d+desc{outputs - modes.two_confs}",
        "depth_mode": modes.depth,
        "conf_mode": modes.conf,
        "enc_embed_dim": model.encoder.embed_dim,
        "enc_depth": 0 if network is None else len(network.blocks),
        "enc_num_heads": student_heads if network is None else network.embed_dim // network.head_dim,
        "dec_embed_dim": decoder.decoder_embed.out_features,
        "dec_depth": len(decoder.dec_blocks),
        "dec_num_heads": decoder.num_heads,
        "two_confs": modes.two_confs,
        "landscape_only": False,
    }
    return arguments if modes.desc_conf is None else arguments | {"desc_conf_mode": modes.desc_conf}


def save(
    path: str | Path,
    model: PairModel,
    *,
    backbone_name: str = "dune_vitbase_14_448_paper_encoder",
    img_size: tuple[int, int] | None = None,
) -> None:
    """Write a model in the released layout, and its sha256 beside it, which `load` checks.

    Args:
        path: file to write; must not exist.
        model: model to write. Of DUNE's variant decoder, heads and norm are written: its student has its own file.
        backbone_name: name of that student, from which the authors' loader finds it.
        img_size: height and width in the constructor, px; None means 512 or 518, as released.

    Raises:
        OutputExists: the file exists.
        StorageFailed: it cannot be written; nothing of it stays.
    """
    side = -(-SHORTEST_SIDE_PX // model.patch_size) * model.patch_size
    text = constructor.write(constructor_arguments(model, img_size=img_size or (side, side)))
    content: dict[str, Any] = {"model": to_released(model)}
    if model.norm is None:
        content["args"] = argparse.Namespace(model=text)
    else:
        content |= {"dune_backbone_name": backbone_name, "mast3r_model_str": text}
    weight_files.save(path, content)
