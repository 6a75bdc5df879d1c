"""Trials of codes as tables and sentences."""

from collections.abc import Iterator

from rich.table import Table

from extract.plan.code_trial import RANKS, TeacherTrial
from store.format.code_fit import RatioTrial
from store.format.code_sizes import describe


def trial_table(trial: TeacherTrial) -> Table:
    """Table of one line for each ratio: bytes, groups, noise and slope on held-out images."""
    table = Table(title=f"codes of '{trial.teacher}', on images they were not fitted to", title_justify="left")
    for name in ("ratio", "bytes a row", "patches", "values of a code", "noise U", "slope", "worst channel"):
        table.add_column(name, justify="left" if name == "values of a code" else "right", no_wrap=True)
    for name in ("cosine", "1st percentile"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in trial.trials:
        table.add_row(f"{each.ratio:g}x", *_cells(each))
    return table


def trial_sentences(trial: TeacherTrial) -> Iterator[str]:
    """Sentences below the table: the sample, the spectrum, and what would be refused."""
    yield f"{trial.rows:,} rows of {trial.images:,} images" + (f": {trial.note}" if trial.note else "")
    shown = [rank for rank in RANKS if rank <= len(trial.spectrum)]
    values = ", ".join(f"{rank}: {trial.spectrum[rank - 1]:.3g}" for rank in shown)
    yield f"spectrum, variance of the n-th component (mean 1): {values}"
    for each in trial.trials:
        if each.problem:
            yield f"{each.ratio:g}x would be refused: {each.problem}"


def _cells(trial: RatioTrial) -> list[str]:
    code, held_out = trial.code, trial.held_out
    if code is None or held_out is None:
        return ["none"] + [""] * 7
    return [
        f"{code.row_bytes:,}",
        f"{code.spec.stored_patches(code.patches)}/{code.patches}",
        describe(code.spec.groups["patch"]),
        f"{held_out.noise('patch'):.4f}",
        f"{held_out.slope('patch'):.4f}",
        f"{held_out.worst_slope('patch'):.3f}",
        f"{held_out.cosine_mean('patch'):.4f}",
        f"{held_out.cosine_percentile('patch', 1):.3f}",
    ]
