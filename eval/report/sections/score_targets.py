"""What scores were measured against: true tokens, or tokens decoded from codes, which are never in one table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eval.fidelity.predictors import CODE
from eval.fidelity.scores import PATCH, Score
from train.run.headline import DECODED, is_decoded

NO_TRUE_TOKENS = (
    "No held-out row has float16 tokens: for scores that compare with those of other runs, extract held-out datasets "
    '(split = "val", which are stored as float16) into a cache of these teachers, and pass it with --cache.'
)


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """The scores of one run: pooled by kind of held-out row, and by dataset."""

    name: str
    by_kind: Sequence[Score]
    by_dataset: Sequence[Score]


def by_targets(runs: Sequence[RunScores]) -> list[tuple[str, list[RunScores]]]:
    """Split scores by what they were measured against.

    Returns:
        Pairs of a label and the scores: the empty label for true tokens, then `targets decoded, floor X` for those
        from codes. What is empty is left out, but for the first where both are.
    """
    true, decoded = ([_those(run, decoded=which) for run in runs] for which in (False, True))
    has_true, has_decoded = (any(run.by_kind for run in part) for part in (true, decoded))
    parts = [("", true)] if has_true or not has_decoded else []
    return [*parts, (f"targets decoded, floor {_floors(decoded)}", decoded)] if has_decoded else parts


def decoded_notes(runs: Sequence[RunScores]) -> list[str]:
    """Write one sentence about the held-out rows whose targets are stored in codes; none if all are true tokens."""
    floors = _floors_by_dataset(runs)
    if not floors:
        return []
    true = any(not is_decoded(s.group) for run in runs for s in run.by_kind)
    listed = "; ".join(
        f"{teacher} on {dataset.removesuffix(DECODED)}, floor {floor:.3f}"
        for (dataset, teacher), floor in sorted(floors.items())
    )
    return [
        f"Targets decoded: {listed}. The floor is the mean of 1 \N{MINUS SIGN} cosine between decoded and true tokens, "
        "which no student can undercut. These scores do not compare with those on true tokens."
        + ("" if true else f" {NO_TRUE_TOKENS}")
    ]


def _those(run: RunScores, *, decoded: bool) -> RunScores:
    def chosen(scores: Iterable[Score]) -> list[Score]:
        return [score for score in scores if is_decoded(score.group) == decoded]

    return replace(run, by_kind=chosen(run.by_kind), by_dataset=chosen(run.by_dataset))


def _floors_by_dataset(runs: Sequence[RunScores]) -> dict[tuple[str, str], float]:
    """Return the floor of the patches, 1 - cosine of true and decoded tokens, by dataset and teacher."""
    return {
        (s.group, s.teacher): 1 - s.of("cosine")[0]
        for run in runs
        for s in run.by_dataset
        if (s.predictor, s.token_type) == (CODE, PATCH)
    }


def _floors(runs: Sequence[RunScores]) -> str:
    """Write the floor of each teacher: one number, or the least and the largest of its datasets."""
    of_teacher: dict[str, set[str]] = {}
    for (_, teacher), floor in sorted(_floors_by_dataset(runs).items()):
        of_teacher.setdefault(teacher, set()).add(f"{floor:.3f}")
    return ", ".join(
        f"{' to '.join(sorted({min(floors), max(floors)}))} ({name})" for name, floors in of_teacher.items()
    )
