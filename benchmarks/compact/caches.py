"""The caches of a size: float16, codes of it, the control, and what each encoding does to the training tokens."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
from store.format.code_encode import Encoder
from store.format.distortion import Distortion

CONTROL_RATIO = "16x"  # the control has the bytes of this encoding
SAMPLED_ROWS = 512  # of each dataset, that the control is fitted to
HELD_OUT_ROWS = 64  # of each dataset, that the codes are measured on

Rows = npt.NDArray[np.int64]


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
            decoded, part = _of_control(control[teacher], row)
            measured[teacher] = distortion.merge([measured[teacher], part])
            append_decoded(writer, row, decoded)

        rebuild(source, target, append, code=lambda teacher: None)
        result = {}
        for teacher, quantiser in control.items():
            rows = (row for _, tokens in held_out(store.open(source), teacher) for row in tokens)
            apart = distortion.merge([_of_control(quantiser, row)[1] for row in rows])
            result[teacher] = _figures(measured[teacher], apart, row_bytes=coded.code(teacher).row_bytes)
        return result


def _of_control(quantiser: WaterFilling, row: Row) -> tuple[Row, Distortion]:
    """Return the decoded tokens of a row, and what was done to them."""
    true, decoded = quantiser.decoded(row)
    part = distortion.empty(row.shape[1])
    part.sums[1], part.cosine[1], part.floor[1] = distortion.measure(true, decoded)
    return quantiser.as_tokens(decoded), part


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


def held_out(cache: Cache, teacher: str) -> Iterator[tuple[Rows, npt.NDArray[np.float16]]]:
    """Yield numbers and true tokens of some rows of each held-out dataset, at equal distances."""
    for dataset in cache:
        if dataset.split == "val":
            rows = dataset.valid_rows([teacher])
            rows = rows[:: max(1, len(rows) // HELD_OUT_ROWS)]
            yield rows, dataset.read(rows, [teacher])[teacher]


def describe(cache: Cache) -> dict[str, Record]:
    """Return what a cache does to the training tokens of each teacher, and its codes would to the held-out ones."""
    datasets = training(cache)
    result = {}
    for name in datasets[0].teachers:
        info = datasets[0].teacher(name)
        if info.code is None:
            tokens = info.prefix_tokens + info.patches
            result[name] = _figures(None, None, row_bytes=tokens * info.channels * np.dtype(np.float16).itemsize)
            continue
        encoder = Encoder(datasets[0].code(name))
        parts = [part for rows, tokens in held_out(cache, name) for part in encoder.encode(tokens, rows)[1]]
        merged = distortion.merge([dataset.distortion(name) for dataset in datasets])
        result[name] = _figures(merged, distortion.merge(parts), row_bytes=encoder.code.row_bytes)
    return result


def _figures(measured: Distortion | None, apart: Distortion | None, *, row_bytes: int) -> Record:
    """Return U, slope and cosine of training tokens, and the first two of held-out ones; None stands for float16."""
    result: Record = {"row_bytes": row_bytes}
    for prefix, part in (("", measured), ("held_out_", apart)):
        result |= {
            f"{prefix}noise": 0.0 if part is None else part.noise("patch"),
            f"{prefix}slope": 1.0 if part is None else part.slope("patch"),
            f"{prefix}worst_slope": 1.0 if part is None else part.worst_slope("patch"),
            f"{prefix}cosine": 1.0 if part is None else part.cosine_mean("patch"),
        }
    return result


def _run(arguments: list[str]) -> None:
    """Run a command of codistill in this process.

    Raises:
        CodistillError: it failed; it has said why.
    """
    if codistill.main(arguments):
        raise CodistillError(f"codistill {' '.join(arguments)} failed")
