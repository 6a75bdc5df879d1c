"""The table of each part, from the results of its students and of the caches that they were trained on."""

from collections.abc import Callable, Sequence

from benchmarks.compact.probes import FIGURES
from benchmarks.compact.report import Table, between, by_arm, mean
from benchmarks.compact.settings import FLOAT16, Record, Results

KB = 1e3


def curve_table(title: str, students: Sequence[Record], results: Results) -> Table:
    """Return bytes, noise and slope of each encoding beside the losses of its students."""
    arms = by_arm(students)
    rows = []
    for records in arms.values():
        first = records[0]
        cache = results.get(f"cache/{first['size']}/{first['encoding']}")
        assert cache is not None
        reference = [
            r
            for r in students
            if r["encoding"] == FLOAT16 and (r["size"], r["steps"]) == (first["size"], first["steps"])
        ]
        rows.append(
            [
                f"{first['size']} px, {first['encoding']}",
                str(first["steps"]),
                f"{cache['row_bytes'] / KB:.1f}",
                _of_teachers(cache, "noise", ".3f"),
                _of_teachers(cache, "held_out_noise", ".3f"),
                _of_teachers(cache, "slope", ".3f"),
                _of_teachers(cache, "cosine", ".3f"),
                f"{mean(records, _loss):.4f}",
                f"{mean(records, _cosine):.4f}",
                *(["", ""] if first["encoding"] == FLOAT16 else _differences(records, reference)),
            ]
        )
    header = [
        "",
        "steps",
        "kB a row",
        "U",
        "U, held out",
        "slope",
        "cosine of targets",
        "loss",
        "cosine",
        "loss - fp16",
        "cosine - fp16",
    ]
    return Table(title=title, header=header, rows=rows)


def few_table(title: str, students: Sequence[Record]) -> Table:
    """Return the cosines of students of few photographs on their way, against float16 with one view."""
    reference = [record for record in students if record["encoding"] == FLOAT16]
    steps = [point["step"] for point in reference[0]["on_the_way"]]
    rows = []
    for records in by_arm(students).values():
        first = records[0]
        cosines = [mean(records, _cosine_at(place)) for place in range(len(steps))]
        apart = [between(records, reference, _cosine_at(place)).text() for place in range(len(steps))]
        label = f"{first['encoding']}, {first['views']} view{'s' if first['views'] > 1 else ''}"
        cells = [f"{cosine:.4f}" for cosine in cosines] if first["encoding"] == FLOAT16 else apart
        rows.append([label, *cells])
    header = ["cosine, and its difference to fp16", *(f"step {step}" for step in steps)]
    return Table(title=title, header=header, rows=rows)


def dropping_table(title: str, students: Sequence[Record]) -> Table:
    """Return the share of images that kept each teacher, and the cosine against float16 with dropping."""
    reference = [record for record in students if record["encoding"] == FLOAT16]
    teachers = list(reference[0]["kept"])
    rows = []
    for records in by_arm(students).values():
        first = records[0]
        compares = "losses as they are" if first["uncorrected"] else "estimates on true targets"
        label = FLOAT16 if first["encoding"] == FLOAT16 else f"{first['encoding']}, {compares}"
        kept = " / ".join(f"{mean(records, _kept(teacher)):.3f}" for teacher in teachers)
        of_teachers = [between(records, reference, _cosine_of(teacher)).text() for teacher in teachers]
        cells = [f"{mean(records, _cosine):.4f}", *[""] * len(teachers)]
        if first["encoding"] != FLOAT16:
            cells = [between(records, reference, _cosine).text(), *of_teachers]
        rows.append([label, kept, *cells])
    header = ["", f"kept: {' / '.join(teachers)}", "cosine - fp16", *teachers]
    return Table(title=title, header=header, rows=rows)


def probes_table(title: str, probes: Sequence[Record]) -> Table:
    """Return the figures of the probes, and their differences to students of float16."""
    rows = []
    for arm, records in by_arm(probes).items():
        cells = []
        for kind, figure in FIGURES.items():
            of_kind = [record for record in records if record["probe"] == kind]
            fp16 = [r for r in probes if r["probe"] == kind and r["arm"].split("/")[1] == FLOAT16]
            cells += [f"{mean(of_kind, _figure(figure)):.2f}", between(of_kind, fp16, _figure(figure)).text(2)]
        rows.append([arm.split("/")[1], *cells])
    header = ["", *(text for kind in FIGURES for text in (f"{kind}, %", f"{kind} - fp16"))]
    return Table(title=title, header=header, rows=rows)


def _differences(records: Sequence[Record], reference: Sequence[Record]) -> list[str]:
    return [between(records, reference, _loss).text(), between(records, reference, _cosine).text()]


def _of_teachers(cache: Record, figure: str, form: str) -> str:
    values = sorted(teacher[figure] for teacher in cache["teachers"].values())
    low, high = (format(value, form) for value in (values[0], values[-1]))
    return low if low == high else f"{low}-{high}"


def _loss(record: Record) -> float:
    return float(record["loss"])


def _cosine(record: Record) -> float:
    return float(record["cosine"])


def _cosine_at(place: int) -> Callable[[Record], float]:
    return lambda record: float(record["on_the_way"][place]["cosine"])


def _cosine_of(teacher: str) -> Callable[[Record], float]:
    return lambda record: float(record["cosine_of_teachers"][teacher])


def _kept(teacher: str) -> Callable[[Record], float]:
    return lambda record: float(record["kept"][teacher])


def _figure(name: str) -> Callable[[Record], float]:
    return lambda record: float(record["figures"][name])
