"""Whether a trailer agrees with itself, its array and its dataset's image list, as far as that needs no row."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from store import errors, manifest
from store.dataset import Dataset
from store.problems import some_rows
from store.schema import FAILED, OK, PIXELS
from store.trailer import Trailer


def contradictions(dataset: Dataset, array: str, said: Trailer, *, paths: pa.Array | None) -> list[str]:
    """Return what a trailer, known to be whole and to belong here, gets wrong.

    Args:
        dataset: whose shard.
        array: `pixels` or a teacher.
        said: the trailer.
        paths: of the dataset's images; None if they are not known.
    """
    found = list(_states(said))
    if array == PIXELS:
        found += [] if said.pixels_digest is None and said.moments is None else ["pixels with moments or a digest"]
        found += _manifest(dataset, said, paths=paths)
    else:
        found += _token_parts(dataset, array, said)
    return found


def _states(said: Trailer) -> Iterator[str]:
    strange = np.flatnonzero((said.status != OK) & (said.status != FAILED)) + said.rows.start
    if len(strange):
        yield f"{some_rows(strange.tolist())}: state is neither ok ({OK}) nor failed ({FAILED})"
    failed = set((np.flatnonzero(said.status == FAILED) + said.rows.start).tolist())
    if failed != set(said.errors):
        yield f"{some_rows(sorted(failed ^ set(said.errors)))}: failed without a reason, or a reason without failure"


def _token_parts(dataset: Dataset, array: str, said: Trailer) -> Iterator[str]:
    if said.pixels_digest is None or said.moments is None or said.manifest_bytes is not None:
        yield "tokens must name the digest of their pixels and carry moments, and no manifest"
        return
    teacher = dataset.teacher(array)
    ok = int((said.status == OK).sum())
    patches = teacher.patch_grid[0] * teacher.patch_grid[1]
    prefix, patch = said.moments
    for name, moments, tokens in (("prefix", prefix, teacher.prefix_tokens), ("patch", patch, patches)):
        count = 0.0 if moments is None else float(moments.count.max(initial=0.0))
        if moments is not None and moments.mean.shape != (teacher.channels,):
            yield f"{name} moments of {len(moments.mean)} channels, expected {teacher.channels}"
        elif count != ok * tokens:
            yield f"{name} moments of {count:.0f} tokens, expected {ok} rows of {tokens}"


def _manifest(dataset: Dataset, said: Trailer, *, paths: pa.Array | None) -> list[str]:
    try:
        if said.manifest_bytes is None:
            return ["pixels without manifest rows"]
        table = manifest.parse_parquet(said.manifest_bytes)
        table = manifest.check_rows(table, rows=said.rows, dataset=dataset.name, status=said.status)
    except (errors.InvalidInput, OSError, pa.ArrowInvalid) as error:
        return [f"manifest rows: {error}"]
    rows = np.arange(said.rows.start, said.rows.stop)
    images = rows // dataset.views
    expected = {
        "image_index": pa.array(images),
        "view": pa.array(dataset.first_view + rows % dataset.views, pa.int32()),
        "error": pa.array([said.errors.get(row) for row in rows.tolist()], pa.string()),
    }
    if paths is not None:
        expected["path"] = paths.take(pa.array(images))
    found = []
    for name, wanted in expected.items():
        column = table[name].combine_chunks()
        if not column.equals(wanted):
            differing = [
                row for row, a, b in zip(rows.tolist(), column.to_pylist(), wanted.to_pylist(), strict=True) if a != b
            ]
            found.append(f"manifest, {some_rows(differing)}: column '{name}' is not that of the dataset")
    return found
