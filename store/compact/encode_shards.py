"""Shards of a teacher written in a code, from float16 tokens or from another code.

Statistics stay those of the true tokens. So does the distortion, as far as it can be known: of codes that are decoded
and encoded again only their own is measured, and both are put together as independent noises are.

Legend: N tokens, P prefix tokens, K stored patches, C channels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from store.cache.code_rows import CodeRows, Measured
from store.cache.dataset import Dataset
from store.compact.choose_code import Target
from store.compact.tokens_of_source import SourceShard, blocks, read_record
from store.format.code import Code
from store.format.distortion import BINS, KINDS, Distortion, cosine_bins
from store.format.schema import OK
from store.format.statistics import stacked

UInt8 = npt.NDArray[np.uint8]


def write_codes(
    source: Dataset, target: Dataset, teacher: str, shard: int, *, into: Target, provenance: Mapping[str, Any]
) -> bool:
    """Write one shard of codes; return whether another job wrote it first.

    Args:
        source: dataset of the cache that is converted.
        target: the same dataset in the new cache, with the teacher created.
        teacher: name of the teacher.
        shard: number of the shard.
        into: code of the new cache.
        provenance: what to add to that of the source.
    """
    record = read_record(source, teacher, shard)
    told = {**record.provenance, **provenance}
    if into.source_code is None or source.teacher(teacher).code is None:  # other datasets may have codes
        return _encode(source, target, teacher, shard, record=record, provenance=told)
    if into.copies_records:
        codes = _fewer_records(source, teacher, record, code=into.code)
        measured = _of_fewer(record, code=into.code)
    else:
        codes, again = _encoded_again(source, target, teacher, record)
        measured = _of_both(_of_fewer(record, code=into.code), again, old=into.source_code, new=into.code)
    with target.write_shard(
        teacher, shard, provenance=told, pixels_digest=record.pixels_digest, measured=measured
    ) as writer:
        for row, status in zip(record.rows, record.status.tolist(), strict=True):
            if status == OK:
                writer.append(codes[row])
            else:
                writer.fail(record.reason(row))
        return not writer.finish()


def _encode(
    source: Dataset, target: Dataset, teacher: str, shard: int, *, record: SourceShard, provenance: Mapping[str, Any]
) -> bool:
    with target.write_shard(teacher, shard, provenance=provenance, pixels_digest=record.pixels_digest) as writer:

        def fail_until(row: int) -> None:
            while writer.row < row:
                writer.fail(record.reason(writer.row))

        for rows, tokens in blocks(source, teacher, record.ok_rows):
            for row, values in zip(rows.tolist(), tokens, strict=True):
                fail_until(row)
                writer.append(values)
        fail_until(record.rows.stop)
        return not writer.finish()


def _fewer_records(source: Dataset, teacher: str, record: SourceShard, *, code: Code) -> dict[int, UInt8]:
    """Return the codes of rows without the records of the patches that are not stored any more."""
    result: dict[int, UInt8] = {}
    for rows, raw in blocks(source, teacher, record.ok_rows, raw=True):
        stored = code.stored_tokens(rows + source.first_row)
        assert stored is not None
        for row, codes, patches in zip(rows.tolist(), raw, stored, strict=True):
            records = codes[code.prefix_bytes :].reshape(code.patches, -1)[patches]
            result[row] = np.concatenate([codes[: code.prefix_bytes], records.reshape(-1)])
    return result


def _encoded_again(
    source: Dataset, target: Dataset, teacher: str, record: SourceShard
) -> tuple[dict[int, UInt8], Distortion]:
    """Return the codes of decoded rows, and what encoding did to what had been decoded."""
    rows = CodeRows(target.encoder(teacher), rows=len(record.rows))
    result: dict[int, UInt8] = {}
    for numbers, tokens in blocks(source, teacher, record.ok_rows):
        for row, values in zip(numbers.tolist(), tokens, strict=True):
            codes = rows.add(values, source.first_row + row)
            assert codes is not None, "decoded tokens are finite"
            result[row] = codes
    return result, rows.measured().distortion


def _of_fewer(record: SourceShard, *, code: Code) -> Measured:
    """Return the sums over a shard of which fewer patches are stored: their share of those over all, by chance."""
    assert record.moments is not None
    assert record.distortion is not None
    share = code.spec.stored_patches(code.patches) / code.patches
    scaled = record.distortion.cosine[1] * share
    counts = np.floor(scaled).astype(np.int64)
    left = round(record.distortion.floor[1, 0] * share) - int(counts.sum())
    counts[np.argsort(counts - scaled, kind="stable")[:left]] += 1
    whole = record.distortion
    sums, cosine, floor = whole.sums.copy(), whole.cosine.copy(), whole.floor.copy()
    sums[1], cosine[1], floor[1] = sums[1] * share, counts, floor[1] * share
    return Measured(moments=record.moments, distortion=Distortion(sums=sums, cosine=cosine, floor=floor))


def _of_both(before: Measured, again: Distortion, *, old: Code, new: Code) -> Measured:
    """Return the sums over tokens that were encoded twice, as if both noises were independent.

    `before` is what the first encoding did to the tokens that the second one stores.

    Products of true and decoded values shrink by the slope of the second encoding, cosines multiply, and of smooth-L1
    the squares below `h(x) = (1 + x)^2 - 1` add up, which is exact for small and for large errors.
    """
    first = _standardised_anew(before, old=old, new=new)
    slopes = np.divide(again.sums[:, 1], again.sums[:, 0], out=np.ones_like(old.mean), where=again.sums[:, 0] > 0)
    sums = np.stack([first.sums[:, 0], first.sums[:, 1] * slopes, again.sums[:, 2]], axis=1)
    floor, cosine = again.floor.copy(), again.cosine.copy()
    for kind in (0, 1):
        tokens = again.floor[kind, 0]
        if not tokens:
            continue
        (cosine_1, smooth_1), (cosine_2, smooth_2) = (
            (1 - part.floor[kind, 1] / tokens, part.floor[kind, 2] / tokens) for part in (first, again)
        )
        floor[kind, 1] = tokens * (1 - cosine_1 * cosine_2)
        floor[kind, 2] = tokens * (np.sqrt((1 + smooth_1) ** 2 + (1 + smooth_2) ** 2 - 1) - 1)
        cosine[kind] = _times(again.cosine[kind], cosine_1)
    return Measured(moments=before.moments, distortion=replace(again, sums=sums, cosine=cosine, floor=floor))


def _standardised_anew(before: Measured, *, old: Code, new: Code) -> Distortion:
    """Return a distortion as if tokens had been standardised as another code does; its histogram stays.

    With z' = size z + shift, sums of squares follow from the moments; decoded tokens have the mean of the true ones.
    The mean cosine changes as that of all tokens together.
    """
    count, mean = stacked(*before.moments)[:, :2].swapaxes(0, 1)
    first, new_std = before.distortion, new.std.astype(np.float64)
    size, shift = old.std / new_std, (old.mean.astype(np.float64) - new.mean) / new_std
    stored = np.minimum(first.floor[:, :1], count)  # tokens, the same in every channel
    true = stored * (mean - old.mean) / old.std  # sums of z
    added = size * shift * 2 * true + stored * shift**2
    sums = first.sums * (size**2)[:, None] + added[:, None]
    floor = first.floor.copy()
    for kind in KINDS:
        number = KINDS.index(kind)
        cosines = [_cosine_of_all(part[number]) for part in (first.sums, sums)]
        if cosines[0] > 0:
            floor[number, 1] = floor[number, 0] - (floor[number, 0] - floor[number, 1]) * cosines[1] / cosines[0]
    return replace(first, sums=sums, floor=floor)


def _cosine_of_all(sums: npt.NDArray[np.float64]) -> float:
    """Return the cosine of all true tokens and all decoded ones, from sums float64 [3, C]; 0 without variance."""
    true, product, decoded = sums.sum(axis=1)
    return float(product / np.sqrt(true * decoded)) if true > 0 and decoded > 0 else 0.0


def _times(histogram: npt.NDArray[np.int64], factor: float) -> npt.NDArray[np.int64]:
    """Return the histogram of cosines that are all multiplied by one factor."""
    centres = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    bins = cosine_bins(np.clip(centres * factor, -1, 1))
    return np.bincount(bins, histogram, BINS).astype(np.int64)
