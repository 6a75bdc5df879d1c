"""Build the page about opened runs: take stored results, compute cheap ones, list missing ones with their commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from eval.analyses.pca import images_of
from eval.comparison.paired import in_common
from eval.comparison.ranking import Comparison
from eval.encoders.open_encoder import OpenEncoder
from eval.fidelity import held_out, measure, target_norms
from eval.fidelity.scores import summarise
from eval.probes import probe_results
from eval.report.page import Item, Page, Section
from eval.report.run_view import RunView
from eval.report.sections import about, analyses, comparison, extraction, pictures, probes
from eval.report.sections import scores as fidelity_section
from eval.report.sections.pictures import RunPictures
from eval.report.sections.score_targets import RunScores, decoded_notes
from eval.runs import cached
from eval.runs.open_run import OpenRun
from store.common.text import some
from store.errors import InvalidInput
from train.data.mixture import Mixture

# Titles of results that the page shows if their commands have stored them.
ANALYSES = {
    cached.VARIANCE: "Explained variance of teachers and projections",
    cached.CORRELATION: "Correlation of loss updates on a fixed probe batch",
    cached.ATTENTION: "Attention maps",
}
PROBE_OPTIONS = {
    "knn": "--data FOLDER --features FEATURES",
    "linear": "--data FOLDER --features FEATURES",
    "segmentation": "--data FOLDER --layout LAYOUT --features FEATURES",
    "depth": "--data FOLDER --features FEATURES",
}
LISTED_RUNS = 3  # more runs than these are counted, not listed
TASKS = (
    "Task metrics (map-free relocalisation, human meshes, multi-view depth and pose) score files of predictions, which "
    "a run does not make by itself:"
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page, and the results that the terminal shows too."""

    page: Page
    scores: Sequence[RunScores]
    views: Sequence[RunView]
    compared: Comparison


@dataclass(frozen=True, kw_only=True)
class SweepInfo:
    """Labels, baselines and titles from the sweeps of the runs, by name of the run on the page.

    Attributes:
        labels: run -> label of its row in its sweep.
        baselines: runs that others are compared with.
        titles: titles of the sweeps.
        absent: runs of sweeps that cannot be shown, and why, one sentence each.
    """

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
    sweeps: SweepInfo | None = None,
    peers: Mapping[str, Mapping[str, OpenEncoder]] | None = None,
    progress: bool = False,
) -> Report:
    """Build the page.

    Fidelity, pictures and correlations of logs are computed unless they are stored; longer analyses and probes are
    shown if their commands have stored them, and listed as not computed otherwise.

    Args:
        runs: name on the page -> run.
        settings: rows to measure fidelity and to fit baselines on.
        summary: summary of the extraction, or None.
        picture_count: number of views in the pictures.
        sweeps: labels, baselines and titles from the sweeps of the runs.
        peers: run -> encoders to compare with, by name.
        progress: show progress bars.
    """
    for name, opened in runs.items():
        cached.require_fidelity(opened, settings, peers=(peers or {}).get(name))
    own = {
        name: cached.fidelity(opened, settings, peers=(peers or {}).get(name), progress=progress)
        for name, opened in runs.items()
    }
    sweeps = sweeps or SweepInfo()
    common = in_common(own)
    scores = [scores_of(name, table) for name, table in common.items()]
    compared = Comparison(
        recipes={name: opened.run.recipe for name, opened in runs.items()},
        tables=common,
        labels=sweeps.labels,
        baselines=sweeps.baselines,
    )
    views = [_view(name, opened, own[name], compared) for name, opened in runs.items()]
    with_pictures = _runs_with_pictures(compared) if picture_count else []
    shown = [_pictures(name, runs[name], compared, count=picture_count) for name in with_pictures]
    has_pictures = any(run.captions for run in shown)
    several = len(runs) > 1
    by_difficulty = None if several else fidelity_section.photographs_by_difficulty(next(iter(common.values())))
    sections = [
        *([pictures.section(shown)] if has_pictures else []),
        *([comparison.section(compared, absent=sweeps.absent)] if several else []),
        fidelity_section.section(scores, more=[by_difficulty] if by_difficulty else []),
        *([pictures.section(shown)] if shown and not has_pictures else []),
        about.curves(views),
        about.setup(views),
        *_probe_sections(runs),
        *_analysis_sections(runs, views),
        extraction.section(views, summary),
        about.not_computed(missing(runs, summary)),
        about.how_to_read(),
    ]
    verdict = comparison.headline(compared) if several else fidelity_section.verdict(scores[0])
    warnings = comparison.warnings(compared) if several else fidelity_section.warnings(scores[0])
    notes = [*decoded_notes(scores), *warnings, *_notes(runs, views, sweeps)]
    page = _page(views, scores, sections, verdict=verdict, notes=notes, titles=sweeps.titles)
    return Report(page=page, scores=scores, views=views, compared=compared)


