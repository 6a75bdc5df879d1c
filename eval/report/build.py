"""From opened runs to a page: measure what isn't stored yet, take what is, say what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from eval.analyses.pca import images_of
from eval.comparison.paired import in_common
from eval.comparison.ranking import Comparison
from eval.encoders.load import Peers
from eval.fidelity import measure, target_norms
from eval.fidelity.scores import summarise
from eval.probes import probe_results
from eval.report.page import Item, Page, Section
from eval.report.run_view import RunView
from eval.report.sections import about, analyses, comparison, extraction, pictures, probes
from eval.report.sections import scores as fidelity_part
from eval.report.sections.pictures import RunPictures
from eval.report.sections.scores import RunScores
from eval.runs import cached
from eval.runs.open_run import OpenRun
from store.errors import InvalidInput

# What the page shows where it was computed, and the command that computes it.
ANALYSES = {
    cached.VARIANCE: "Explained variance of teachers and projections",
    cached.CORRELATION: "Correlation of loss updates on a fixed probe batch",
    cached.ATTENTION: "Attention maps",
}
PROBES = {
    "knn": ("k-nearest-neighbour classification", "--data FOLDER --features FEATURES"),
    "linear": ("Linear classification", "--data FOLDER --features FEATURES"),
    "segmentation": ("Linear segmentation", "--data FOLDER --layout LAYOUT --features FEATURES"),
    "depth": ("Linear depth", "--data FOLDER --features FEATURES"),
}
NAMED_RUNS = 3  # more than these are counted, not listed
LEAD_SENTENCES = 2  # of a comparison's verdict, at the top
TASKS = (
    "Task metrics (map-free relocalisation, human meshes, multi-view depth and pose) score files of predictions, which "
    "a run does not make by itself:"
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page, and what the terminal shows too."""

    page: Page
    scores: Sequence[RunScores]
    views: Sequence[RunView]
    compared: Comparison


@dataclass(frozen=True, kw_only=True)
class Named:
    """What sweeps say of the runs on the page, by their names there; see `eval.sweeps.Selected`."""

    labels: Mapping[str, str] = field(default_factory=dict)
    baselines: frozenset[str] = frozenset()
    titles: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def build(
    runs: Mapping[str, OpenRun],
    *,
    settings: measure.Settings,
    summary: Mapping[str, Any] | None,
    picture_count: int,
    named: Named | None = None,
    peers: Mapping[str, Peers] | None = None,
    progress: bool = False,
) -> Report:
    """Gather everything about some runs.

    Fidelity, pictures and what the logs say are computed if they aren't stored; longer analyses and probes are shown
    where their commands have stored them, and listed as not computed where not.

    Args:
        runs: name on the page -> run.
        settings: of fidelity.
        summary: of the extraction, if there is one.
        picture_count: views in the pictures.
        named: what the sweeps that the runs belong to say of them.
        peers: foreign encoders to compare with, for each run.
        progress: show progress bars.
    """
    own = {
        name: cached.fidelity(opened, settings, peers=(peers or {}).get(name), progress=progress)
        for name, opened in runs.items()
    }
    named = named or Named()
    sums = in_common(own)
    scores = [scored(name, table) for name, table in sums.items()]
    compared = Comparison(
        recipes={name: opened.run.recipe for name, opened in runs.items()},
        tables=sums,
        labels=named.labels,
        baselines=named.baselines,
    )
    views = [_view(name, opened, own[name], compared) for name, opened in runs.items()]
    drawn = [_pictures(name, runs[name], compared, count=picture_count) for name in _pictured(compared)]
    probed = {name: found for name, opened in runs.items() if (found := probe_results.every(opened.directory))}
    several = len(runs) > 1
    by_difficulty = None if several else fidelity_part.block(next(iter(sums.values())))
    drawn_section = pictures.section(drawn)
    scores_section = fidelity_part.section(scores, more=[by_difficulty] if by_difficulty else [])
    sections = [
        *([comparison.section(compared, absent=named.absent), drawn_section] if several else []),
        about.what(views),
        about.curves(views),
        scores_section,
        *([] if several else [drawn_section]),
        *([probes.section(probed)] if probed else []),
        *_analyses(runs, views),
        extraction.section(views, summary),
        about.not_computed(missing(runs, summary)),
        about.how_to_read(),
    ]
    verdict = comparison.sentences(compared) if several else fidelity_part.verdict(scores[0])
    notes = [*about.notes(views), *target_norms.notes({name: opened.run.target_norms for name, opened in runs.items()})]
    page = _page(views, scores, sections, verdict=verdict, notes=notes, titles=named.titles)
    return Report(page=page, scores=scores, views=views, compared=compared)


def scored(name: str, table: pa.Table) -> RunScores:
    """The scores of a run from its per-image sums."""
    return RunScores(name=name, by_kind=summarise(table, by="kind"), by_dataset=summarise(table, by="dataset"))


