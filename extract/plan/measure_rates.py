"""Measure this machine for some seconds: rows per second of views of a few images, and of each teacher."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from backbones.device import torch_threads
from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry
from extract.sources import open_source
from extract.teachers.loading import load_teacher
from extract.teachers.runner import CPU_BATCH, GPU_BATCH, TeacherRunner
from extract.views.maker import ViewMaker
from store import errors
from store.format.schema import PIXELS

SECONDS = 3.0
SAMPLED_IMAGES = 64


def measure_rates(catalogue: Catalogue, *, device: str, threads: int, say: Callable[[str], None]) -> dict[str, float]:
    """Measure rows per second of pixels, where images are here, and of every teacher whose weights are here.

    Args:
        catalogue: catalogue of the extraction.
        device: device of the teachers.
        threads: number of threads that decode, and on a CPU run teachers.
        say: function that shows a sentence about each measurement.
    """
    rates = {}
    for entry in catalogue.dataset:
        if not entry.root.is_dir():
            continue
        say(f"measuring views of '{entry.name}' with {threads} threads")
        try:
            rates[PIXELS] = measure_views(catalogue, entry, threads=threads)
            break
        except (errors.CodistillError, OSError) as error:
            say(f"not measured: {error}")
    for teacher in catalogue.teacher:
        if teacher.random_seed is not None or teacher.weights.is_file():
            say(f"measuring teacher '{teacher.name}' on {device}")
            rates[teacher.name] = measure_teacher(catalogue, teacher, device=device, threads=threads)
    return rates


def measure_views(catalogue: Catalogue, entry: DatasetEntry, *, threads: int) -> float:
    """Return rows per second of making views of some of a dataset's images, without storing them."""
    source = open_source(entry)
    listing = source.enumerate()
    chosen = np.unique(np.linspace(0, len(listing) - 1, SAMPLED_IMAGES).astype(int))
    images = listing.table.take(pa.array(chosen))
    maker = ViewMaker(entry=entry, recipe=catalogue.recipe, images=images, source=source)
    numbers = range(len(chosen))
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        return _rate(lambda: sum(pool.map(lambda image: _views(maker, image), numbers)))


def measure_teacher(catalogue: Catalogue, entry: TeacherEntry, *, device: str, threads: int) -> float:
    """Return rows per second of a teacher, its output rounded and copied to the host, without storing it."""
    teacher = load_teacher(entry, device=device)
    runner = TeacherRunner(entry.name, teacher, provenance={})
    size, cuda = catalogue.recipe.image_size, teacher.device.type == "cuda"
    batch_size = min(catalogue.recipe.shard_rows, GPU_BATCH if cuda else CPU_BATCH)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    batches = [pixels] * (1 if cuda else threads)
    with torch_threads(1), ThreadPoolExecutor(len(batches)) as pool:
        runner.tokens(pixels[:1])
        return _rate(lambda: sum(len(tokens) for tokens in pool.map(runner.tokens, batches)))


def _views(maker: ViewMaker, image: int) -> int:
    views = maker.entry.views
    return len(maker.make(image, range(image * views, (image + 1) * views)))


def _rate(work: Callable[[], int]) -> float:
    """Repeat `work`, which returns the number of rows it made, for SECONDS or at least once; return rows per second."""
    done, started = 0, time.perf_counter()
    while True:
        done += work()
        seconds = time.perf_counter() - started
        if seconds >= SECONDS:
            return done / seconds
