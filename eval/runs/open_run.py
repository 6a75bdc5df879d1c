"""Open a run for evaluation: its student before and after training, its caches, its stored results."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import store
from backbones.device import resolve_device
from eval.encoders.base import FrozenEncoder
from eval.fidelity.measure import Subject
from eval.runs.results import Results, digest, file_digest
from store.errors import CodistillError, Conflict, MissingCache
from train.data.mixture import Mixture
from train.data.open_caches import Description, describe, open_mixture
from train.data.selection import Selection, open_selected
from train.recipe.config import overridden
from train.run import checkpoints, load
from train.run.directory import read_selection
from train.run.output import CHECKPOINTS

CODE = 2  # raise when a result of the same settings would come out differently


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run with its caches open; stored results about it need no cache.

    Attributes:
        run: the run as the trainer reads it back.
        data: rows that it was trained on, and those held out; or the error that opening them gave.
        caches: description of the caches that results are about, part of the key of each.
        device: device that its modules are moved to when they are used.
    """

    run: load.Run
    data: Mixture | CodistillError
    caches: Sequence[Mapping[str, Any]]
    device: torch.device

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run.directory

    @property
    def mixture(self) -> Mixture:
        """Rows of the caches that the run was trained on, and those held out.

        Raises:
            CodistillError: the caches are not there, or what the run used of them has changed.
        """
        if isinstance(self.data, CodistillError):
            raise self.data
        return self.data

    @property
    def uuids(self) -> list[str]:
        """Uuids of the caches that results are about."""
        return [cache["uuid"] for cache in self.caches]

    @cached_property
    def weights_digest(self) -> str:
        """The sha256 of the checkpoint's weights."""
        checkpoint = self.directory / CHECKPOINTS / f"step-{self.run.step:08d}"
        return file_digest(checkpoint / checkpoints.MODEL)

    @cached_property
    def results(self) -> Results:
        """Stored results for these weights on the data that the run used, whatever else the caches hold."""
        depends_on = {
            "code": CODE,
            "recipe": digest(self.run.recipe.model_dump(mode="json")),
            "weights": self.weights_digest,
            "caches": self.caches,
            "teachers": {name: info.identity_digest for name, info in self.run.teachers.items()},
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
    """Read a run back and open its caches: of its own, what it used; of others, what its recipe selects.

    Args:
        directory: run directory.
        caches: locations of the caches; none given means those that the run was trained on, where they were then. If
            these are gone, or what the run used of them has changed, stored results are still there.
        device: device to compute on; `auto` takes a GPU if there is one.

    Raises:
        MissingFile: no run, or no checkpoint in it.
        MissingCache: no cache at a given location.
        Conflict: a teacher of the cache is not the one that the run was trained on.
    """
    run, selection = load.load(directory), read_selection(directory)
    chosen = torch.device(resolve_device(device))
    locations = list(caches) or [cache["location"] for cache in run.description["caches"]]
    try:
        opened = [store.open(location) for location in locations]
    except MissingCache as error:
        if caches:
            raise
        return OpenRun(run=run, data=error, caches=_key_of(run.description), device=chosen)
    if Counter(cache.uuid for cache in opened) == Counter(selection.uuids):
        return _open_own(run, selection, locations, device=chosen)
    teachers = {} if run.recipe.data.teachers else {"data.teachers": list(run.teachers)}
    mixture = open_mixture(overridden(run.recipe, teachers, subject=f"recipe of '{directory}'"), locations)
    _refuse_other_teachers(run, mixture.teachers)
    return OpenRun(run=run, data=mixture, caches=_key_of(describe(mixture)), device=chosen)


def _open_own(run: load.Run, selection: Selection, locations: Sequence[str], *, device: torch.device) -> OpenRun:
    """Open the caches that a run was trained on; results are about what it used of them."""
    data: Mixture | CodistillError
    description = run.description
    try:
        data = open_selected(selection, locations, recipe=run.recipe, owner=f"run '{run.directory}'", exact=False)
    except CodistillError as error:
        data = error
    else:
        if selection.rows is None:  # an older run: its rows are those that are usable now
            description = _as_recorded(describe(data), like=run.description)
    return OpenRun(run=run, data=data, caches=_key_of(description), device=device)


def _as_recorded(description: Description, *, like: Description) -> Description:
    """Return a description with those keys alone that an older one has, so that stored results keep their keys."""
    caches = []
    for cache, older in zip(description["caches"], like["caches"], strict=True):
        datasets = {
            name: {key: value for key, value in entry.items() if key in older["datasets"][name]}
            for name, entry in cache["datasets"].items()
        }
        caches.append({key: value for key, value in {**cache, "datasets": datasets}.items() if key in older})
    return {**description, "caches": caches}


def _key_of(description: Description) -> list[dict[str, Any]]:
    """Return what results depend on of a description; a cache may have moved."""
    return [{key: value for key, value in cache.items() if key != "location"} for cache in description["caches"]]


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