def missing(runs: Mapping[str, OpenRun], summary: Mapping[str, Any] | None) -> list[Item]:
    """What could be on the page and isn't, with the command that computes it."""
    entries = []
    if summary is None:
        entries.append(Item(text="Rates of the extraction: pass its summary with", code="--extraction FILE.json"))
    for kind, what in ANALYSES.items():
        lacking = [name for name, opened in runs.items() if opened.results.latest(kind) is None]
        if lacking:
            code = f"codistill eval {kind} {runs[lacking[0]].directory} --out FOLDER"
            entries.append(Item(text=f"{what}{_whose(lacking, runs)}:", code=code))
    stored = {name: {found.kind for found in probe_results.every(opened.directory)} for name, opened in runs.items()}
    for kind, (what, options) in PROBES.items():
        lacking = [name for name in runs if kind not in stored[name]]
        if lacking:
            code = f"codistill eval {kind} {runs[lacking[0]].directory} {options}"
            entries.append(Item(text=f"Probe: {what}{_whose(lacking, runs)}:", code=code))
    entries.append(Item(text=TASKS, code="codistill eval --help"))
    return entries


def _analyses(runs: Mapping[str, OpenRun], views: Sequence[RunView]) -> list[Section]:
    """The sections of those analyses that any run has."""
    stored = {
        kind: {name: found for name, opened in runs.items() if (found := opened.results.latest(kind)) is not None}
        for kind in ANALYSES
    }
    sections = []
    if stored[cached.VARIANCE]:
        sections.append(analyses.variance_section({n: value for n, (_, value, _) in stored[cached.VARIANCE].items()}))
    logged = {name: data for name, opened in runs.items() if (data := _logged(opened)) is not None}
    probed = {name: value for name, (_, value, _) in stored[cached.CORRELATION].items()}
    if logged or probed:
        sections.append(analyses.correlation_section(logged, probed, views))
    tables = {name: table for name, (_, _, table) in stored[cached.ATTENTION].items() if table is not None}
    if tables:
        sections.append(analyses.attention_section(tables))
    return sections


def _logged(opened: OpenRun) -> dict[str, Any] | None:
    """What the log says of updates, or None if it is too short or there is one teacher."""
    try:
        return cached.logged_correlation(opened)
    except InvalidInput:
        return None


def _whose(lacking: Sequence[str], runs: Mapping[str, OpenRun]) -> str:
    if len(lacking) == len(runs):
        return ""
    return f" (for {', '.join(lacking) if len(lacking) <= NAMED_RUNS else f'{len(lacking)} of {len(runs)} runs'})"


def _pictured(compared: Comparison) -> list[str]:
    """The run of each recipe that pictures show, the best recipe first: other seeds look alike."""
    return [group.runs[0] for group in compared.deciding.ordered()]


def _view(name: str, opened: OpenRun, table: pa.Table, compared: Comparison) -> RunView:
    kinds: dict[str, list[str]] = {}
    for pair in table.group_by(["dataset", "kind"]).aggregate([]).to_pylist():
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
        measured_on=tuple(cache.uuid for cache in opened.mixture.caches),
        label=compared.label(name),
        colour=compared.colour(name),
    )


def _pictures(name: str, opened: OpenRun, compared: Comparison, *, count: int) -> RunPictures:
    label = compared.label(name)
    try:
        facts, table = cached.pictures(opened, count=count)
    except InvalidInput:  # nothing is held out
        return RunPictures(name=label, shown=[], captions=[], images={}, cosines={})
    images = images_of(table)
    return RunPictures(
        name=label,
        shown=[[cache.uuid for cache in opened.mixture.caches], *facts["rows"]],
        captions=facts["captions"],
        images={model: images[model] for model in facts["models"] if model in images},
        cosines=facts["cosines"],
    )


def _page(
    views: Sequence[RunView],
    scores: Sequence[RunScores],
    sections: Sequence[Section],
    *,
    verdict: Sequence[str],
    notes: Sequence[str],
    titles: Sequence[str],
) -> Page:
    single = len(views) == 1
    subject = f"recipe {views[0].recipe.name}" if single else "; ".join(titles) or f"{len(views)} runs compared"
    teachers = sorted({name for view in views for name in view.description["teachers"]})
    who = f"Run '{views[0].name}': a student" if single else f"{len(views)} students"
    lead = f"{who} distilled from {len(teachers)} cached teachers ({', '.join(teachers)})."
    cards = [*fidelity_part.cards(scores[0]), *about.cards(views[0])] if single else []
    return Page(
        title=f"Distillation report: {subject}",
        lead=" ".join([lead, *(verdict if single else verdict[:LEAD_SENTENCES])]),
        version=version("codistill"),
        notes=notes,
        cards=cards,
        sections=sections,
    )
