"""Which code tokens go into: the one that the new cache has, the source's on fewer patches, or a new one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.cache.cache import Cache
from store.cache.dataset import Dataset
from store.cache.shared_code import freeze, stored_code
from store.common import stateless_random
from store.compact.tokens_of_source import usable_tokens
from store.format import schema
from store.format.calibration_draw import Drawable, draw_sample, rows_wanted
from store.format.calibration_sample import Basis
from store.format.code import Code
from store.format.code_fit import fit_code
from store.format.code_sizes import float16_bytes, kept_patches
from store.format.token_subset import CELL_PATCHES, TokenSubset, is_even


@dataclass(frozen=True, kw_only=True)
class Target:
    """The code of one teacher in the new cache.

    Attributes:
        code: the code.
        source_code: code of the source, in those of its datasets that have one; None where all tokens are float16.
        note: sentence for people about the calibration; empty if there is nothing to say.
    """

    code: Code
    source_code: Code | None
    note: str

    @property
    def is_of_source(self) -> bool:
        """Return whether it is the source's code: its shards are shared, and float16 tokens are encoded in it."""
        return self.source_code is not None and self.code.spec.digest == self.source_code.spec.digest

    @property
    def copies_records(self) -> bool:
        """Return whether the new code is the source's on fewer patches: records are copied, nothing is lost in them."""
        return self.source_code is not None and same_records(self.code, self.source_code)


def choose(
    source: Cache, target: Cache, teacher: str, datasets: Sequence[str], *, ratio: float, basis: Basis
) -> Target:
    """Return the code of a teacher, and record it in all training datasets of the new cache.

    Args:
        source: cache that is converted.
        target: new cache, in which the datasets were created.
        teacher: name of the teacher.
        datasets: names of the training datasets that have it.
        ratio: ratio asked for.
        basis: kind of code.

    Raises:
        errors.InvalidInput: the ratio cannot be met, the source has that ratio already, or too few rows to calibrate.
        errors.Conflict: the new cache was begun with another ratio or basis.
    """
    source_code = stored_code(source, teacher)
    code, note, new = stored_code(target, teacher), "", False
    if code is not None:
        copied = source_code is not None and same_records(code, source_code)
        _refuse_other(code, teacher, target, ratio=ratio, basis=None if copied else basis)
    else:
        code, note = _new_code(source, teacher, datasets, source_code=source_code, ratio=ratio, basis=basis)
        new = True
    for name in sorted(datasets):
        described = description(source.part(name), teacher)
        code = freeze(target.part(name), code, teacher, described, first=new and name == min(datasets))
    return Target(code=code, source_code=source_code, note=note)


def refuse_ratio(dataset: Dataset, teacher: str, ratio: float) -> None:
    """Refuse a ratio that the tokens of a teacher cannot have, before anything is written.

    Raises:
        errors.InvalidInput: it cannot be met, or they have a higher one already.
    """
    info, where = dataset.teacher(teacher), f"'{dataset.name}/{teacher}' in {dataset.storage.location}"
    try:
        kept_patches(ratio, prefix_tokens=info.prefix_tokens, patch_grid=info.patch_grid, channels=info.channels)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"teacher '{teacher}': {error}") from None
    if info.code is None or ratio == info.code.ratio:
        return
    if ratio < info.code.ratio:
        has = f"{where} is stored in a code of ratio {info.code.ratio:g} already"
        raise errors.InvalidInput(
            f"{has}: bits that are gone do not come back, and a teacher has one code in a cache. Ask for "
            f"{info.code.ratio:g}, which keeps its codes and converts what is float16, or for more"
        )
    if info.code.subset is not None:
        stored = f"{info.code.stored_patches(info.patches)} of the {info.patches} patches of a row"
        message = f"{where} stores only {stored}: such codes are not converted. Convert the float16 tokens instead"
        raise errors.InvalidInput(message)


def refuse_ratio_of_held_out(dataset: Dataset, teacher: str, ratio: float) -> None:
    """Refuse to give training datasets another code than that which a held-out dataset has, and keeps.

    Raises:
        errors.InvalidInput: it has a code of another ratio.
    """
    code = dataset.teacher(teacher).code
    if code is not None and code.ratio != ratio:
        raise errors.InvalidInput(
            f"'{dataset.name}/{teacher}' in {dataset.storage.location} is held out and stored in a code of ratio "
            f"{code.ratio:g}: held-out datasets are kept as they are, and a teacher has one code in a cache. Ask for "
            f"{code.ratio:g}"
        )


