"""Export of a run: its student in one of the formats, and the facts of its card."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from store import TeacherInfo
from store.common.config import near_miss
from store.errors import CodistillError, InvalidInput, OutputExists
from train.data.open_caches import Description, described_teachers
from train.export import licences
from train.export.card import CardFacts, DatasetFacts, TeacherFacts
from train.export.licences import NOT_KNOWN, Licence
from train.export.timm_folder import export_encoder
from train.run import directory, dune_checkpoint, headline, log
from train.run.load import Run
from train.run.output import is_run

Format = Literal["timm", "dune"]
LONGEST_ANCESTRY = 16  # runs that began with each other's weights


def export_run(
    run: Run,
    out: Path,
    *,
    kind: Format = "timm",
    image_size: int | None = None,
    onnx: bool = False,
    given_licences: Mapping[str, Licence] | None = None,
    hub_datasets: Mapping[str, str] | None = None,
) -> None:
    """Write the student of a run for other programs.

    Args:
        run: run from `train.run.load.load`.
        out: new directory for "timm" (safetensors, JSON, model card, hubconf.py); new file for "dune" (`.pth` with
            projectors and statistics, as the loader of naver/dune reads it).
        kind: format to write.
        image_size: side of the images that timm's model takes, px; None takes the size that the encoder was trained on.
        onnx: write `model.onnx` into the directory too.
        given_licences: licences of teachers and datasets by name, where the card does not know them or is wrong.
        hub_datasets: training dataset -> dataset on the Hugging Face hub that it is, for the card's front matter.

    Raises:
        OutputExists: the directory is not empty, or the file exists.
        InvalidInput: the format cannot hold this student, or no teacher or dataset has a name that was given.
    """
    if kind == "dune":
        dune_checkpoint.save(out, run.distiller, run.target_norms)
        return
    if out.exists() and not out.is_dir():
        raise OutputExists(f"output '{out}' is a file. Choose a directory")
    encoder = run.distiller.encoder
    size = image_size or encoder.pos_grid[0] * encoder.patch_size  # not the views' size if the patch sizes differ
    facts = card_facts(run, given_licences or {}, hub_datasets=hub_datasets or {})
    export_encoder(encoder, out, image_size=size, card=facts, onnx=onnx)


def card_facts(
    run: Run, given: Mapping[str, Licence], *, hub_datasets: Mapping[str, str] = MappingProxyType({})
) -> CardFacts:
    """Collect the facts of a run; its fidelity is the last one measured before these weights.

    Args:
        run: run from `train.run.load.load`.
        given: licences by the name of a teacher, dataset or start.
        hub_datasets: datasets on the Hugging Face hub by the name of a training dataset.

    Raises:
        InvalidInput: there is nothing of a name that was given.
    """
    descriptions, starts = _ancestry(run)
    teachers: dict[str, TeacherFacts] = {}
    datasets: dict[str, DatasetFacts] = {}
    for description in descriptions:
        for name, info in described_teachers(description).items():
            teachers.setdefault(name, _teacher_facts(info, given.get(name)))
        for cache in description["caches"]:
            for name, entry in cache["datasets"].items():
                if entry["split"] == "train":
                    rows = int(entry.get("used_rows", entry["rows"]))
                    facts = DatasetFacts(
                        name=name,
                        group=entry["group"],
                        rows=rows,
                        licence=given.get(name, NOT_KNOWN),
                        hub_id=hub_datasets.get(name, ""),
                    )
                    datasets.setdefault(name, facts)
    _refuse_unknown(given, {*teachers, *datasets, *starts}, option="--licences", what="teacher or dataset")
    _refuse_unknown(hub_datasets, set(datasets), option="--hub-datasets", what="training dataset")
    measured = [record for record in log.read(run.directory, log.FIDELITY) if record["step"] <= run.step]
    return CardFacts(
        name=run.directory.resolve().name,
        recipe=run.recipe.name,
        steps=run.step,
        batch=run.recipe.data.batch,
        teachers=[teachers[name] for name in sorted(teachers)],
        datasets=[datasets[name] for name in sorted(datasets)],
        starts={name: given.get(name, NOT_KNOWN) for name in starts},
        fidelity=_patch_cosines(measured[-1]["datasets"]) if measured else {},
        recipe_json=run.recipe.to_json(),
    )


def _refuse_unknown(given: Mapping[str, object], known: set[str], *, option: str, what: str) -> None:
    for name in given:
        if name not in known:
            hint, available = near_miss(name, sorted(known)), ", ".join(sorted(known))
            raise InvalidInput(f"{option}: '{name}' is no {what} of this run{hint}; available: {available}")


def _ancestry(run: Run) -> tuple[list[Description], list[str]]:
    """Return the descriptions of a run and of the runs whose weights it began with, and what else it began with."""
    descriptions, recipe = [run.description], run.recipe
    while recipe.start.checkpoint:
        start = Path(recipe.start.checkpoint)
        try:
            if not is_run(start) or len(descriptions) == LONGEST_ANCESTRY:
                return descriptions, [start.name]
            descriptions.append(directory.read_description(start))
            recipe = directory.read_recipe(start)
        except CodistillError:
            return descriptions, [start.name]
    return descriptions, []


def _teacher_facts(info: TeacherInfo, given: Licence | None) -> TeacherFacts:
    architecture = info.identity.get("architecture")
    network = str(architecture.get("name", "")) if isinstance(architecture, Mapping) else ""
    tokens = f"{info.prefix_tokens} + {info.patches}" if info.prefix_tokens else f"{info.patches}"
    parts = [network, f"{tokens} tokens of {info.channels} channels", f"identity {info.identity_digest[:12]}"]
    return TeacherFacts(
        name=info.name,
        text=", ".join(filter(None, parts)),
        licence=given or licences.of_teacher(info),
        hub_models=licences.hub_models(info),
        random=info.random_note,
    )


def _patch_cosines(by_dataset: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        dataset: {teacher: headline.patch_cosine(values) for teacher, values in teachers.items()}
        for dataset, teachers in by_dataset.items()
    }
