"""Read pair models from files in the released layouts: strictly, and nothing in them is run.

MASt3R: `{model, args}`, where `args.model` is the constructor. DUNE's variant: `{model, dune_backbone_name,
mast3r_model_str}`. The same tensors as safetensors are read too; a file of DUNE's variant may then carry its student
under `dune_backbone.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import dino, state_dicts, weight_files
from backbones.device import resolve_device
from eval.heads.mast3r import constructor
from eval.heads.mast3r.encoders import CrocoPairEncoder, StudentPairEncoder, open_student
from eval.heads.mast3r.layout import DECODER, UNUSED, completed, fill
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.sizes import PairSizes, Stated, check_told, depth, infer, stated
from extract.teachers import mast3r as croco_files
from extract.teachers.croco import CrocoEncoder
from store.errors import InvalidInput
from train.model.encoder import Encoder as StudentNetwork

STATE_NAMES = ("model",)
BACKBONE = "dune_backbone."
IGNORED = ("imagenet", f"{DECODER}enc_blocks.")  # statistics in buffers, and blocks of an encoder that nothing reads


def load(
    weights: str | Path,
    encoder: "str | Path | StudentNetwork | None" = None,
    device: torch.device | str = "cpu",
    **sizes: Any,
) -> PairModel:
    """Load a pair model: MASt3R, or DUNE's variant of it.

    Args:
        weights: file in a released layout, or the same tensors as safetensors.
        encoder: for DUNE's variant: its student, as a run directory, a file in DUNE's layout, or the network. None
            where the file holds the encoder.
        device: device to run on.
        sizes: what the weights do not tell: `num_heads`, or `enc_num_heads` and `dec_num_heads` (None means channels /
            64), `depth_mode`, `conf_mode`, `desc_conf_mode`, `two_confs` (as the constructor in the file says, else as
            released). Other names of the authors' constructors are compared with the weights.

    Returns:
        The model in evaluation mode.

    Raises:
        MissingFile, UnsafeFile, Damaged: as `backbones.weight_files.load`.
        InvalidInput: another model, missing, unexpected or misshapen tensors, unknown sizes, no encoder, or no such
            device.
    """
    source = f"weights '{weights}' as MASt3R"
    content = weight_files.load(weights)
    state = state_dicts.strip_wrappers(state_dicts.find(content, STATE_NAMES, source=source))
    arguments = constructor_of(content, source=source)
    student_sizes = sizes.pop("dune", None) or {}
    if not isinstance(student_sizes, Mapping):
        raise InvalidInput(f"{source}: dune {student_sizes!r}: expected a table of the student's sizes")
    say = stated(arguments, sizes, source=source)
    if any(name.startswith(DECODER) for name in state):
        heads = student_sizes.get("num_heads") or sizes.get("enc_num_heads") or sizes.get("num_heads")
        model = _student_variant(state, content, encoder, say, sizes, num_heads=heads, source=source)
    elif encoder is not None:
        raise InvalidInput(
            f"{source}: it has its own encoder. Leave out encoder=, or begin a student's head with from_mast3r"
        )
    else:
        model = _plain(state, say, sizes, source=source)
    return model.to(resolve_device(str(device), option="device")).eval()


def constructor_of(content: Any, *, source: str) -> dict[str, Any] | None:
    """Return the arguments of the constructor that a checkpoint names; None if it names none.

    Raises:
        InvalidInput: it cannot be read as literals, or builds another model.
    """
    if not isinstance(content, Mapping):
        return None
    args = content.get("args")
    text = content.get("mast3r_model_str")
    if text is None:
        text = args.get("model") if isinstance(args, Mapping) else getattr(args, "model", None)
    return constructor.parse(text, source=source) if isinstance(text, str) else None


def _plain(state: state_dicts.State, say: Stated, sizes: Mapping[str, Any], *, source: str) -> PairModel:
    state = completed(state, plain=True, source=source)
    found = infer(state, say, source=source)
    own = {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in state.items()
        for theirs, ours in croco_files.ENCODER.items()
        if name.startswith(theirs)
    }
    enc_depth = depth(state, "enc_blocks", source=source)
    architecture = croco_files.infer(
        own, num_heads=say.enc_num_heads, stored_groups=state_dicts.groups(state), source=source
    )
    check_told(found, sizes, source=source, enc_depth=enc_depth)
    with torch.device("meta"):
        model = PairModel(CrocoPairEncoder(CrocoEncoder(**architecture)), found.build(), say.modes, student=False)
    model.unused = {"mask_token": state["mask_token"].clone()} if "mask_token" in state else {}
    fill(model, state, source=source)
    return model


def _student_variant(
    state: state_dicts.State,
    content: Any,
    encoder: "str | Path | StudentNetwork | None",
    say: Stated,
    sizes: Mapping[str, Any],
    *,
    num_heads: int | None,
    source: str,
) -> PairModel:
    own = state_dicts.select(state, BACKBONE)
    state = {name: tensor for name, tensor in state.items() if not name.startswith((BACKBONE, *IGNORED))}
    decoder = completed(state_dicts.select(state, DECODER), plain=False, source=source)
    found = infer(decoder, say, source=source)
    if encoder is not None:
        student = open_student(encoder, num_heads=num_heads)
    elif own:
        student = StudentPairEncoder(dino.build(own, num_heads=num_heads, pos_rule="dune", source=source)[0])
    else:
        name = content.get("dune_backbone_name") if isinstance(content, Mapping) else None
        raise InvalidInput(
            f"{source}: it holds decoder and heads alone, made for the student {name or 'of another file'}. Pass "
            "encoder=FILE_OR_RUN (--student of a command)"
        )
    check_encoder(student, found, source=source)
    check_told(found, sizes, source=source)
    with torch.device("meta"):
        network = found.build()
    model = PairModel(student, network, say.modes, student=True)
    model.unused = {DECODER + name: decoder[name].clone() for name in UNUSED if name in decoder}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(DECODER)}
    fill(model, rest | {DECODER + name: tensor for name, tensor in decoder.items()}, source=source)
    return model


def check_encoder(student: StudentPairEncoder, found: PairSizes, *, source: str) -> None:
    """Compare a student with the decoder that reads it.

    Raises:
        InvalidInput: another width or patch size.
    """
    wanted = (found.enc_embed_dim, found.head.patch_size)
    if (student.embed_dim, student.patch_size) != wanted:
        raise InvalidInput(
            f"{source}: expected an encoder of {wanted[0]} channels and patch size {wanted[1]}, found "
            f"{student.embed_dim} and {student.patch_size}. Pass the student that it was trained on"
        )
