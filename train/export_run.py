"""What a finished run hands on: its encoder for timm, or everything as a DUNE checkpoint."""

from pathlib import Path
from statistics import mean
from typing import Literal

from store.errors import OutputExists
from train import dune_checkpoints, log
from train.export import CardFacts, export_encoder
from train.runs import Run

Format = Literal["timm", "dune"]


def export_run(run: Run, out: Path, *, kind: Format = "timm", image_size: int | None = None) -> None:
    """Write the student of a run for others.

    Args:
        run: from `train.runs.load`.
        out: a new directory for "timm" (safetensors, JSON, model card); a new file for "dune" (`.pth`, with projectors
            and statistics, as the loader of naver/dune reads it).
        kind: which of the two.
        image_size: side of the images that timm's model takes, px; None takes what the encoder was trained on.

    Raises:
        OutputExists: there is something already.
        InvalidInput: the DUNE layout cannot hold this student.
    """
    if kind == "dune":
        dune_checkpoints.save(out, run.distiller, run.target_norms)
        return
    if out.exists() and not out.is_dir():
        raise OutputExists(f"output '{out}' is a file. Choose a directory")
    encoder = run.distiller.encoder
    size = image_size or encoder.pos_grid[0] * encoder.patch_size  # not the views' size, if its patch is not theirs
    export_encoder(encoder, out, image_size=size, card=card_facts(run))


def card_facts(run: Run) -> CardFacts:
    """What the model card tells of a run; the fidelity is the mean over held-out datasets, last measured."""
    datasets = {name: info["split"] for cache in run.description["caches"] for name, info in cache["datasets"].items()}
    measured = [record for record in log.read(run.directory, log.FIDELITY) if record["step"] <= run.step]
    fidelity: dict[str, float] = {}
    if measured:
        by_dataset = measured[-1]["datasets"].values()
        for teacher in run.teachers:
            values = [found[teacher]["cosine"] for found in by_dataset if teacher in found]
            if values:
                fidelity[f"cosine similarity to {teacher}"] = mean(values)
    return CardFacts(
        name=run.directory.resolve().name,
        recipe=run.recipe.name,
        steps=run.step,
        teachers={name: f"identity {info['identity_digest'][:12]}" for name, info in run.teachers.items()},
        datasets=sorted(name for name, split in datasets.items() if split == "train"),
        fidelity=fidelity,
    )
