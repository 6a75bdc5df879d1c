"""Data of a run that begins or goes on: a run that was begun keeps the datasets, rows and teachers that it has used."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import store
from store.errors import CodistillError, Conflict, InvalidConfig, MissingCache
from train.data.mixture import Mixture
from train.data.open_caches import open_mixture
from train.data.selection import Selection, in_recorded_order, left_out, open_selected, select
from train.recipe.config import Recipe
from train.run import directory
from train.run.output import RECIPE


def open_data(
    recipe: Recipe,
    caches: Sequence[str],
    *,
    out: Path,
    stored: Selection | None,
    begins: bool,
    problems: Sequence[str] = (),
) -> tuple[Mixture, Selection, str]:
    """Open the caches of a training.

    Args:
        recipe: recipe of the run.
        caches: locations of the caches.
        out: run directory.
        stored: selection of the run, recorded when it was begun; None selects as the recipe says.
        begins: there is no checkpoint yet.
        problems: problems of the recipe that are known already.

    Returns:
        the mixture, its selection, and a note about what the run does not use (empty if there is nothing to say).

    Raises:
        InvalidConfig: recipe and caches do not fit; every problem is listed.
        Conflict: the run was begun with another recipe, from another cache, or what it uses has changed.
    """
    if stored is None:
        mixture = open_mixture(recipe, caches, problems=problems)
        return mixture, select(mixture), ""
    changes = _recipe_changes(out, recipe)
    if problems and not changes:
        raise InvalidConfig(f"recipe '{recipe.name}'", problems)
    mixture = open_selected(stored, caches, recipe=recipe, owner=f"run '{out}'", changes=changes, begins=begins)
    return mixture, stored, left_out(mixture, recipe=recipe)


def refuse_another_cache(stored: Selection, caches: Sequence[str], *, owner: str) -> None:
    """Refuse other caches than a run was begun with; caches that are not there are left to others.

    Raises:
        Conflict: both uuids are shown.
    """
    with suppress(MissingCache):
        in_recorded_order(stored, [store.open(location) for location in caches], owner=owner)


def refuse_other_data(stored: Selection, caches: Sequence[str], *, recipe: Recipe, out: Path) -> None:
    """Refuse another recipe, another cache or changed data for a finished run; it needs no cache to be there.

    Raises:
        Conflict: both values are shown.
    """
    changes = _recipe_changes(out, recipe)
    try:
        open_selected(stored, caches, recipe=recipe, owner=f"run '{out}'", changes=changes)
    except Conflict:
        raise
    except CodistillError:  # the cache is gone or not sealed, and nothing of it is needed any more
        if changes:
            raise Conflict(
                f"run '{out}' was started with another recipe. {'. '.join(changes)}. Give that one, or choose another "
                "--out"
            ) from None


def _recipe_changes(out: Path, recipe: Recipe) -> list[str]:
    return directory.recipe_changes(out, recipe) if (out / RECIPE).is_file() else []
