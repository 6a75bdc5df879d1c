"""Checkpoints of naver/dune: read and write. Only this module knows their names.

`{model, args}`: tensors `encoder.blocks.0.N.*` (blocks sit in one chunk), `projectors.TEACHER.{blocks.0,linear}.*` and
`teacher_norms.TEACHER.normalizers.{cls|patch}.{mean|std}`; `args` is an `argparse.Namespace`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import dino, state_dicts, weight_files
from backbones.vit import DinoVisionTransformer
from store import TeacherInfo
from store.errors import InvalidInput, OutputExists
from train.model.distiller import Distiller, encoder_shape
from train.model.encoder import ARCHITECTURES
from train.model.projectors import TransformerProjector, build_projector
from train.objective.targets import TargetNorms
from train.recipe.config import Projector, Student

RELEASED_NAMES = {
    "dinov2": "dino2reg_vitlarge_14",
    "mast3r": "mast3r_vitlarge_16",
    "multihmr": "multihmr_vitlarge_14_672",
}  # ours -> theirs
RELEASED_ARCHITECTURES = {"small": "vit_small", "base": "vit_base", "large": "vit_large"}


@dataclass(frozen=True, kw_only=True)
class DuneCheckpoint:
    """Content of a checkpoint file.

    Attributes:
        encoder: the student, its final norm frozen.
        image_size: side of the training images, px.
        distiller: encoder and projectors; None if the file holds an encoder alone.
        norms: statistics of the teachers' tokens; None if the file has none.
    """

    encoder: DinoVisionTransformer
    image_size: int
    distiller: Distiller | None
    norms: TargetNorms | None


def load(
    path: str | Path, *, num_heads: int | None = None, names: Mapping[str, str] = RELEASED_NAMES
) -> DuneCheckpoint:
    """Read a file of the authors, or one that `save` wrote; no code in it is run.

    The architecture follows from the shapes. Names may begin with `module.` and `_orig_mod.`; a file may hold the whole
    student, or its encoder with or without `encoder.` in front.

    Args:
        path: path of the `.pth` file.
        num_heads: attention heads of encoder and projectors; None means channels / 64.
        names: our names of teachers -> the file's; other teachers keep the file's name.

    Raises:
        MissingFile, UnsafeFile, Damaged: as `backbones.weight_files.load`.
        InvalidInput: the file has another layout, or tensors are missing.
    """
    source = f"DUNE checkpoint '{path}'"
    content = weight_files.load(path)
    state = state_dicts.strip_wrappers(state_dicts.find(content, ("model",), source=source))
    encoder, _ = dino.build(
        state_dicts.select(state, "encoder.") or state, num_heads=num_heads, pos_rule="dune", source=source
    )
    encoder.norm.requires_grad_(False)
    image_size = _image_size(content, encoder)
    ours = {theirs: name for name, theirs in names.items()}
    projectors = _by_teacher(state, "projectors.", ours)
    if not projectors:
        return DuneCheckpoint(encoder=encoder, image_size=image_size, distiller=None, norms=None)
    norms = _by_teacher(state, "teacher_norms.", ours)
    teachers = {
        name: _teacher(
            name,
            encoder,
            channels=len(tensors["linear.bias"]),
            prefix_tokens=int(name not in norms or "normalizers.cls.mean" in norms[name]),
        )
        for name, tensors in projectors.items()
        if "linear.bias" in tensors
    }
    built = {name: _projector(projectors[name], encoder, info, source=source) for name, info in teachers.items()}
    distiller = Distiller(encoder, built, teachers=teachers, cell_px=encoder.patch_size)
    target_norms = _norms(norms, teachers, source=source) if norms else None
    return DuneCheckpoint(encoder=encoder, image_size=image_size, distiller=distiller, norms=target_norms)


def save(
    path: str | Path,
    distiller: Distiller,
    norms: TargetNorms,
    *,
    names: Mapping[str, str] = RELEASED_NAMES,
) -> None:
    """Write a student as the authors' loader reads it, and its sha256 beside it, which `load` checks.

    Args:
        path: file to write; must not exist.
        distiller: student to write: a ViT-S, B or L with patch 14, 4 registers, LayerScale and one-block transformer
            projectors, which the loader builds from its defaults.
        norms: statistics of the teachers' tokens.
        names: our names of teachers -> those that the loader knows; other teachers keep ours.

    Raises:
        OutputExists: the file exists.
        InvalidInput: the loader cannot build this student; every reason is listed.
        StorageFailed: it cannot be written, for example onto a full disk; nothing of it stays.
    """
    if Path(path).exists():
        raise OutputExists(f"output '{path}' exists. Choose another name or delete it")
    args = released_args(distiller, names=names)
    weight_files.save(path, {"model": to_released(distiller, norms, names=names), "args": args})


def to_released(
    distiller: Distiller, norms: TargetNorms, *, names: Mapping[str, str] = RELEASED_NAMES
) -> dict[str, Tensor]:
    """Return the tensors of a student under the names of the released files, in their order.

    Raises:
        InvalidInput: the layout has no place for this kind of encoder or projectors.
    """
    if not isinstance(distiller.encoder, DinoVisionTransformer):
        raise InvalidInput("the DUNE layout holds DINOv2-type encoders only, found a timm model")
    released: dict[str, Tensor] = {}
    for name, tensor in distiller.encoder.state_dict().items():
        chunked = f"blocks.0.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name
        released["encoder." + chunked.replace("reg_token", "register_tokens")] = tensor
    # an unused tensor of DINOv2's pretraining that the loader asks for
    released["encoder.mask_token"] = distiller.encoder.cls_token.new_zeros(1, distiller.encoder.embed_dim).detach()
    for name, projector in distiller.projectors.items():
        if not isinstance(projector, TransformerProjector):
            raise InvalidInput(f"the DUNE layout holds transformer projectors (tp) only, found another for '{name}'")
        for key, tensor in projector.state_dict().items():
            released[f"projectors.{names.get(name, name)}.{key}"] = tensor
    for key, tensor in norms.norms.state_dict().items():
        name, statistic = key.split(".", 1)
        released[f"teacher_norms.{names.get(name, name)}.normalizers.{statistic}"] = tensor
    return {key: tensor.detach().cpu() for key, tensor in released.items()}


def released_args(distiller: Distiller, *, names: Mapping[str, str] = RELEASED_NAMES) -> argparse.Namespace:
    """Return the `args` from which the authors' loader rebuilds the student.

    Raises:
        InvalidInput: the loader's defaults build another student; every reason is listed.
    """
    encoder, default = distiller.encoder, Student()
    shape = encoder_shape(encoder)
    size = (shape.embed_dim, shape.depth, shape.num_heads)
    matching = [theirs for ours, theirs in RELEASED_ARCHITECTURES.items() if ARCHITECTURES[ours] == size]
    blocks = {len(p.blocks) for p in distiller.projectors.values() if isinstance(p, TransformerProjector)}
    checks = {
        f"embed_dim, depth, num_heads {size}, expected those of {', '.join(RELEASED_ARCHITECTURES)}": bool(matching),
        f"patch size {encoder.patch_size}, expected {default.patch_size}": encoder.patch_size == default.patch_size,
        f"{encoder.register_tokens} registers, expected {default.registers}": (
            encoder.register_tokens == default.registers
        ),
        "no LayerScale": any(name.endswith("ls1.gamma") for name, _ in encoder.named_parameters()),
        f"projectors of {sorted(blocks)} blocks, expected 1": blocks == {1},
        f"patch grid {encoder.pos_grid}, expected a square": encoder.pos_grid[0] == encoder.pos_grid[1],
    }
    problems = [reason for reason, passed in checks.items() if not passed]
    if problems:
        raise InvalidInput(
            f"the loader of naver/dune cannot build this student: {'; '.join(problems)}. Export the encoder for timm "
            "instead (codistill train export --format timm)"
        )
    return argparse.Namespace(
        image_size=encoder.pos_grid[0] * encoder.patch_size,
        enc_args={"arch": matching[0]},
        proj_args={},
        teachers=sorted(names.get(name, name) for name in distiller.teachers),
    )


def _by_teacher(state: Mapping[str, Tensor], prefix: str, ours: Mapping[str, str]) -> dict[str, state_dicts.State]:
    by_teacher: dict[str, state_dicts.State] = {}
    for name, tensor in state_dicts.select(state, prefix).items():
        teacher, _, rest = name.partition(".")
        by_teacher.setdefault(ours.get(teacher, teacher), {})[rest] = tensor
    return by_teacher


def _teacher(name: str, encoder: DinoVisionTransformer, *, channels: int, prefix_tokens: int) -> TeacherInfo:
    """Return what a file tells of a teacher: not its identity, nor the groups that it specialises in."""
    return TeacherInfo(
        name=name,
        identity={},
        identity_digest="",
        groups=(),
        patch_grid=encoder.pos_grid,
        prefix_tokens=prefix_tokens,
        channels=channels,
    )


def _projector(
    state: state_dicts.State, encoder: DinoVisionTransformer, teacher: TeacherInfo, *, source: str
) -> TransformerProjector:
    config = Projector(
        kind="tp",
        blocks=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
    )
    projector = build_projector(
        config, encoder=encoder_shape(encoder), prefix_tokens=teacher.prefix_tokens, channels=teacher.channels
    )
    state_dicts.load_into(projector, state, source=source)
    assert isinstance(projector, TransformerProjector)
    return projector


def _norms(
    by_teacher: Mapping[str, state_dicts.State], teachers: Mapping[str, TeacherInfo], *, source: str
) -> TargetNorms:
    norms = TargetNorms(teachers)
    state = {
        f"{teacher}.{name.removeprefix('normalizers.')}": tensor
        for teacher, tensors in by_teacher.items()
        for name, tensor in tensors.items()
    }
    state_dicts.load_into(norms.norms, state, source=f"{source}, teacher norms")
    return norms


def _image_size(content: Any, encoder: DinoVisionTransformer) -> int:
    args = content.get("args") if isinstance(content, Mapping) else None
    options = args if isinstance(args, Mapping) else vars(args) if isinstance(args, argparse.Namespace) else {}
    stored = options.get("image_size")
    return stored if isinstance(stored, int) else encoder.pos_grid[0] * encoder.patch_size
