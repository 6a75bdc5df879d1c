"""What every recipe of a task head has; imports no torch."""

import json
from typing import ClassVar

from train.recipe.config import Checkpoint, Section, Seed, Steps


class HeadRecipe(Section):
    """A training of a task head on a frozen student.

    Attributes:
        kind: tells runs of different heads apart.
        seed: seed of everything that is drawn.
        steps: optimizer steps.
        checkpoint: saving.
    """

    TITLE: ClassVar[str] = "training of a task head"
    FREE: ClassVar[tuple[str, ...]] = ("checkpoint",)
    """Fields that may differ between a run and its resumption, because no number depends on them."""

    kind: str
    seed: Seed = 0
    steps: Steps
    checkpoint: Checkpoint = Checkpoint(every_steps=1000)

    def to_json(self) -> str:
        """Return the text of a run's `recipe.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
