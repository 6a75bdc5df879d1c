"""Pixels as JPEG: bytes a row, and rows a second that one thread encodes, decodes and reads out of a cache.

    python -m demo.collect demo
    python -m benchmarks.store.jpeg_pixels --images demo/images

Views are made of every photograph below `images` by the default recipe, as extraction makes them, and stored raw and as
JPEG. Rates are rows over the processor time of the thread, so that other work on the machine counts little.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tyro

import store
from benchmarks.machine import describe
from extract.catalogue import DatasetEntry, ViewRecipe
from extract.sources import open_source
from extract.views.maker import ViewMaker, ViewRow, manifest_table
from store.format import jpeg
from store.format.jpeg import EncodedPixels
from store.format.schema import PIXELS

AIMS = {"ratio": 4.5, "decoded_rows_per_s": 800}


def main(
    images: Path,
    views: int = 4,
    image_size: int = 336,
    seconds: float = 3.0,
    out: Path = Path("benchmarks/results/jpeg_pixels.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        images: folder of photographs.
        views: views of each photograph.
        image_size: side of the views, px.
        seconds: processor time of each measurement.
        out: JSON file to write.
    """
    rows = {form: make_views(images, views, ViewRecipe(image_size=image_size, pixels=form)) for form in ("raw", "jpeg")}
    raw = [row.pixels for row in rows["raw"] if isinstance(row.pixels, np.ndarray)]
    files = [row.pixels.data for row in rows["jpeg"] if isinstance(row.pixels, EncodedPixels)]
    buffer = np.empty_like(raw[0])
    sizes = np.array([len(data) for data in files])
    errors = [_squared_error(data, pixels, buffer) for data, pixels in zip(files, raw, strict=True)]
    report = {
        "benchmark": "jpeg pixels",
        "machine": describe(("simplejpeg", "pillow", "numpy")),
        "rows": len(files),
        "image_size_px": image_size,
        "bytes_per_row": {"mean": float(sizes.mean()), "least": int(sizes.min()), "most": int(sizes.max())},
        "ratio": raw[0].nbytes / float(sizes.mean()),
        "psnr_db": float(10 * np.log10(255**2 / np.mean(errors))),
        "encoded_rows_per_s": rate(lambda i: jpeg.encoded(raw[i % len(raw)]), seconds),
        "decoded_rows_per_s": rate(lambda i: jpeg.decode(files[i % len(files)], buffer), seconds),
        "read_rows_per_s": {form: read_rate(rows[form], image_size, form, seconds) for form in rows},
        "aims": AIMS,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{report['rows']} views of {image_size} px: {sizes.mean():,.0f} bytes a row, 1/{report['ratio']:.2f} of raw, "
        f"PSNR {report['psnr_db']:.1f} dB; a thread encodes {report['encoded_rows_per_s']:,.0f} and decodes "
        f"{report['decoded_rows_per_s']:,.0f} rows/s; all threads read {report['read_rows_per_s']} rows/s"
    )
    return report


def make_views(images: Path, views: int, recipe: ViewRecipe) -> list[ViewRow]:
    """Return the views of all photographs below a folder."""
    entry = DatasetEntry(name="photographs", group="any", root=images.absolute(), views=views)
    source = open_source(entry)
    listing = source.enumerate().table
    table = listing.add_column(0, "image_index", pa.array(range(len(listing)), pa.int64()))
    maker = ViewMaker(entry=entry, recipe=recipe, images=table, source=source)
    made = [row for image in range(len(table)) for row in maker.make(image, range(len(table) * views))]
    return [row for row in made if row.pixels is not None]


def rate(work: Callable[[int], object], seconds: float) -> float:
    """Return calls of `work` per second of this thread's processor time."""
    started, calls = time.thread_time(), 0
    while time.thread_time() - started < seconds:
        work(calls)
        calls += 1
    return calls / (time.thread_time() - started)


def read_rate(rows: list[ViewRow], image_size: int, form: str, seconds: float) -> float:
    """Return the rows per second that a dataset reads in random order, verified; all threads, wall time."""
    folder = Path(tempfile.mkdtemp(prefix="codistill-jpeg-"))
    try:
        dataset = write_cache(folder / "cache", rows, image_size, form)
        numbers = np.random.default_rng(1).integers(0, dataset.rows, (1000, 64))
        out = {PIXELS: np.empty((64, image_size, image_size, 3), np.uint8)}
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            dataset.read(numbers[done % 1000], [PIXELS], out=out)
            done += 1
        return round(64 * done / (time.perf_counter() - started), 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_cache(folder: Path, rows: list[ViewRow], image_size: int, form: str) -> store.Dataset:
    """Write rows as the pixels of a new cache."""
    cache = store.create(folder, {"image_size": image_size, "shard_rows": 256, "pixels": form})
    numbers = list(range(len(rows)))
    images = pa.table({"image_index": numbers, "path": [f"{i}.png" for i in numbers], "bytes": numbers})
    dataset = cache.create_dataset("photographs", images=images, group="any", split="train", mode="center", views=1)
    for shard in range(dataset.shards):
        with dataset.write_shard(PIXELS, shard, provenance={}) as writer:
            part = [rows[i] for i in dataset.shard_rows_of(shard)]
            for row in part:
                assert row.pixels is not None
                writer.append(row.pixels)
            keys = [{"row": i, "image_index": i, "path": f"{i}.png", "view": 0} for i in dataset.shard_rows_of(shard)]
            table = [
                ViewRow(pixels=None, error=None, record=dict(row.record) | key)
                for row, key in zip(part, keys, strict=True)
            ]
            writer.finish(manifest_table(table))
    return dataset


def _squared_error(data: bytes, pixels: np.ndarray, buffer: np.ndarray) -> float:
    jpeg.decode(data, buffer)
    return float(np.square(buffer.astype(np.float32) - pixels).mean())


if __name__ == "__main__":
    tyro.cli(main)
