"""Try codes and print what they would do: tables for people, or JSON for programs."""

import os
import sys

from rich.console import Console

from backbones.device import resolve_device
from extract.catalogue import Catalogue
from extract.job import preflight
from extract.job.progress import CalibrationDisplay
from extract.plan.code_trial import SourceImages, TeacherTrial, try_codes
from extract.plan.code_trial_table import trial_sentences, trial_table
from store import errors
from store.format.schema import json_bytes


def show_codes(
    console: Console, catalogue: Catalogue, *, device: str, threads: int | None, rows: int, json: bool
) -> None:
    """Try codes of every teacher of a catalogue, with a progress bar, and print them.

    Args:
        console: console to print on.
        catalogue: catalogue with the teachers and datasets to try.
        device: device of the teachers, or `auto`.
        threads: threads that render, and on a CPU run teachers; None for one per CPU.
        rows: rows to compute for each teacher.
        json: print JSON instead of tables.

    Raises:
        errors.InvalidConfig: weights are not where the catalogue says.
        errors.InvalidInput: no teacher, or no images here.
    """
    if not catalogue.teacher:
        raise errors.InvalidInput("the catalogue has no [[teacher]] whose codes could be tried")
    preflight.refuse(preflight.weight_problems(catalogue.teacher))
    sources = SourceImages.of(catalogue)
    for note in sources.notes:
        sys.stderr.write(f"{note}\n")
    trials: list[TeacherTrial] = []
    for entry in catalogue.teacher:
        with CalibrationDisplay(f"trying/{entry.name}", stream=sys.stderr) as display:
            trial = try_codes(
                catalogue,
                entry,
                sources,
                device=resolve_device(device),
                threads=threads or len(os.sched_getaffinity(0)),
                rows=rows,
                on_advance=lambda count, shown=display: shown.advance(count, rows),  # type: ignore[misc]
            )
        trials.append(trial)
        if not json:
            console.print(trial_table(trial))
            for sentence in trial_sentences(trial):
                console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    if json:
        sys.stdout.write(json_bytes([trial.as_json() for trial in trials], indent=2).decode() + "\n")
