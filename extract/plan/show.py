"""Print plans: one plan whole, or several choices of image size and views side by side."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from extract.catalogue import Catalogue
from extract.job.preflight import free_bytes
from extract.plan import tables
from extract.plan.plan import DUNE_SAMPLES, Plan, count_images, make_plan, open_if_there
from extract.plan.repeats import is_meaningful, proposal_sentences, repeats, repeats_table
from extract.plan.stored_forms import forms_sentences, forms_table


def show_plan(
    console: Console,
    catalogue: Catalogue,
    cache: str | None,
    *,
    rates: Mapping[str, float] | None = None,
    count_files: bool = True,
    samples: int = DUNE_SAMPLES,
) -> None:
    """Print what a catalogue costs, in which forms, and what of it exists.

    Args:
        console: console to print on.
        catalogue: catalogue of the extraction.
        cache: location of the cache, existing or not; None if none was named.
        rates: rows per second by array, where known.
        count_files: count images by listing them.
        samples: images of the training that repeats are counted for.

    Raises:
        errors.Conflict: the cache was made by another recipe.
        errors.InvalidInput: a teacher's ratio cannot be met.
    """
    existing = open_if_there(cache, catalogue.recipe)
    counts = count_images(catalogue, cache=existing, count_files=count_files)
    plan = make_plan(catalogue, counts=counts, cache=existing, rates=rates, free_bytes=free_bytes(cache))
    console.print(tables.dataset_table(plan), tables.cost_table(plan), tables.array_table(plan), sep="\n")
    for sentence in tables.sentences(plan):
        _say(console, sentence)
    _show_forms_and_repeats(console, [plan], samples)


def show_choices(
    console: Console, catalogues: Sequence[Catalogue], *, count_files: bool, samples: int = DUNE_SAMPLES
) -> None:
    """Print what several choices cost, a line each; arguments as in `show_plan`."""
    counts = count_images(catalogues[0], cache=None, count_files=count_files)
    plans = [make_plan(catalogue, counts=counts) for catalogue in catalogues]
    console.print(tables.choice_table(plans))
    _show_forms_and_repeats(console, plans, samples)


def _show_forms_and_repeats(console: Console, plans: Sequence[Plan], samples: int) -> None:
    if len(plans[0].arrays) > 1:
        console.print(forms_table(plans))
        for sentence in forms_sentences(plans):
            _say(console, sentence)
    shown: set[int] = set()
    for plan in plans:
        groups = repeats(plan, samples)
        if not is_meaningful(groups) or plan.rows in shown:
            continue
        shown.add(plan.rows)
        console.print(repeats_table(groups, samples))
        for sentence in proposal_sentences(plan, groups):
            _say(console, sentence)


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, soft_wrap=True, highlight=False, markup=False)
