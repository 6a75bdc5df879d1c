"""From per-image sums to scores with intervals, for each predictor, teacher, token type and group of rows.

Shapes: K images, M sums, S scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.fidelity import bootstrap
from eval.fidelity.metrics import SCORES, SUMS, scores

HELD_OUT_VIEWS = "held-out views"
HELD_OUT_PHOTOGRAPHS = "held-out photographs"
KINDS = (HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS)
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
    """The scores (in the order of `SCORES`) of one predictor on one group of held-out rows, with 95 % intervals.

    The interval is NaN if there is one image only: nothing can be said about other images then.
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
        """Value, low and high end of one of `SCORES`."""
        index = SCORES.index(score)
        return self.value[index], self.low[index], self.high[index]


def summarise(table: pa.Table, *, by: str = "kind", replicates: int = 1000, seed: int = 0) -> list[Score]:
    """Pool rows by kind (held-out views, held-out photographs) or by dataset and score every predictor.

    Args:
        table: per-image sums, schema `IMAGE_SUMS`.
        by: column that makes the groups: "kind" or "dataset".
        replicates: bootstrap resamples of images.
        seed: of the resampling.
    """
    found = []
    for key, images, sums in blocks(table, by):
        group, teacher, token_type, predictor = key
        value = scores(sums.sum(0))
        low = high = np.full(len(SCORES), np.nan)
        if len(images) > 1:
            low, high = bootstrap.interval(bootstrap.replicates(sums, scores, count=replicates, seed=seed))
        found.append(
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
    return found


def differences(
    table: pa.Table, reference: pa.Table, *, predictor: str, by: str = "kind", replicates: int = 1000, seed: int = 0
) -> list[Score]:
    """Scores of `table` minus those of `reference`, by the paired bootstrap over the images that both have.

    Pairing takes out that some images are harder than others, so that two students can be told apart although
    their own intervals overlap.

    Args:
        table: per-image sums of one run.
        reference: those of the run it is compared with.
        predictor: which predictor of both.
        by: column that makes the groups.
        replicates: bootstrap resamples of images.
        seed: of the resampling.
    """
    others = {key: (images, sums) for key, images, sums in blocks(reference, by) if key[-1] == predictor}
    found = []
    for key, images, sums in blocks(table, by):
        if key not in others:
            continue
        common, ours, theirs = np.intersect1d(images, others[key][0], return_indices=True)
        pair = np.stack([sums[ours], others[key][1][theirs]], axis=1)
        delta = _difference(pair.sum(0)[None])[0]
        low = high = np.full(len(SCORES), np.nan)
        if len(common) > 1:
            low, high = bootstrap.interval(bootstrap.replicates(pair, _difference, count=replicates, seed=seed))
        found.append(
            Score(
                predictor=predictor,
                teacher=key[1],
                token_type=key[2],
                group=key[0],
                images=len(common),
                tokens=int(pair[:, 0, SUMS.index("tokens")].sum()),
                value=tuple(delta.tolist()),
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
            )
        )
    return found


def pick(found: Iterable[Score], **wanted: str) -> Score | None:
    """The first score whose fields have the wanted values."""
    return next((s for s in found if all(getattr(s, name) == value for name, value in wanted.items())), None)


def ordered(values: Iterable[str], first: Sequence[str]) -> list[str]:
    """Distinct values, those of `first` in its order before the others in alphabetical order."""
    distinct = set(values)
    return [name for name in first if name in distinct] + sorted(distinct - set(first))


def _difference(pair: np.ndarray) -> np.ndarray:
    """(R, 2, M) sums of a run and its reference -> (R, S) differences of scores."""
    result: np.ndarray = scores(pair[:, 0]) - scores(pair[:, 1])
    return result


def blocks(table: pa.Table, by: str) -> list[tuple[tuple[str, str, str, str], np.ndarray, np.ndarray]]:
    """(group, teacher, token type, predictor) -> sorted image keys (K,) and their sums (K, M)."""
    keys = [by, "teacher", "token_type", "predictor"]
    pooled = table.group_by([*keys, "image"]).aggregate([(name, "sum") for name in SUMS])
    combinations = pooled.select(keys).group_by(keys).aggregate([]).sort_by([(key, "ascending") for key in keys])
    blocks = []
    for row in combinations.to_pylist():
        mask = None
        for key in keys:
            equal = pc.equal(pooled[key], row[key])
            mask = equal if mask is None else pc.and_(mask, equal)
        block = pooled.filter(mask).sort_by("image")
        sums = np.stack([block[f"{name}_sum"].to_numpy() for name in SUMS], axis=1)
        names = np.array(block["image"].to_pylist(), dtype=object)
        blocks.append(((row[by], row["teacher"], row["token_type"], row["predictor"]), names, sums))
    return blocks