def _notes(runs: Mapping[str, OpenRun], views: Sequence[RunView], sweeps: SweepInfo) -> list[str]:
    absent = [f"Not all runs are here: {some(sweeps.absent)}."] if sweeps.absent else []
    norms = target_norms.notes({name: opened.run.target_norms for name, opened in runs.items()})
    mixtures = {name: opened.data for name, opened in runs.items() if isinstance(opened.data, Mixture)}
    unscored = [f"{note}." for name, mixture in mixtures.items() for note in held_out.notes(name, mixture)]
    return [*absent, *unscored, *about.notes(views), *norms]


def scores_of(name: str, table: pa.Table) -> RunScores:
    """Score a run from its per-image sums."""
    return RunScores(name=name, by_kind=summarise(table, by="kind"), by_dataset=summarise(table, by="dataset"))


def missing(runs: Mapping[str, OpenRun], summary: Mapping[str, Any] | None) -> list[Item]:
    """List results that could be on the page and are not, with the commands that compute them."""
    entries = []
    if summary is None:
        entries.append(Item(text="Rates of the extraction: pass its summary with", code="--extraction FILE.json"))
    for kind, title in ANALYSES.items():
        lacking = [name for name, opened in runs.items() if opened.results.latest(kind) is None]
        if lacking:
            code = f"codistill eval {kind} {runs[lacking[0]].directory} --out FOLDER"
            entries.append(Item(text=f"{title}{_for_runs(lacking, runs)}:", code=code))
    stored = {
        name: {result.kind for result in probe_results.all_results(opened.directory)} for name, opened in runs.items()
    }
    for kind, title in probe_results.TITLES.items():
        lacking = [name for name in runs if kind not in stored[name]]
        if lacking:
            code = f"codistill eval {kind} {runs[lacking[0]].directory} {PROBE_OPTIONS[kind]}"
            entries.append(Item(text=f"Probe: {title}{_for_runs(lacking, runs)}:", code=code))
    entries.append(Item(text=TASKS, code="codistill eval --help"))
    return entries


def _probe_sections(runs: Mapping[str, OpenRun]) -> list[Section]:
    """Make the section of probes if any run has results of probes."""
    by_run = {name: probe_results.all_results(opened.directory) for name, opened in runs.items()}
    with_results = {name: results for name, results in by_run.items() if results}
    return [probes.section(with_results)] if with_results else []


def _analysis_sections(runs: Mapping[str, OpenRun], views: Sequence[RunView]) -> list[Section]:
    """Make the sections of those analyses that any run has results of."""
    stored = {
        kind: {name: result for name, opened in runs.items() if (result := opened.results.latest(kind)) is not None}
        for kind in ANALYSES
    }
    sections = []
    if stored[cached.VARIANCE]:
        sections.append(analyses.variance_section({n: value for n, (_, value, _) in stored[cached.VARIANCE].items()}))
    logged = {name: data for name, opened in runs.items() if (data := _logged_correlation(opened)) is not None}
    probed = {name: value for name, (_, value, _) in stored[cached.CORRELATION].items()}
    if logged or probed:
        sections.append(analyses.correlation_section(logged, probed, views))
    tables = {name: table for name, (_, _, table) in stored[cached.ATTENTION].items() if table is not None}
    if tables:
        sections.append(analyses.attention_section(tables))
    return sections


def _logged_correlation(opened: OpenRun) -> dict[str, Any] | None:
    """Return the correlation of logged updates, or None if the log is too short or there is one teacher."""
    try:
        return cached.logged_correlation(opened)
    except InvalidInput:
        return None


def _for_runs(lacking: Sequence[str], runs: Mapping[str, OpenRun]) -> str:
    """Say which runs lack a result; empty if all do."""
    if len(lacking) == len(runs):
        return ""
    return f" (for {', '.join(lacking) if len(lacking) <= LISTED_RUNS else f'{len(lacking)} of {len(runs)} runs'})"


def _runs_with_pictures(compared: Comparison) -> list[str]:
    """Choose one run of each recipe, the best recipe first: pictures of other seeds look alike."""
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
        kinds={dataset: sorted(of_dataset) for dataset, of_dataset in kinds.items()},
        measured_on=tuple(opened.uuids),
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
        shown=[opened.uuids, *facts["rows"]],
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
    subjects = f"Run '{views[0].name}': a student" if single else f"{len(views)} students"
    lead = f"{subjects} distilled from {len(teachers)} cached teachers ({', '.join(teachers)})."
    cards = [*fidelity_section.cards(scores[0]), *about.cards(views[0])] if single else []
    return Page(
        title=f"Distillation report: {subject}",
        lead=" ".join([lead, *verdict]),
        version=version("codistill"),
        notes=notes,
        cards=cards,
        sections=sections,
    )
