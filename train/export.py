"""Export of a run's student: the encoder as a folder that timm reads, with a model card, or a file of naver/dune."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones.images import IMAGENET_MEAN, IMAGENET_STD
from backbones.position import resample_pos_embed
from backbones.vit import DinoVisionTransformer
from store.common import atomic, checksums
from store.errors import OutputExists, StorageFailed
from train.model.encoder import Encoder, TimmEncoder, has_cls
from train.run import dune_checkpoint, headline, log
from train.run.load import Run

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
TIMM_BASE = "vit_base_patch14_reg4_dinov2"  # gives the class; every size is overridden by `model_args`

Format = Literal["timm", "dune"]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Facts of a model card beside the architecture.

    Attributes:
        name: name of the model.
        recipe: name of the run's recipe.
        steps: optimizer steps done.
        teachers: name of a teacher -> text that identifies it.
        datasets: names of the training datasets.
        fidelity: name of a measure -> held-out value, for example `patch cosine with mast3r`.
    """

    name: str
    recipe: str
    steps: int
    teachers: Mapping[str, str]
    datasets: Sequence[str]
    fidelity: Mapping[str, float] = field(default_factory=dict)


def export_run(run: Run, out: Path, *, kind: Format = "timm", image_size: int | None = None) -> None:
    """Write the student of a run for other programs.

    Args:
        run: run from `train.run.load.load`.
        out: new directory for "timm" (safetensors, JSON, model card); new file for "dune" (`.pth` with projectors and
            statistics, as the loader of naver/dune reads it).
        kind: format to write.
        image_size: side of the images that timm's model takes, px; None takes the size that the encoder was trained on.

    Raises:
        OutputExists: the directory is not empty, or the file exists.
        InvalidInput: the DUNE layout cannot hold this student.
    """
    if kind == "dune":
        dune_checkpoint.save(out, run.distiller, run.target_norms)
        return
    if out.exists() and not out.is_dir():
        raise OutputExists(f"output '{out}' is a file. Choose a directory")
    encoder = run.distiller.encoder
    size = image_size or encoder.pos_grid[0] * encoder.patch_size  # not the views' size if the patch sizes differ
    export_encoder(encoder, out, image_size=size, card=card_facts(run))


def export_encoder(encoder: Encoder, directory: str | Path, *, image_size: int, card: CardFacts | None = None) -> None:
    """Write the encoder as `timm.create_model("local-dir:DIRECTORY", pretrained=True)` reads it.

    timm's `forward_features` ends with the final norm, which distillation never trains (the released encoders apply it
    too); `forward_intermediates(norm=False)` gives the tokens that projectors read.

    Args:
        encoder: encoder to export.
        directory: empty or new directory.
        image_size: side of the images that timm's model takes, px. The position embedding is resampled to it by DUNE's
            rule, because timm's own resampling gives other features.
        card: facts for a model card; None writes none.

    Raises:
        OutputExists: the directory is not empty.
        InvalidInput: the size is not a multiple of the patch size.
        StorageFailed: it cannot be written, for example onto a full disk; nothing of it stays.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise OutputExists(f"output '{directory}' is not empty. Choose another directory or delete it")
    state = timm_state(encoder, image_size=image_size)
    texts = {CONFIG: json.dumps(timm_config(encoder, image_size=image_size), indent=2) + "\n"}
    if card is not None:
        texts[CARD] = model_card(encoder, card, image_size=image_size)
    with _nothing_left_on_failure(directory, [WEIGHTS, *texts, checksums.SUMS]):
        with atomic.replacing(directory / WEIGHTS) as partial:
            save_file(state, partial, metadata={"format": "pt"})
        for name, text in texts.items():
            atomic.write_text(directory / name, text)
        checksums.write_folder_sums(directory, [WEIGHTS, *texts])


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


def card_facts(run: Run) -> CardFacts:
    """Collect the facts of a run; its fidelity is the last patch cosine, averaged over the held-out datasets."""
    datasets = {name: info["split"] for cache in run.description["caches"] for name, info in cache["datasets"].items()}
    measured = [record for record in log.read(run.directory, log.FIDELITY) if record["step"] <= run.step]
    fidelity: dict[str, float] = {}
    if measured:
        for teacher in run.teachers:
            fidelity |= _mean_patch_cosine(teacher, measured[-1]["datasets"])
    return CardFacts(
        name=run.directory.resolve().name,
        recipe=run.recipe.name,
        steps=run.step,
        teachers={
            name: ", ".join(filter(None, (f"identity {info.identity_digest[:12]}", info.random_note)))
            for name, info in run.teachers.items()
        },
        datasets=sorted(name for name, split in datasets.items() if split == "train"),
        fidelity=fidelity,
    )


def _mean_patch_cosine(teacher: str, by_dataset: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean patch cosine over datasets by its name; over decoded targets only if there are no others."""
    for decoded in (False, True):
        values = [
            headline.patch_cosine(measures[teacher])
            for dataset, measures in by_dataset.items()
            if teacher in measures and headline.is_decoded(dataset) == decoded
        ]
        if values:
            return {f"{headline.PATCH_COSINE} with {teacher}{headline.DECODED if decoded else ''}": mean(values)}
    return {}


def model_card(encoder: Encoder, facts: CardFacts, *, image_size: int) -> str:
    """Return one page of Markdown: the model, its use, its origin, its fidelity and its limits."""
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    teachers = "\n".join(f"- **{name}**: {identity}" for name, identity in sorted(facts.teachers.items()))
    measured = "\n".join(f"| {measure} | {value:.4f} |" for measure, value in facts.fidelity.items())
    table = f"| held-out measure | value |\n|---|---|\n{measured}\n\n{headline.DEFINITION}\n"
    table = table if measured else "Not measured.\n"
    patches = (image_size // encoder.patch_size) ** 2
    order = ["CLS"] * has_cls(encoder) + [f"{encoder.register_tokens} registers"] * bool(encoder.register_tokens)
    return f"""# {facts.name}

A vision transformer distilled from {len(facts.teachers)} teachers with codistill ({parameters / 1e6:.1f} M parameters,
{encoder.embed_dim} channels, patch {encoder.patch_size}, made for {image_size} x {image_size} px).

## Use

```python
import timm, torch
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
images = torch.zeros(1, 3, {image_size}, {image_size})  # RGB in [0, 1], minus mean, over std of config.json
tokens = model.forward_features(images)  # {", ".join([*order, f"{patches} patches"])}; after the final norm
raw = model.forward_intermediates(images, indices=1, norm=False, output_fmt="NLC", intermediates_only=True)[0]
```

`raw` are the patches before the final norm, on which the student was trained to match its teachers.

## Origin

Recipe `{facts.recipe}`, {facts.steps} steps, on {", ".join(facts.datasets)}.

{teachers}

## Fidelity to its teachers

{table}
## Limits

- The final norm was never trained; it only rescales, and downstream heads usually do better with it.
- Another image size needs the position embedding resampled by DUNE's rule (export again with that size); timm's
  `dynamic_img_size` uses another rule and gives other features.
- It inherits the errors of its teachers and of their training images, and the licences of both apply to its use.
"""
