"""Students of an encoding: trained by the product's trainer, scored on the true tokens of held-out photographs."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from benchmarks.compact.caches import Caches
from benchmarks.compact.settings import Record, Results, Settings
from train.loop import train
from train.objective import batch_losses
from train.objective.losses import TeacherLoss
from train.recipe.config import Loss, Recipe, overridden
from train.recipe.named import find
from train.run import log

RECIPE = "demo"
RECIPE_BATCH = 32  # whose learning rate all batches take
ALL_ROWS = 2**20


@dataclass(frozen=True, kw_only=True)
class Student:
    """One training.

    Attributes:
        size: side of the views, px.
        encoding: encoding of the training tokens.
        steps: optimizer steps.
        batch: images of a step.
        seed: seed of the training.
        group: the only dataset that it is trained on; empty for all.
        views: number of views of each photograph; None takes all.
        measurements: how often it is scored on its way.
        drop_probability: probability that a teacher is dropped.
        uncorrected: compare losses as they are when teachers are dropped.
    """

    size: int
    encoding: str
    steps: int
    batch: int
    seed: int
    group: str = ""
    views: int | None = None
    measurements: int = 1
    drop_probability: float = 0.0
    uncorrected: bool = False

    @property
    def arm(self) -> str:
        """Name of the student without its seed."""
        parts = [str(self.size), self.encoding, f"{self.steps}-steps-of-{self.batch}"]
        parts += [f"{self.group}-{self.views}-views"] if self.views is not None else []
        parts += [f"drop-{self.drop_probability:g}"] if self.drop_probability else []
        parts += ["uncorrected"] if self.uncorrected else []
        return "/".join(parts)

    @property
    def name(self) -> str:
        """Name of the student, unique in a folder of work."""
        return f"{self.arm}/seed-{self.seed}"


class Students:
    """Trains students when they are first asked for, and keeps their scores."""

    def __init__(self, settings: Settings, results: Results, caches: Caches) -> None:
        self._settings, self._results, self._caches = settings, results, caches

    def run_of(self, student: Student) -> Path:
        """Return the run directory of a student."""
        return self._settings.work / "runs" / student.name

    def score(self, student: Student) -> Record:
        """Return the result of a student, trained if it was not yet."""
        return self._results.once(f"student/{student.name}", "student", lambda: self._trained(student))

    def _trained(self, student: Student) -> dict[str, Any]:
        cache, run = self._caches.get(student.size, student.encoding), self.run_of(student)
        begun = time.perf_counter()
        with losses_as_they_are() if student.uncorrected else nullcontext():
            train(
                recipe_of(student, self._settings),
                caches=[str(cache)],
                out=run,
                resume=True,
                quiet=not sys.stderr.isatty(),
            )
        seconds = time.perf_counter() - begun
        return {**asdict(student), "arm": student.arm, "seconds": seconds, **scores_of(run)}


def recipe_of(student: Student, settings: Settings) -> Recipe:
    """Return the recipe of a student: the demo's, for its steps and data."""
    recipe, batch = find(RECIPE), student.batch
    every = student.steps // student.measurements if student.measurements > 1 else 0
    values: dict[str, Any] = {
        "name": student.arm,
        "seed": student.seed,
        "student.image_size": student.size,
        "student.depth": settings.depth or recipe.student.depth,
        "optim.lr": recipe.optim.lr * RECIPE_BATCH / batch,
        "schedule.steps": student.steps,
        "sharing.drop_probability": student.drop_probability,
        "data.batch": batch,
        "data.val_rows": ALL_ROWS,
        "data.datasets": [student.group] if student.group else [],
        "data.subset": "" if student.views is None else f"view < {student.views}",
        "checkpoint.keep": 1,
        "log.fidelity_every_steps": every,
        "log.tensorboard": False,
    }
    return overridden(recipe, values, subject=student.name)


def scores_of(run: Path) -> Record:
    """Return the scores of a finished run on its held-out photographs, and the share of images that kept each teacher.

    Scores are means over held-out datasets, each a mean over teachers.
    """
    measured = [record for record in log.read(run, log.FIDELITY) if record["step"]]
    kept = [record["kept"] for record in log.read(run, log.STEP)]
    last: Mapping[str, Mapping[str, Mapping[str, float]]] = measured[-1]["datasets"]
    teachers = sorted({name for by_teacher in last.values() for name in by_teacher})
    return {
        "loss": _mean(last, "loss"),
        "cosine": _mean(last, "cosine"),
        "cosine_of_datasets": {name: _mean({name: by_teacher}, "cosine") for name, by_teacher in last.items()},
        "cosine_of_teachers": {
            name: _mean({key: {name: by_teacher[name]} for key, by_teacher in last.items()}, "cosine")
            for name in teachers
        },
        "kept": {name: float(np.mean([of_step[name] for of_step in kept])) for name in teachers},
        "on_the_way": [
            {
                "step": record["step"],
                "loss": _mean(record["datasets"], "loss"),
                "cosine": _mean(record["datasets"], "cosine"),
            }
            for record in measured
        ],
    }


@contextmanager
def losses_as_they_are() -> Iterator[None]:
    """Let teacher dropping compare losses against decoded tokens, uncorrected: the control of the correction."""

    def plain(loss: TeacherLoss, floors: Tensor, *, weights: Loss) -> Tensor:
        return loss.per_image.detach()

    with patch.object(batch_losses, "corrected", plain):
        yield


def _mean(datasets: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> float:
    of_datasets: Sequence[float] = [
        float(np.mean([values[measure] for values in by_teacher.values()])) for by_teacher in datasets.values()
    ]
    return float(np.mean(of_datasets))
