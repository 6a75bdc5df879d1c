"""What the page knows of a run, gathered before anything is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.recipe.config import Recipe


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run.

    Attributes:
        name: how the page calls it.
        path: its directory.
        recipe: of its training.
        description: of its caches and teachers, as `train.opening.describe` has it.
        step: of the checkpoint that was measured.
        parameters: of the encoder.
        weights_digest: sha256 of the checkpoint.
        kinds: held-out dataset -> which kinds of held-out rows it has.
        measured_on: uuids of the caches whose held-out rows were measured.
        label: what charts call it; the runs of a recipe, which differ in their seed, share it.
        colour: its number in charts.
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
    def trained_on(self) -> tuple[str, ...]:
        """Uuids of the caches that it was trained on."""
        return tuple(cache["uuid"] for cache in self.description["caches"])
