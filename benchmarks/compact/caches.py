"""The caches of a size: float16, codes of it, the control, and what each encoding does to the training tokens."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import store
from benchmarks.compact.photographs import write_catalogue
from benchmarks.compact.rebuild import Row, append_decoded, rebuild
from benchmarks.compact.settings import (
    CODED_TEACHER,
    CONTROL,
    FIXED_SIGNS,
    FLOAT16,
    ONE_CODED,
    Record,
    Results,
    Settings,
)
from benchmarks.compact.water_filling import WaterFilling, fit
from codistill import __main__ as codistill
from store import Cache, Dataset
from store.cache.writer import ShardWriter
from store.errors import CodistillError, MissingCache
from store.format import distortion
from store.format.calibration_sample import CalibrationSample, TokenMoments
from store.format.code import Code
from store.format.distortion import Distortion

CONTROL_RATIO = "16x"  # the control has the bytes of this encoding
SAMPLED_ROWS = 512  # of each dataset, that the control is fitted to


class Caches:
    """Makes caches when they are first asked for, and keeps them."""

    def __init__(self, settings: Settings, results: Results) -> None:
        self._settings, self._results = settings, results

    def get(self, size: int, encoding: str) -> Path:
        """Return the folder of a cache, made if it is not there yet."""
        path = self._path(size, encoding)
        self.described(size, encoding)
        return path

    def described(self, size: int, encoding: str) -> Record:
        """Return the result that describes a cache: bytes of a row, U, slope and cosine of each teacher."""
        name = f"cache/{size}/{encoding}"
        if self._results.get(name) is not None and not self._path(size, encoding).exists():
            raise MissingCache(
                f"'{self._path(size, encoding)}' is gone, and results of it are there. Use another --work"
            )
        return self._results.once(name, "cache", lambda: self._make(size, encoding))

    def _path(self, size: int, encoding: str) -> Path:
        return self._settings.work / "caches" / str(size) / encoding

    def _make(self, size: int, encoding: str) -> dict[str, Any]:
        begun = time.perf_counter()
        path = self._path(size, encoding)
        path.parent.mkdir(parents=True, exist_ok=True)
        teachers = None
        if encoding == FLOAT16:
            _run(["extract", "run", str(write_catalogue(self._settings, size)), "--cache", str(path)])
        elif encoding == CONTROL:
            shutil.rmtree(path, ignore_errors=True)  # of an interruption after it was made
            teachers = self._make_control(self.get(size, FLOAT16), self.get(size, CONTROL_RATIO), path)
        elif encoding == FIXED_SIGNS:
            shutil.rmtree(path, ignore_errors=True)
            make_fixed_signs(self.get(size, FLOAT16), self.get(size, CONTROL_RATIO), path)
        else:
            options = ["--ratio", encoding.partition("x")[0]]
            if encoding == ONE_CODED:
                options += ["--teachers", CODED_TEACHER]
            _run(["store", "compact", str(self.get(size, FLOAT16)), "--out", str(path), *options])
        measured = teachers or describe(store.open(path))
        return {
            "size": size,
            "encoding": encoding,
            "seconds": time.perf_counter() - begun,
            "row_bytes": sum(teacher["row_bytes"] for teacher in measured.values()),
            "teachers": measured,
        }

    def _make_control(self, source: Path, equal: Path, target: Path) -> dict[str, Record]:
        """Write the control; return what it does to the tokens of each teacher."""
        coded = training(store.open(equal))[0]
        originals = training(store.open(source))
        control: dict[str, WaterFilling] = {}
        measured: dict[str, Distortion] = {}
        for teacher in originals[0].teachers:
            code = coded.code(teacher)
            control[teacher] = fit(
                [moments_of(dataset, teacher) for dataset in originals], token_bytes=code.spec.record_bytes
            )
            measured[teacher] = distortion.empty(code.channels)

        def append(writer: ShardWriter, teacher: str, row: Row) -> None:
            true, decoded = control[teacher].decoded(row)
            sums, cosine, floor = distortion.measure(true, decoded)
            part = distortion.empty(row.shape[1])
            part.sums[1], part.cosine[1], part.floor[1] = sums, cosine, floor
            measured[teacher] = distortion.merge([measured[teacher], part])
            append_decoded(writer, row, control[teacher].as_tokens(decoded))

        rebuild(source, target, append, code=lambda teacher: None)
        row_bytes = {teacher: coded.code(teacher).row_bytes for teacher in control}
        return {teacher: _figures(measured[teacher], row_bytes=row_bytes[teacher]) for teacher in control}


def make_fixed_signs(source: Path, equal: Path, target: Path) -> None:
    """Write a cache in the code of another one, but with one sign vector for all rows."""
    coded = training(store.open(equal))[0]

    def code(teacher: str) -> Code:
        hashed = coded.code(teacher)
        return replace(hashed, signs=np.repeat(hashed.signs[:1], len(hashed.signs), axis=0)).with_digest()

    rebuild(source, target, lambda writer, teacher, row: writer.append(row), code=code)


def training(cache: Cache) -> list[Dataset]:
    """Return the training datasets of a cache."""
    return [dataset for dataset in cache if dataset.split == "train"]


def moments_of(dataset: Dataset, teacher: str) -> TokenMoments:
    """Return the moments of some rows of a dataset, at equal distances."""
    info = dataset.teacher(teacher)
    rows = dataset.valid_rows([teacher])
    rows = rows[:: max(1, len(rows) // SAMPLED_ROWS)]
    sample = CalibrationSample(
        tokens=dataset.read(rows, [teacher])[teacher],
        rows=rows,
        prefix_tokens=info.prefix_tokens,
        patch_grid=info.patch_grid,
    )
    return TokenMoments.of(sample, 1, products=True)


def describe(cache: Cache) -> dict[str, Record]:
    """Return what a cache does to the training tokens of each teacher, as `codistill store info` shows it."""
    datasets = training(cache)
    result = {}
    for name in datasets[0].teachers:
        info = datasets[0].teacher(name)
        if info.code is None:
            tokens = info.prefix_tokens + info.patches
            result[name] = _figures(None, row_bytes=tokens * info.channels * np.dtype(np.float16).itemsize)
        else:
            merged = distortion.merge([dataset.distortion(name) for dataset in datasets])
            result[name] = _figures(merged, row_bytes=info.code.row_bytes(info.prefix_tokens, info.patches))
    return result


def _figures(measured: Distortion | None, *, row_bytes: int) -> Record:
    if measured is None:
        return {"row_bytes": row_bytes, "noise": 0.0, "slope": 1.0, "worst_slope": 1.0, "cosine": 1.0}
    return {
        "row_bytes": row_bytes,
        "noise": measured.noise("patch"),
        "slope": measured.slope("patch"),
        "worst_slope": measured.worst_slope("patch"),
        "cosine": measured.cosine_mean("patch"),
    }


def _run(arguments: list[str]) -> None:
    """Run a command of codistill in this process.

    Raises:
        CodistillError: it failed; it has said why.
    """
    if codistill.main(arguments):
        raise CodistillError(f"codistill {' '.join(arguments)} failed")
