"""The trainings of each part, as lists of students: what a part compares differs in one thing only."""

from collections.abc import Callable, Mapping

from benchmarks.compact.photographs import demo_files, groups
from benchmarks.compact.settings import ENCODINGS, FIXED_SIGNS, FLOAT16, ONE_CODED, Settings
from benchmarks.compact.students import Student

LONGER_SEEDS = 2
DROP = 0.5
DROPPING_SEEDS = 2
THIRDS = 3  # of a training on few photographs, each followed by a measurement
EQUAL_BYTES = ((FLOAT16, 1), ("8x", 1), ("16x", 2), ("32x", 4))  # codes of the same bytes a photograph
ONE_VIEW = ((FLOAT16, 1), ("8x", 1), ("16x", 1), ("32x", 1))
SIGNS = (FLOAT16, "16x", FIXED_SIGNS)


def curve(settings: Settings) -> list[Student]:
    """Return a student of each size, encoding and seed, all trained on all rows."""
    return [
        Student(size=size, encoding=encoding, steps=settings.steps, batch=settings.batch(size), seed=seed)
        for size in settings.sizes
        for seed in range(settings.seeds)
        for encoding in ENCODINGS
    ]


def longer(settings: Settings) -> list[Student]:
    """Return the students of the curve, trained three times as long: noise averages out, bias does not."""
    return [
        _whole(settings, encoding, settings.longer_steps, seed)
        for seed in range(min(LONGER_SEEDS, settings.seeds))
        for encoding in ENCODINGS
    ]


def views(settings: Settings) -> list[Student]:
    """Return students of few photographs with the same bytes of codes: few views with many bits, or many with few."""
    return _on_few(settings, EQUAL_BYTES)


def repetition(settings: Settings) -> list[Student]:
    """Return students of few rows that are seen again and again."""
    return _on_few(settings, ONE_VIEW)


def _on_few(settings: Settings, arms: tuple[tuple[str, int], ...]) -> list[Student]:
    group = largest_group(settings)
    return [
        Student(
            size=settings.size,
            encoding=encoding,
            steps=settings.few_steps,
            batch=settings.batch(settings.size),
            seed=seed,
            group=group,
            views=count,
            measurements=THIRDS,
        )
        for seed in range(settings.seeds)
        for encoding, count in arms
    ]


def dropping(settings: Settings) -> list[Student]:
    """Return students of one teacher in code and two in float16, with teacher dropping, corrected and as it would be.

    The reference has all three in float16.
    """
    return [
        Student(
            size=settings.size,
            encoding=encoding,
            steps=settings.steps,
            batch=settings.batch(settings.size),
            seed=seed,
            drop_probability=DROP,
            uncorrected=uncorrected,
        )
        for seed in range(min(DROPPING_SEEDS, settings.seeds))
        for encoding, uncorrected in ((FLOAT16, False), (ONE_CODED, False), (ONE_CODED, True))
    ]


def signs(settings: Settings) -> list[Student]:
    """Return students of codes whose signs depend on a hash of the row, and of codes with one sign vector."""
    lengths = {settings.steps: settings.seeds, settings.longer_steps: min(LONGER_SEEDS, settings.seeds)}
    return [
        _whole(settings, encoding, steps, seed)
        for steps, seeds in lengths.items()
        for seed in range(seeds)
        for encoding in SIGNS
    ]


def probed(settings: Settings) -> list[Student]:
    """Return the students that are probed: those trained longest."""
    return longer(settings)


def _whole(settings: Settings, encoding: str, steps: int, seed: int) -> Student:
    """Return a student of the first size that is trained on all rows."""
    batch = settings.batch(settings.size)
    return Student(size=settings.size, encoding=encoding, steps=steps, batch=batch, seed=seed)


def largest_group(settings: Settings) -> str:
    """Return the group of most training photographs."""
    by_group = groups(settings.images or demo_files(settings) / "images")
    return max(by_group, key=lambda name: len(by_group[name].train))


PARTS: Mapping[str, Callable[[Settings], list[Student]]] = {
    "curve": curve,
    "longer": longer,
    "views": views,
    "repetition": repetition,
    "dropping": dropping,
    "signs": signs,
    "probes": probed,
}
