"""Stages of a job that make shards: one shard of views, one shard of features.

One call makes one shard: the unit of work, of publication, of retry and of distribution. Nothing in here depends on
other shards, progress displays or clusters.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from extract.job.failure_limit import UNWATCHED, Watch
from extract.teachers.batching import Batching, Row
from extract.teachers.encoding import TokenEncoder
from extract.teachers.runner import TeacherRunner
from extract.views.maker import ViewMaker, manifest_table
from store import Dataset
from store.common.threads import ordered_map
from store.format.manifest import PixelsRow
from store.format.schema import OK, PIXELS


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """Figures of one finished shard.

    Attributes:
        dataset: name of the dataset.
        array: `pixels` or a teacher's name.
        shard: number of the shard.
        rows: number of its rows.
        failed: rows that failed in this array; rows without pixels are not counted again for each teacher.
        stored_bytes: bytes of the rows stored.
        seconds: time from start to publication.
        published: False where another writer published the shard first.
        reasons: number of failed rows by kind of reason.
        noted: rows that were made although something is wrong with their image, by what is wrong.
    """

    dataset: str
    array: str
    shard: int
    rows: int
    failed: int
    stored_bytes: int
    seconds: float
    published: bool
    reasons: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, Sequence[int]] = field(default_factory=dict)


def views_shard(
    dataset: Dataset,
    shard: int,
    *,
    maker: ViewMaker,
    provenance: Mapping[str, Any],
    pool: ThreadPoolExecutor,
    ahead: int,
    watch: Watch = UNWATCHED,
) -> ShardReport:
    """Make one shard of pixels, with its manifest. An image that cannot be read gives failed rows, never an error.

    Args:
        dataset: dataset in the cache.
        shard: number of the shard.
        maker: view maker of this dataset.
        provenance: entries stored in the shard.
        pool: threads that decode and render.
        ahead: number of images decoded before their rows are written.
        watch: receives progress; may stop the shard.

    Raises:
        errors.MissingFile: the whole source has gone.
        OSError: the machine, not an image, is at fault.
    """
    started = time.perf_counter()
    rows = dataset.shard_rows_of(shard)
    images = range(rows.start // dataset.views, (rows.stop - 1) // dataset.views + 1)
    manifest_rows: list[PixelsRow] = []
    noted: defaultdict[str, list[int]] = defaultdict(list)
    with dataset.write_shard(PIXELS, shard, provenance=provenance) as writer:
        for views in ordered_map(pool, lambda image: maker.make(image, rows), images, ahead=ahead):
            for view in views:
                if view.pixels is None:
                    writer.fail(str(view.error))
                else:
                    writer.append(view.pixels)
                manifest_rows.append(PixelsRow(pixels=None, error=view.error, record=view.record))
                for note in view.notes:
                    noted[note].append(view.record["row"])
            watch.advance(rows=len(views), failed=sum(view.error is not None for view in views))
        reasons = [view.error for view in manifest_rows if view.error is not None]
        watch.check_failure_limit(rows=len(rows), reasons=reasons)
        published = writer.finish(manifest=manifest_table(manifest_rows))
    report = _report(dataset, PIXELS, shard, reasons=reasons, absent=len(reasons), started=started, published=published)
    report = replace(report, stored_bytes=writer.rows_bytes)
    return replace(report, noted=dict(noted))


def features_shard(
    dataset: Dataset,
    shard: int,
    *,
    runner: TeacherRunner,
    batching: Batching,
    encoder: TokenEncoder | None = None,
    pool: ThreadPoolExecutor | None = None,
    ahead: int = 1,
    watch: Watch = UNWATCHED,
) -> ShardReport:
    """Make one shard of a teacher's tokens from the stored pixels; only rows whose tokens cannot be stored fail.

    Args:
        dataset: dataset with this shard of pixels, in which the teacher's array was created.
        shard: number of the shard.
        runner: teacher on its device.
        batching: how its rows become batches; recorded.
        encoder: encoder of the array's code; None if the array holds float16 tokens.
        pool: threads that compute batches side by side; None computes one at a time in this thread.
        ahead: number of batches computed before their rows are written.
        watch: receives progress; may stop the shard.

    Raises:
        errors.MissingShard: the pixels were not made yet.
        errors.Damaged: the pixels are not what was written.
    """
    started = time.perf_counter()
    rows = dataset.shard_rows_of(shard)
    pixels = dataset.read_shard(PIXELS, shard)
    usable, windows = pixels.status == OK, batching.windows(len(rows))
    reasons: list[str] = []
    provenance = {**runner.provenance, **batching.as_provenance()}

    run = runner.for_shard(encoder, dataset.first_row + rows.start)

    def compute(window: range) -> list[Row | str | None]:
        return batching.compute(run, pixels.data, usable, window)

    with dataset.write_shard(runner.name, shard, provenance=provenance, pixels_digest=pixels.digest) as writer:
        computed = map(compute, windows) if pool is None else ordered_map(pool, compute, windows, ahead=ahead)
        for window, results in zip(windows, computed, strict=True):
            failed_before = len(reasons)
            for position, tokens in zip(window, results, strict=True):
                if tokens is None:
                    writer.fail(f"no pixels: {pixels.trailer.errors[rows[position]]}")
                elif isinstance(tokens, str):
                    writer.fail(tokens)
                    reasons.append(tokens)
                else:
                    writer.append(tokens)
            watch.advance(rows=len(window), failed=len(reasons) - failed_before)
        watch.check_failure_limit(rows=len(rows), reasons=reasons)
        published = writer.finish()
    absent = len(reasons) + int((pixels.status != OK).sum())
    return _report(dataset, runner.name, shard, reasons=reasons, absent=absent, started=started, published=published)


def _report(
    dataset: Dataset, array: str, shard: int, *, reasons: list[str], absent: int, started: float, published: bool
) -> ShardReport:
    rows = len(dataset.shard_rows_of(shard))
    node = dataset.array(array)
    return ShardReport(
        dataset=dataset.name,
        array=array,
        shard=shard,
        rows=rows,
        failed=len(reasons),
        stored_bytes=(rows - absent) * math.prod(node.row_shape) * node.dtype.itemsize,
        seconds=time.perf_counter() - started,
        published=published,
        reasons=Counter(reason.partition(":")[0] for reason in reasons),
    )
