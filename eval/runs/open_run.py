"""Open a run for evaluation: its student before and after training, its caches, its stored results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from backbones.device import resolve_device
from eval.encoders.base import FrozenEncoder
from eval.fidelity.measure import Subject
from eval.runs.results import Results, digest, file_digest
from store.errors import Conflict
from train.data.mixture import Mixture
from train.data.open_caches import describe, open_mixture
from train.run import checkpoints, load
from train.run.directory import CHECKPOINTS

CODE = 2  # raise when a result of the same settings would come out differently


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run with its caches open.

    Attributes:
        run: the run as the trainer reads it back.
        mixture: rows of the caches that it was trained on, and those held out.
        device: device that its modules are moved to when they are used.
    """

    run: load.Run
    mixture: Mixture
    device: torch.device

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run.directory

    @cached_property
    def weights_digest(self) -> str:
        """The sha256 of the checkpoint's weights."""
        checkpoint = self.directory / CHECKPOINTS / f"step-{self.run.step:08d}"
        return file_digest(checkpoint / checkpoints.MODEL)

    @cached_property
    def results(self) -> Results:
        """Stored results for these weights on these caches as they are now."""
        caches = [
            {key: value for key, value in cache.items() if key != "location"}
            for cache in describe(self.mixture)["caches"]
        ]
        identities = {name: info.identity_digest for name, info in self.mixture.teachers.items()}
        depends_on = {
            "code": CODE,
            "recipe": digest(self.run.recipe.model_dump(mode="json")),
            "weights": self.weights_digest,
            "caches": caches,
            "teachers": identities,
        }
        return Results(self.directory, depends_on)

    def subject(self, peers: Mapping[str, FrozenEncoder] | None = None) -> Subject:
        """Return the student and its comparisons for `eval.fidelity.measure`, on the device."""
        return Subject(
            student=self.run.distiller.to(self.device),
            untrained=self.run.initial().to(self.device),
            norms=self.run.target_norms.to(self.device),
            mixture=self.mixture,
            peers=peers or {},
        )


def open_run(directory: Path, *, caches: Sequence[str] = (), device: str = "auto") -> OpenRun:
    """Read a run back and open its caches.

    Args:
        directory: run directory.
        caches: locations of the caches; none given means those that the run was trained on, where they were then.
        device: device to compute on; `auto` takes a GPU if there is one.

    Raises:
        MissingFile: no run, or no checkpoint in it.
        MissingCache: no cache at a location; pass the present ones with --cache.
        Conflict: a teacher of the cache is not the one that the run was trained on.
    """
    run = load.load(directory)
    locations = list(caches) or [cache["location"] for cache in run.description["caches"]]
    mixture = open_mixture(run.recipe, locations)
    _refuse_other_teachers(run, mixture.teachers)
    return OpenRun(run=run, mixture=mixture, device=torch.device(resolve_device(device)))


def _refuse_other_teachers(run: load.Run, cached_teachers: Mapping[str, Any]) -> None:
    trained = {name: info.identity_digest for name, info in run.teachers.items()}
    cached = {name: info.identity_digest for name, info in cached_teachers.items()}
    if trained != cached:
        differing = [name for name in sorted({*trained, *cached}) if trained.get(name) != cached.get(name)]
        listed = ", ".join(
            f"'{name}' {trained.get(name, 'absent')[:12]} in the run, {cached.get(name, 'absent')[:12]} in the cache"
            for name in differing
        )
        raise Conflict(
            f"run '{run.directory}' and its cache do not fit: teacher {listed}. Pass the cache that it was trained on "
            "with --cache"
        )
