"""Sections about the runs: students, teachers and datasets, training curves, missing results, terms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS
from eval.report.charts import COLOURS, Line, line_chart
from eval.report.page import Block, Card, Chart, ChartsBlock, Item, ListBlock, Section, TableBlock, TermsBlock
from eval.report.run_view import RunView
from eval.report.tables import Cell, Column, Table, number_cell, text_cell
from store.common.text import human_duration
from store.format.attributes import RANDOM_SEED
from train.run import log
from train.run.curves import running_mean, window
from train.run.headline import DEFINITION, PATCH_COSINE, patch_cosine

TERMS = (
    ("row, view", "A row is one view of one photograph: a crop with its flip and colours, stored as pixels."),
    (
        "token",
        "One feature vector of a network: patch tokens describe one square of the view each, the prefix (CLS) token "
        "describes all of it.",
    ),
    (
        "standardised",
        "A teacher's tokens have, per channel, the mean of the training rows subtracted and are divided by their "
        "standard deviation, as in training. All fidelity numbers are in these units.",
    ),
    (
        "cosine similarity",
        "1 if predicted and true token have the same direction, 0 if their directions are unrelated, -1 if opposed.",
    ),
    (PATCH_COSINE, DEFINITION.partition(": ")[2]),
    (
        "smooth-L1",
        "Half the squared error below 1, the absolute error less a half above, averaged over channels; 0 is perfect. "
        "A mean token gives about 0.4.",
    ),
    (
        "explained variance",
        "Share of the targets' squared deviation from the mean training token that the prediction accounts for. 1 is "
        "perfect, 0 is what the mean token gets, below 0 is worse than it.",
    ),
    (
        "before training",
        "The student with its initial weights, projectors included, as training started.",
    ),
    (
        "mean token",
        "A constant: the mean training token. It is zero once standardised and has no direction, so its cosine is "
        "taken with the mean direction of the training tokens, the constant whose cosine is best.",
    ),
    (
        "linear map of untrained student",
        "Ridge regression from the tokens of the untrained encoder to the teacher's, fitted on training rows in "
        "float64, its ridge chosen by cross-validation over photographs. It shows what position and colours tell.",
    ),
    (
        "linear map of trained student",
        "The same from the trained encoder, without its projectors: how much of a teacher lies linearly in the "
        "encoder itself. Other encoders are read in this way too, so that they can be compared.",
    ),
    (
        "float16 ceiling",
        "What the teacher itself would score: the cache holds its tokens rounded to float16, and this is the "
        "estimated effect of that rounding.",
    ),
    (
        "ceiling of the code",
        "Where held-out tokens are stored in a code, they are decoded, and the noise of the code lowers every score. "
        "This is what the teacher's true tokens would score, known from when the codes were written. Such scores are "
        "apart from those on true tokens, with which they do not compare.",
    ),
    (HELD_OUT_VIEWS, "Crops that training never used, of photographs that it did use."),
    (HELD_OUT_PHOTOGRAPHS, "Photographs of which training saw nothing."),
    (
        "95 % interval",
        "From 1000 bootstrap resamples of photographs; all views of a photograph stay together, because they are not "
        "independent. Few photographs give wide and rough intervals.",
    ),
)


def setup(runs: Sequence[RunView]) -> Section:
    """Show the students, their teachers and their datasets."""
    return Section(
        anchor="setup",
        short="Setup",
        title="Students, teachers and datasets",
        intro=("Names are labels only; codistill compares teachers and weights by the digests shown here.",),
        blocks=[
            TableBlock(table=_runs_table(runs), title="Students"),
            TableBlock(table=_teachers_table(runs), title="Teachers"),
            TableBlock(table=_datasets_table(runs), title="Datasets"),
        ],
    )


def curves(runs: Sequence[RunView]) -> Section:
    """Show the training loss per teacher, and the held-out patch cosine if it was measured during training."""
    charts = _curves_of_one(runs[0]) if len(runs) == 1 else _curves_compared(runs)
    return Section(
        anchor="curves",
        short="Curves",
        title="Training",
        intro=(
            f"Loss per teacher before teacher dropping, as a running mean, and the {PATCH_COSINE} on held-out rows "
            "measured during training.",
        ),
        blocks=[ChartsBlock(charts=charts)],
    )


def how_to_read() -> Section:
    """Define the terms of the page."""
    return Section(anchor="terms", short="Terms", title="How to read this", blocks=[TermsBlock(entries=TERMS)])


def not_computed(entries: Sequence[Item]) -> Section:
    """List results that are missing on the page, with the commands that compute them."""
    intro = "These results can be computed but were not, so they are missing on this page."
    block: Block = ListBlock(entries=entries or [Item(text="Nothing: everything was computed.")])
    return Section(
        anchor="not-computed", short="Not computed", title="What was not computed", intro=(intro,), blocks=[block]
    )


def notes(runs: Sequence[RunView]) -> list[str]:
    """Write warnings that concern all numbers of the page."""
    warnings = []
    for run in runs:
        if run.step < run.recipe.steps:
            warnings.append(f"Run '{run.name}' is not finished: {run.step:,} of {run.recipe.steps:,} steps.")
        if set(run.measured_on) != set(run.trained_on):
            warnings.append(
                f"Run '{run.name}' was trained on cache {_short(run.trained_on)} and measured on cache "
                f"{_short(run.measured_on)}, whose training datasets decide which photographs count as seen."
            )
    return [*dict.fromkeys(note for run in runs for note in run.notes), *warnings]


def cards(run: RunView) -> list[Card]:
    """Make cards of the size and the length of the training of one run."""
    steps = log.read(run.path, log.STEP)
    last = steps[-1]["step"] if steps else 0
    seconds = sum(float(record.get("step_s", 0.0)) for record in steps)
    images = last * run.recipe.data.batch
    return [
        Card(
            what="trained for",
            figure=f"{last:,} steps",
            beside=f"{images:,} images in {human_duration(seconds)}" if seconds else f"{images:,} images",
        ),
        Card(
            what="student",
            figure=f"{run.parameters / 1e6:.1f} M",
            beside=f"parameters of the encoder ({run.recipe.student.architecture})",
        ),
    ]


def _architecture(info: Mapping[str, Any]) -> str:
    """Return the name of a teacher's network; empty if its identity has none."""
    architecture = info["identity"].get("architecture", {})
    return str(architecture.get("name", "")) if isinstance(architecture, Mapping) else str(architecture)


