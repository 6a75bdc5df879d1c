"""What compact targets cost a student: bytes of a row against loss, with all that the curve rests on.

    python -m benchmarks.compact --work /tmp/compact                                   # the demo's photographs
    python -m benchmarks.compact --work W --images PHOTOGRAPHS --probes LABELLED       # more photographs, and probes
    python -m benchmarks.compact --work W --parts curve --sizes 112 --steps 50         # one part, short

The demo's teachers are extracted once a size as float16; `codistill store compact` makes caches of codes of it, this
benchmark the control (PCA with reverse water-filling). The product's trainer trains a student of each seed and
encoding, everything else equal, and scores it on the true float16 tokens of held-out photographs. Differences are to
float16 of the same seed, with 95 % intervals of Student's t over seeds. Finished caches, students and probes are kept:
the same command goes on where it was stopped. Writes results.jsonl, tables.md and curve.png into the folder of work.

Parts: curve; longer (three times the steps); views (equal bytes of codes: bits or views); repetition (few rows, many
epochs); dropping (one teacher in code); signs (a sign vector by a hash of the row against one for all rows); ridge (a
strong student in closed form, with more and more rows); probes (k-NN, linear segmentation).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the programs do, before torch is imported

import tyro
from rich.console import Console

from benchmarks.compact import tables
from benchmarks.compact.caches import Caches
from benchmarks.compact.figure import plot_curve
from benchmarks.compact.parts import PARTS
from benchmarks.compact.probes import FIGURES, probe
from benchmarks.compact.report import Table
from benchmarks.compact.ridge import INPUT, ridge_table, strong_student
from benchmarks.compact.settings import CODED_TEACHER, Record, Results, Settings, keep_data
from benchmarks.compact.students import Student, Students
from benchmarks.machine import describe
from store.common import atomic

TABLE_WIDTH = 150
Part = Literal["curve", "longer", "views", "repetition", "dropping", "signs", "ridge", "probes"]


def main(
    work: Path,
    images: Path | None = None,
    sizes: str = "112,336",
    batches: str = "",
    seeds: int = 3,
    steps: int = 200,
    few_steps: int = 300,
    rows: int = 1280,
    held_out_rows: int = 128,
    depth: int | None = None,
    probes: Path | None = None,
    parts: str = "curve,longer,views,repetition,dropping,signs,ridge,probes",
    figure: Path | None = None,
) -> None:
    """Compute what is not there yet, print the tables and draw the curve.

    Args:
        work: folder of caches, runs and results; some GB at 336 px.
        images: folder with one folder of photographs for each group, and perhaps `held_out`; else a third of each group
            is held out. The demo's photographs if it is not given.
        sizes: sides of views in px; all parts but the curve take the first.
        batches: images of a training step, for each size; 32 up to 224 px and 8 above if not given.
        seeds: students of each encoding.
        steps: training steps of the curve; three times as many for `longer` and `probes`.
        few_steps: training steps on few photographs (views, repetition).
        rows: training rows of each group, about.
        held_out_rows: held-out rows of each group, about.
        depth: blocks of the student, for trying it out; the probes' heads then take two steps.
        probes: folder with cifar10/{train,test}/CLASS and camvid/{train,test}/{images,labels}; no probes without it.
        parts: parts to run, with commas.
        figure: picture of the curve; WORK/curve.png if it is not given.
    """
    settings = Settings(
        work=work,
        images=images,
        sizes=_numbers(sizes),
        batches=_numbers(batches) if batches else tuple(32 if size <= 224 else 8 for size in _numbers(sizes)),
        seeds=seeds,
        steps=steps,
        few_steps=few_steps,
        rows=rows,
        held_out_rows=held_out_rows,
        depth=depth,
        probes=probes,
    )
    chosen = [part for part in parts.split(",") if part != "probes" or probes is not None]
    unknown = sorted(set(chosen) - set(get_args(Part)))
    if unknown:
        raise SystemExit(f"--parts: {', '.join(unknown)} unknown; choose of {', '.join(get_args(Part))}")
    keep_data(settings)
    runner = Runner(settings)
    for part in chosen:
        runner.run(part)
    runner.report(chosen, figure or work / "curve.png")


class Runner:
    """Runs parts and reports on them."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._console = settings, Console()
        self._console.width = max(self._console.width, TABLE_WIDTH)
        self._results = Results(settings.work)
        self._caches = Caches(settings, self._results)
        self._students = Students(settings, self._results, self._caches)

    def run(self, part: str) -> None:
        """Compute what a part lacks."""
        if part == "ridge":
            strong_student(self._settings, self._results, self._caches)
            return
        wanted = PARTS[part](self._settings)
        for number, student in enumerate(wanted, start=1):
            self._console.print(f"{part}, {number} of {len(wanted)}: {student.name}")
            score = self._students.score(student)
            self._console.print(f"    loss {score['loss']:.4f}, cosine {score['cosine']:.4f}, {score['seconds']:.0f} s")
            if part == "probes":
                for kind in FIGURES:
                    self._probe(student, kind)

    def report(self, parts: Sequence[str], figure: Path) -> None:
        """Print the tables of parts that were run, and write tables and curve."""
        shown = [self._table(part) for part in parts]
        for table in shown:
            table.show(self._console)
        machine = describe(["torch", "numpy", "codistill"])
        header = json.dumps({**asdict(self._settings), "machine": machine}, default=str, indent=2)
        text = "\n".join([f"```json\n{header}\n```", "", *(table.as_markdown() for table in shown)])
        atomic.write_text(self._settings.work / "tables.md", text)
        panels = [
            (f"{size} px, {self._settings.steps} steps", self._scores("curve", size))
            for size in self._settings.sizes
            if "curve" in parts
        ]
        if "longer" in parts:
            panels.insert(1, (f"{self._settings.size} px, {self._settings.longer_steps} steps", self._scores("longer")))
        if panels:
            plot_curve(panels, self._results, figure)
            self._console.print(f"drew {figure}")

    def _table(self, part: str) -> Table:
        if part == "ridge":
            record = strong_student(self._settings, self._results, self._caches)
            return ridge_table(f"ridge: {INPUT} to {CODED_TEACHER}", record)
        scores = self._scores(part)
        if part in ("views", "repetition"):
            return tables.few_table(f"{part}: one group, {self._settings.few_steps} steps", scores)
        if part == "dropping":
            return tables.dropping_table(f"dropping: {self._settings.steps} steps", scores)
        if part == "probes":
            probed = [self._probe(student, kind) for student in PARTS[part](self._settings) for kind in FIGURES]
            return tables.probes_table(f"probes of students after {self._settings.longer_steps} steps", probed)
        return tables.curve_table(part, scores, self._results)

    def _scores(self, part: str, size: int | None = None) -> list[Record]:
        wanted = [student for student in PARTS[part](self._settings) if size in (None, student.size)]
        return [self._students.score(student) for student in wanted]

    def _probe(self, student: Student, kind: str) -> Record:
        return probe(student, kind, settings=self._settings, results=self._results, students=self._students)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    tyro.cli(main)
