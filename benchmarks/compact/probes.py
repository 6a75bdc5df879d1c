"""Probes of students: k-NN on CIFAR-10-like data and linear segmentation of CamVid-like data, by `codistill eval`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compact.settings import Record, Results, Settings
from benchmarks.compact.students import Student, Students
from codistill import __main__ as codistill
from eval.probes import probe_results
from store.errors import CodistillError, MissingFile

FIGURES = {"knn": "top1_k20", "segmentation": "miou"}
ITERATIONS = 2000


def probe(student: Student, kind: str, *, settings: Settings, results: Results, students: Students) -> Record:
    """Return the result of one probe of a student, computed if it was not yet."""
    assert settings.probes is not None
    run, data = students.run_of(student), settings.probes / {"knn": "cifar10", "segmentation": "camvid"}[kind]
    if not data.is_dir():
        raise MissingFile(f"'{data}' is not there. --probes needs folders cifar10 and camvid")
    options = _options(kind, student.size, iterations=ITERATIONS if settings.depth is None else 2)

    def compute() -> dict[str, Any]:
        arguments = ["eval", kind, str(run), "--data", str(data), "--features", str(settings.work / "features")]
        if codistill.main([*arguments, *options]):
            raise CodistillError(f"codistill eval {kind} {run} failed")
        return {"probe": kind, "arm": student.arm, "seed": student.seed, "figures": _figures(run, kind)}

    return results.once(f"probe/{kind}/{student.name}", "probe", compute)


def _options(kind: str, size: int, *, iterations: int) -> Sequence[str]:
    if kind == "knn":
        return ["--centre.resize", str(size), "--centre.crop", str(size)]
    crops = {"short-side": 2 * size, "long-cap": 4 * size, "crop": size, "stride": size // 2}
    sizes = [text for name, value in crops.items() for text in (f"--crops.{name}", str(value))]
    return ["--layout", "camvid", "--iterations", str(iterations), "--views", "4", *sizes]


def _figures(run: Path, kind: str) -> dict[str, float]:
    found = [result for result in probe_results.all_results(run) if result.kind == kind]
    return {name: value for name, value in found[-1].figures.items() if isinstance(value, int | float)}