def _weights(identity: Mapping[str, Any]) -> Cell:
    """Return the cell of a teacher's weights, which says where they are random."""
    fingerprint = str(identity.get("weights_sha256", ""))[:12]
    if RANDOM_SEED in identity:
        return text_cell(fingerprint, beside=f"random weights, seed {identity[RANDOM_SEED]}", css="mono")
    return text_cell(fingerprint, css="mono")


def _short(uuids: Sequence[str]) -> str:
    return ", ".join(uuid[:8] for uuid in uuids)


def _student(run: RunView) -> Cell:
    architecture = run.recipe.student.architecture
    size = f"{run.parameters / 1e6:.1f} M parameters, patch {run.recipe.student.patch_size} px"
    return text_cell(architecture if ":" in architecture else f"ViT-{architecture}", beside=size)


def _runs_table(runs: Sequence[RunView]) -> Table:
    columns = [
        Column(title="Run"),
        Column(title="Recipe"),
        Column(title="Student"),
        Column(title="Projectors"),
        Column(title="Data sharing"),
        Column(title="Steps", numeric=True),
        Column(title="Batch", numeric=True),
        Column(title="Peak lr", numeric=True, hint="for a batch of 256"),
        Column(title="Seed", numeric=True),
        Column(title="Weights", hint="sha256 of the checkpoint"),
    ]
    rows = [
        [
            text_cell(run.name),
            text_cell(run.recipe.name),
            _student(run),
            text_cell(run.recipe.projector.kind.upper()),
            text_cell(run.recipe.sharing.mode, beside=f"drop {run.recipe.sharing.drop_probability:g}"),
            number_cell(run.step, digits=0),
            number_cell(run.recipe.data.batch, digits=0),
            text_cell(f"{run.recipe.optim.lr:g}"),
            number_cell(run.recipe.seed, digits=0),
            text_cell(run.weights_digest[:12], css="mono"),
        ]
        for run in runs
    ]
    return Table(columns=columns, rows=rows, sortable=len(runs) > 1)


def _teachers_table(runs: Sequence[RunView]) -> Table:
    columns = [
        Column(title="Teacher"),
        Column(title="Network"),
        Column(title="Own groups"),
        Column(title="Patch grid", numeric=True),
        Column(title="Prefix tokens", numeric=True),
        Column(title="Channels", numeric=True),
        Column(title="Computed in"),
        Column(title="Weights", hint="fingerprint of the weight tensors"),
        Column(title="Identity", hint="digest of architecture, weights, preprocessing and arithmetic"),
    ]
    teachers: dict[tuple[str, str], Mapping[str, Any]] = {}
    for run in runs:
        for name, info in run.description["teachers"].items():
            teachers.setdefault((name, info["identity_digest"]), info)
    rows = [
        [
            text_cell(name),
            text_cell(_architecture(info)),
            text_cell(", ".join(info["groups"])),
            text_cell("{}\N{MULTIPLICATION SIGN}{}".format(*info["patch_grid"])),
            number_cell(info["prefix_tokens"], digits=0),
            number_cell(info["channels"], digits=0),
            text_cell(info["identity"].get("compute_dtype")),
            _weights(info["identity"]),
            text_cell(digest[:12], css="mono"),
        ]
        for (name, digest), info in sorted(teachers.items())
    ]
    return Table(columns=columns, rows=rows)


