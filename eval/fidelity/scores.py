"""Scores with intervals from per-image sums, for each predictor, teacher, token type and group of held-out rows.

Shapes: K images, M sums, S scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.fidelity import bootstrap
from eval.fidelity.metrics import SCORES, SUMS, scores
from train.run.headline import DECODED

HELD_OUT_VIEWS = "held-out views"
HELD_OUT_PHOTOGRAPHS = "held-out photographs"
KINDS = (HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS + DECODED, HELD_OUT_PHOTOGRAPHS + DECODED)
PATCH, PREFIX = "patch", "prefix"
IMAGE_SUMS = pa.schema(
    [
        ("dataset", pa.string()),
        ("kind", pa.string()),
        ("image", pa.string()),
        ("teacher", pa.string()),
        ("token_type", pa.string()),
        ("predictor", pa.string()),
        *((name, pa.float64()) for name in SUMS),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores (in the order of `SCORES`) of one predictor on one group of held-out rows, with 95 % intervals.

    The interval of a single image is NaN: it says nothing about other images.
    """

    predictor: str
    teacher: str
    token_type: str
    group: str
    images: int
    tokens: int
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def of(self, score: str) -> tuple[float, float, float]:
        """Return value, low and high end of one of `SCORES`."""
        index = SCORES.index(score)
        return self.value[index], self.low[index], self.high[index]


def summarise(table: pa.Table, *, by: str = "kind", replicates: int = 1000, seed: int = 0) -> list[Score]:
    """Score every predictor on rows pooled by kind (held-out views, held-out photographs) or by dataset.

    Args:
        table: per-image sums, schema `IMAGE_SUMS`.
        by: column that rows are pooled by: `kind` or `dataset`.
        replicates: number of bootstrap resamples of images.
        seed: seed of the resampling.
    """
    summary = []
    for key, images, sums in _blocks(table, by):
        group, teacher, token_type, predictor = key
        value = scores(sums.sum(0))
        low = high = np.full(len(SCORES), np.nan)
        if len(images) > 1:
            low, high = bootstrap.interval(bootstrap.replicates(sums, scores, count=replicates, seed=seed))
        summary.append(
            Score(
                predictor=predictor,
                teacher=teacher,
                token_type=token_type,
                group=group,
                images=len(images),
                tokens=int(sums[:, SUMS.index("tokens")].sum()),
                value=tuple(value.tolist()),
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
            )
        )
    return summary


def pick(candidates: Iterable[Score], **wanted: str) -> Score | None:
    """Return the first score whose fields have the wanted values."""
    return next((s for s in candidates if all(getattr(s, name) == value for name, value in wanted.items())), None)


def ordered(values: Iterable[str], first: Sequence[str]) -> list[str]:
    """Return distinct values, those of `first` in its order before the others in alphabetical order."""
    distinct = set(values)
    return [name for name in first if name in distinct] + sorted(distinct - set(first))


def _blocks(table: pa.Table, by: str) -> list[tuple[tuple[str, str, str, str], np.ndarray, np.ndarray]]:
    """List (group, teacher, token type, predictor), sorted image keys (K,) and their sums (K, M)."""
    keys = [by, "teacher", "token_type", "predictor"]
    pooled = table.group_by([*keys, "image"]).aggregate([(name, "sum") for name in SUMS])
    combinations = pooled.select(keys).group_by(keys).aggregate([]).sort_by([(key, "ascending") for key in keys])
    by_key = []
    for row in combinations.to_pylist():
        mask = None
        for key in keys:
            equal = pc.equal(pooled[key], row[key])
            mask = equal if mask is None else pc.and_(mask, equal)
        block = pooled.filter(mask).sort_by("image")
        sums = np.stack([block[f"{name}_sum"].to_numpy() for name in SUMS], axis=1)
        names = np.array(block["image"].to_pylist(), dtype=object)
        by_key.append(((row[by], row["teacher"], row["token_type"], row["predictor"]), names, sums))
    return by_key