def same_records(code: Code, other: Code) -> bool:
    """Return whether two codes differ at most in which patches they store."""
    return code.computed_without_subset() == other.computed_without_subset()


def description(dataset: Dataset, teacher: str) -> dict[str, Any]:
    """Return what a dataset records of a teacher, as keywords of `Dataset.create_teacher`, without its code."""
    info = dataset.teacher(teacher)
    return {
        "identity": info.identity,
        "groups": info.groups,
        "patch_grid": info.patch_grid,
        "prefix_tokens": info.prefix_tokens,
        "channels": info.channels,
    }


def _refuse_other(code: Code, teacher: str, target: Cache, *, ratio: float, basis: Basis | None) -> None:
    asked = {"ratio": float(ratio), **({} if basis is None else {"basis": basis})}
    found = {"ratio": code.spec.ratio, "basis": code.spec.calibration.get("basis")}
    differing = schema.differences({key: found[key] for key in asked}, asked)
    if differing:
        exits = "Use another --out, or ask for the same"
        raise errors.Conflict(f"'{teacher}' in {target.location} was begun otherwise. {'; '.join(differing)}. {exits}")


def _new_code(
    source: Cache, teacher: str, datasets: Sequence[str], *, source_code: Code | None, ratio: float, basis: Basis
) -> tuple[Code, str]:
    if source_code is not None and source_code.spec.ratio == ratio:
        return source_code, ""
    if source_code is not None:
        fewer = fewer_patches(source_code, ratio=ratio)
        if fewer is not None:
            return fewer, f"'{teacher}': records are copied, {fewer.spec.stored_patches(fewer.patches)} patches a row"
    info = source.part(datasets[0]).teacher(teacher)
    generation = 1 + (0 if source_code is None else int(source_code.spec.calibration.get("generation", 1)))

    def compute(name: str, rows: Sequence[int]) -> list[npt.NDArray[np.float16] | None]:
        return usable_tokens(source.part(name), teacher, rows)

    draw = draw_sample(
        [_drawable(source.part(name)) for name in datasets],
        teacher=teacher,
        wanted=rows_wanted(channels=info.channels, patches=info.patches),
        prefix_tokens=info.prefix_tokens,
        patch_grid=info.patch_grid,
        compute=compute,
    )
    about = {"datasets": sorted(datasets), "different_images": draw.images}
    about |= {} if generation == 1 else {"generation": generation}
    try:
        code = fit_code(draw.sample, ratio=ratio, basis=basis, about=about)
    except errors.InvalidInput as error:
        raise errors.InvalidInput(f"teacher '{teacher}': {error}") from error
    again = f"its codes are decoded and encoded again (generation {generation}), which adds noise: better convert the "
    notes = [draw.note, f"{again}float16 tokens if you still have them" if generation > 1 else ""]
    told = "; ".join(note for note in notes if note)
    return code, f"'{teacher}': {told}" if told else ""


def fewer_patches(code: Code, *, ratio: float) -> Code | None:
    """Return a code on fewer patches of each row that meets a ratio; None if a new code suits the ratio better.

    It suits better where it would store more patches. A new code adds its noise to that of the old one, while fewer
    patches add none.
    """
    if code.spec.subset is not None or not is_even(code.patch_grid):
        return None
    wanted = kept_patches(ratio, prefix_tokens=code.prefix_tokens, patch_grid=code.patch_grid, channels=code.channels)
    allowed = float16_bytes(code.tokens, code.channels) / ratio
    for kept in range(CELL_PATCHES - 1, wanted - 1, -1):
        subset = TokenSubset(kept=kept, key=stateless_random.key("tokens", code.spec.digest))
        smaller = replace(code, spec=replace(code.spec, subset=subset, ratio=float(ratio))).with_digest()
        if smaller.row_bytes <= allowed:
            return smaller
    return None


def _drawable(dataset: Dataset) -> Drawable:
    return Drawable(name=dataset.name, group=dataset.group, images=dataset.images, views=dataset.views)