def _datasets_table(runs: Sequence[RunView]) -> Table:
    columns = [
        Column(title="Dataset"),
        Column(title="Group"),
        Column(title="Use"),
        Column(title="Rows", numeric=True),
        Column(title="Usable rows", numeric=True, hint="rows that are ok in pixels and in all teachers that are read"),
        Column(title="Cache"),
    ]
    rows = {}
    for run in runs:
        for cache in run.description["caches"]:
            for name, info in cache["datasets"].items():
                rows[cache["uuid"], name] = [
                    text_cell(name),
                    text_cell(info["group"]),
                    text_cell(_use(name, info["split"], runs, cache=cache["uuid"])),
                    number_cell(info["rows"], digits=0),
                    number_cell(info["used_rows"], digits=0),
                    text_cell(cache["uuid"][:8], css="mono"),
                ]
    return Table(columns=columns, rows=list(rows.values()))


def _use(dataset: str, split: str, runs: Sequence[RunView], *, cache: str) -> str:
    """Say what the runs use a dataset for; where they differ, with the number of runs."""
    having = [
        run
        for run in runs
        if any(entry["uuid"] == cache and dataset in entry["datasets"] for entry in run.description["caches"])
    ]
    uses = Counter("training" if split == "train" else ", ".join(run.kinds.get(dataset, ())) for run in having)
    return "; ".join(
        f"{use or 'held out'}{'' if count == len(runs) else f' ({count} of {len(runs)} runs)'}"
        for use, count in uses.items()
    )


def _curves_of_one(run: RunView) -> list[Chart]:
    loss = [
        Line(label=teacher, x=x, y=y, colour=number) for number, (teacher, (x, y)) in enumerate(_losses(run).items())
    ]
    charts = [Chart(svg=line_chart(loss, x_label="step", y_label="loss"), title="Training loss by teacher")]
    held_out = _held_out_lines(run)
    if held_out:
        chart = line_chart(held_out, x_label="step", y_label=PATCH_COSINE)
        charts.append(Chart(svg=chart, title=f"Held-out {PATCH_COSINE} during training (mean over teachers)"))
    return charts


def _curves_compared(runs: Sequence[RunView]) -> list[Chart]:
    """Draw one chart for each teacher, one line for each run, in the colour of its recipe."""
    losses = [_losses(run) for run in runs]
    charts = []
    for teacher in sorted({teacher for loss in losses for teacher in loss}):
        lines = [
            Line(
                label=run.label, x=loss[teacher][0], y=loss[teacher][1], colour=run.colour, dashed=run.colour >= COLOURS
            )
            for run, loss in zip(runs, losses, strict=True)
            if teacher in loss
        ]
        svg = line_chart(lines, x_label="step", y_label="loss")
        charts.append(Chart(svg=svg, title=f"Training loss: {teacher}"))
    return charts


def _losses(run: RunView) -> dict[str, tuple[list[float], list[float]]]:
    """Return steps and running mean of the loss of each teacher; steps without images for it are left out."""
    records = log.read(run.path, log.STEP)
    curves = {}
    for teacher in records[0]["loss_per_teacher"] if records else ():
        points = [(r["step"], v) for r in records if (v := r["loss_per_teacher"][teacher]) is not None]
        means = running_mean([value for _, value in points], window(records))
        curves[teacher] = ([float(step) for step, _ in points], [float(value) for value in means])
    return curves


def _held_out_lines(run: RunView) -> list[Line]:
    """Make lines of the held-out patch cosine averaged over teachers, by dataset, as measured during training."""
    points: dict[str, list[tuple[float, float]]] = {}
    for record in log.read(run.path, log.FIDELITY):
        for dataset, teachers in record["datasets"].items():
            cosines = [patch_cosine(values) for values in teachers.values()]
            points.setdefault(dataset, []).append((float(record["step"]), sum(cosines) / len(cosines)))
    return [
        Line(
            label=dataset,
            x=[step for step, _ in measured],
            y=[value for _, value in measured],
            colour=number,
            dashed=any(kind.startswith(HELD_OUT_PHOTOGRAPHS) for kind in run.kinds.get(dataset, ())),
        )
        for number, (dataset, measured) in enumerate(sorted(points.items()))
    ]
