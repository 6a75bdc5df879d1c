"""Facts about a run that several sections of the page show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.recipe.config import Recipe


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run on the page.

    Attributes:
        name: name on the page.
        path: run directory.
        recipe: recipe of its training.
        description: caches and teachers of the run, as `train.data.open_caches.describe` gives them.
        step: step of the checkpoint that was measured.
        parameters: number of parameters of the encoder.
        weights_digest: sha256 of the checkpoint.
        kinds: held-out dataset -> kinds of its held-out rows.
        measured_on: uuids of the caches whose held-out rows were measured.
        label: name in charts; the runs of a recipe, which differ in their seed, share it.
        colour: number of its colour in charts.
    """

    name: str
    path: Path
    recipe: Recipe
    description: Mapping[str, Any]
    step: int
    parameters: int
    weights_digest: str
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    measured_on: tuple[str, ...] = ()
    label: str = ""
    colour: int = 0

    @property
    def notes(self) -> list[str]:
        """Notes of the catalogues that its data was extracted with."""
        return list(self.description.get("notes", ()))

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Uuids of the caches that the run was trained on."""
        return tuple(cache["uuid"] for cache in self.description["caches"])
