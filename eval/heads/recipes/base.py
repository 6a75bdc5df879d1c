"""What every recipe of a task head has; imports no torch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from store.common.config import near_miss, parse, read_toml
from store.errors import InvalidConfig
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


AnyRecipe = TypeVar("AnyRecipe", bound=HeadRecipe)


def find(name: str, recipes: Mapping[str, Callable[[], AnyRecipe]]) -> AnyRecipe:
    """Return a recipe by name, or from a .toml file, whose `base` names the recipe that it changes.

    Args:
        name: a name, or the path of a file.
        recipes: functions that return named recipes; the first one is the base of files that name none.

    Raises:
        InvalidConfig: unknown name, or problems of the file; all are listed.
        MissingFile: no such file.
    """
    subject = f"recipe '{name}'"
    if name in recipes:
        return recipes[name]()
    if Path(name).suffix != ".toml":
        choices = ", ".join(recipes)
        raise InvalidConfig(subject, [f"unknown{near_miss(name, recipes)}. Choose {choices}, or a .toml file"])
    values = read_toml(Path(name), subject=subject)
    base = values.pop("base", next(iter(recipes)))
    if not isinstance(base, str) or base not in recipes:
        raise InvalidConfig(subject, [f"base: unknown recipe '{base}'{near_miss(str(base), recipes)}"])
    begun = recipes[base]()
    return parse(type(begun), _merged(begun.model_dump(), values), subject=subject)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables with some values replaced."""
    merged = dict(base)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
