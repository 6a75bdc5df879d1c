"""The sentence that `codistill store info` opens with: whether all is well, and if not, what mends it."""

from collections.abc import Iterator, Mapping

from store.common.text import some
from store.format.schema import PIXELS
from store.inspection.info import ArrayInfo, CacheInfo

NAMED = 3  # arrays in a sentence


def sentence(info: CacheInfo) -> str:
    """Return one sentence: complete and sealed, or what is damaged, missing, unsealed or failed, with the commands.

    Args:
        info: summary, from `store.inspection.info.inspect`; stored bytes are not read for it, `verify` does that.
    """
    where = info.location
    if not info.datasets:
        return f"Empty: there are no datasets yet. Run: codistill extract run CATALOGUE.toml --cache {where}"
    problems = list(_problems(info))
    failed = _named(_failed(info))
    failures = f"{failed[0]:,} rows failed in {failed[1]} (codistill store failures {where})" if failed else ""
    held = f"{_count(len(info.datasets), 'dataset')} with {_count(sum(d.rows for d in info.datasets), 'row')}"
    if problems:
        return f"Not all is well: {'; '.join([*problems, *([failures] if failures else [])])}."
    foreign = sum(array.foreign for dataset in info.datasets for array in dataset.arrays)
    apart = f"; {_count(foreign, 'array')} not written by codistill" if foreign else ""
    if failures:
        return f"Complete and sealed, but {failures}: {held}{apart}."
    teachers = len({teacher.name for teacher in info.teachers})
    return f"All is well: {held} and {_count(teachers, 'teacher')} are complete and sealed{apart}."


def is_well(info: CacheInfo) -> bool:
    """Return whether everything is complete and sealed, failed rows aside."""
    return bool(info.datasets) and not list(_problems(info))


def _problems(info: CacheInfo) -> Iterator[str]:
    """Yield what must be mended, worst first, each with its command."""
    where = info.location
    for kind, text, command in (
        ("damaged", "shards or tables damaged or gone in", f"codistill store verify {where} --repair"),
        ("missing", "rows missing in", f"codistill extract run CATALOGUE.toml --cache {where}"),
    ):
        if found := _listed(info, kind):
            yield f"{found[0]:,} {text} {found[1]} ({command})"
    bare = [dataset.name for dataset in info.datasets if len(dataset.arrays) == 1]
    if bare:
        run = f"codistill extract run CATALOGUE.toml --cache {where}"
        yield f"no teacher's tokens yet in {some(bare, limit=NAMED)} ({run})"
    unsealed = [
        name for name, array in _arrays(info) if array.shards_present and not array.sealed and not array.foreign
    ]
    if unsealed:
        yield f"not sealed: {some(unsealed, limit=NAMED)} (codistill store seal {where})"


def _listed(info: CacheInfo, kind: str) -> tuple[int, str] | None:
    """Return the sum of a count of arrays, and the arrays where it is not 0; None where there are none."""
    return _named({name: getattr(array, kind) for name, array in _arrays(info)})


def _failed(info: CacheInfo) -> dict[str, int]:
    """Return failed rows by array; a row without pixels has failed for every teacher, and counts once."""
    counts = {}
    for dataset in info.datasets:
        without = next((array.failed for array in dataset.arrays if array.name == PIXELS), 0)
        for array in dataset.arrays:
            again = 0 if array.name == PIXELS else without
            counts[f"{dataset.name}/{array.name}"] = max(0, array.failed - again)
    return counts


def _named(counts: Mapping[str, int]) -> tuple[int, str] | None:
    """Return the sum of counts by array, and the arrays where it is not 0; None where there are none."""
    found = {name: count for name, count in counts.items() if count}
    return (sum(found.values()), some(found, limit=NAMED)) if found else None


def _arrays(info: CacheInfo) -> Iterator[tuple[str, ArrayInfo]]:
    for dataset in info.datasets:
        for array in dataset.arrays:
            yield f"{dataset.name}/{array.name}", array


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
