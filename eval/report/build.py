"""From opened runs to a page: measure what isn't stored yet, take what is, say what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from eval import fidelity
from eval.analyses import pca
from eval.report import about, extraction, pictures
from eval.report import fidelity as fidelity_part
from eval.report.blocks import Item, Page, Section
from eval.report.fidelity import RunScores
from eval.report.pictures import RunPictures
from eval.report.views import RunView
from eval.runs import OpenRun
from eval.summary import summarise

FIDELITY, PCA = "fidelity", "pca"
# Commands whose results the page shows where they were computed.
ANALYSES: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page, and the scores that the terminal shows too."""

    page: Page
    scores: Sequence[RunScores]
    views: Sequence[RunView]


def measured_fidelity(opened: OpenRun, settings: fidelity.Settings, *, progress: bool) -> pa.Table:
    """The per-image sums of a run, computed unless they are stored."""
    _, table = opened.results.get_or_compute(
        FIDELITY,
        asdict(settings),
        lambda: fidelity.measure(opened.subject(), settings, device=opened.device, progress=progress),
    )
    if table is None:
        raise ValueError("fidelity was stored without its table")
    return table


def drawn_pictures(opened: OpenRun, *, count: int) -> tuple[dict[str, Any], pa.Table]:
    """The PCA pictures of a run, drawn unless they are stored."""
    facts, table = opened.results.get_or_compute(
        PCA, {"count": count}, lambda: pca.pictures(opened.subject(), device=opened.device, count=count)
    )
    if table is None:
        raise ValueError("pictures were stored without their table")
    return facts, table


def build(
    runs: Mapping[str, OpenRun],
    *,
    settings: fidelity.Settings,
    summary: Mapping[str, Any] | None,
    picture_count: int,
    progress: bool,
) -> Report:
    """Gather everything about some runs.

    Args:
        runs: name on the page -> run.
        settings: of fidelity.
        summary: of the extraction, if there is one.
        picture_count: views in the pictures.
        progress: show progress bars.
    """
    scores, views, drawn = [], [], []
    for name, opened in runs.items():
        table = measured_fidelity(opened, settings, progress=progress)
        scores.append(
            RunScores(name=name, by_kind=summarise(table, by="kind"), by_dataset=summarise(table, by="dataset"))
        )
        views.append(_view(name, opened, table))
        facts, images = drawn_pictures(opened, count=picture_count)
        uuids = tuple(cache.uuid for cache in opened.mixture.caches)
        drawn.append(
            RunPictures(name=name, caches=uuids, captions=facts["captions"], images=_ordered(images, facts["models"]))
        )
    sections = [
        about.what(views),
        about.curves(views),
        fidelity_part.section(scores),
        pictures.section(drawn),
        extraction.section(views, summary),
        about.not_computed(missing(runs, summary)),
        about.how_to_read(),
    ]
    return Report(page=_page(views, scores, sections), scores=scores, views=views)


def missing(runs: Mapping[str, OpenRun], summary: Mapping[str, Any] | None) -> list[Item]:
    """What could be on the page and isn't, with the command that computes it."""
    first = next(iter(runs.values())).directory
    entries = []
    if summary is None:
        entries.append(
            Item(text="Rates of the extraction: pass its summary with", code="--extraction FILE.json"),
        )
    for kind, what in ANALYSES.items():
        lacking = [name for name, opened in runs.items() if opened.results.latest(kind) is None]
        if lacking:
            whose = "" if len(lacking) == len(runs) else f" (for {', '.join(lacking)})"
            entries.append(Item(text=f"{what}{whose}:", code=f"codistill eval {kind} {first}"))
    return entries


def _view(name: str, opened: OpenRun, table: pa.Table) -> RunView:
    pairs = table.group_by(["dataset", "kind"]).aggregate([]).to_pylist()
    kinds: dict[str, list[str]] = {}
    for pair in pairs:
        kinds.setdefault(pair["dataset"], []).append(pair["kind"])
    return RunView(
        name=name,
        path=opened.directory,
        recipe=opened.run.recipe,
        description=opened.run.description,
        step=opened.run.step,
        parameters=sum(parameter.numel() for parameter in opened.run.distiller.encoder.parameters()),
        weights_digest=opened.weights_digest,
        kinds={dataset: sorted(found) for dataset, found in kinds.items()},
    )


def _ordered(table: pa.Table, models: Sequence[str]) -> dict[str, Any]:
    images = pca.images_of(table)
    return {model: images[model] for model in models if model in images}


def _page(views: Sequence[RunView], scores: Sequence[RunScores], sections: Sequence[Section]) -> Page:
    single = len(views) == 1
    title = f"Distillation report: {views[0].name}" if single else f"Distillation report: {len(views)} runs compared"
    teachers = sorted({name for view in views for name in view.description["teachers"]})
    lead = f"Students distilled from {len(teachers)} cached teachers ({', '.join(teachers)})."
    if single:
        lead = " ".join([lead.replace("Students", "A student", 1), *fidelity_part.verdict(scores[0])])
    cards = [*fidelity_part.cards(scores[0]), *about.cards(views[0])] if single else []
    return Page(
        title=title,
        lead=lead,
        version=version("codistill"),
        notes=about.notes(views),
        cards=cards,
        sections=sections,
    )
