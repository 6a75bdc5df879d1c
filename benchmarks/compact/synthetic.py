"""Codes for tokens of DUNE's shapes without any data: random bases and signs, but real books and sizes of groups."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.store.peers import RowNumbers
from benchmarks.store.peers_zarr import NO_PIXELS, CacheReader, CacheWriter, image_list
from benchmarks.store.rows import PIXELS, ArraySpec, Rows, specs
from store import create
from store import open as open_cache
from store.format import books, code_sizes, statistics
from store.format.calibration_sample import random_rotation
from store.format.code import Code, CodeSpec
from store.format.code_encode import EncodedRow, Encoder
from store.format.code_signs import SIGN_VECTORS
from store.format.moments import TokenMoments
from store.format.token_subset import CELL_PATCHES

FALL = 1.0  # variances of components fall as 1 / number ** FALL


def make_code(spec: ArraySpec, *, ratio: float, seed: int = 0) -> Code:
    """Return a code for tokens of a shape, of a teacher whose spectrum falls as 1/i."""
    tokens, channels = spec.shape
    prefix, grid = spec.prefix_tokens, spec.patch_grid
    kept = code_sizes.kept_patches(ratio, prefix_tokens=prefix, patch_grid=grid, channels=channels)
    assert kept == CELL_PATCHES, "all patches are stored"
    variances = 1 / np.arange(1, channels + 1) ** FALL
    record = code_sizes.record_bytes_for(ratio, tokens, prefix, channels)
    groups = {
        "prefix": code_sizes.prefix_groups(prefix, channels),
        "patch": code_sizes.group_sizes(variances * channels / variances.sum(), record),
    }
    rng = np.random.default_rng(seed)
    code_spec = CodeSpec(
        digest="",
        ratio=ratio,
        groups={"prefix": groups["prefix"], "patch": groups["patch"]},
        gains={"prefix": (1.0,) * len(groups["prefix"]), "patch": (1.0,) * len(groups["patch"])},
        subset=None,
        calibration={},
    )
    basis = random_rotation(channels, rng)
    return Code(
        spec=code_spec,
        mean=np.zeros((2, channels), np.float32),
        std=np.ones((2, channels), np.float32),
        rotation=np.stack([_blocks(groups[kind], channels, rng) for kind in ("prefix", "patch")]),
        signs=rng.choice(np.array([-1, 1], np.int8), (SIGN_VECTORS, channels)),
        decoder=np.stack([np.eye(channels), basis]).astype(np.float32),
        books={size: books.load()[size] for size in code_spec.book_sizes},
        prefix_tokens=prefix,
        patch_grid=grid,
    ).with_digest()


def tokens_like(spec: ArraySpec, code: Code, *, rows: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Return Gaussian tokens float16 [rows, N, C] with the spectrum that `make_code` assumes."""
    channels = spec.shape[1]
    deviations = np.sqrt(1 / np.arange(1, channels + 1) ** FALL)
    deviations *= np.sqrt(channels / (deviations**2).sum())
    components: npt.NDArray[np.float32] = np.random.default_rng(seed).standard_normal((rows, *spec.shape), np.float32)
    components *= deviations.astype(np.float32)
    return np.asarray(components @ code.decoder[1]).astype(np.float16)


def _blocks(groups: Sequence[tuple[int, int]], channels: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    result = np.eye(channels) if not groups else np.zeros((channels, channels))
    ends = np.cumsum([0, *(count for _, count in groups)])
    for first, last in pairwise(ends.tolist()):
        result[first:last, first:last] = random_rotation(last - first, rng)
    return result.astype(np.float32)


class CodesWriter(CacheWriter):
    """codistill, teachers' rows in codes: random bytes, as a device hands them over.

    Args:
        tokens: shapes of the teachers' tokens.
        ratio: ratio of the codes.
    """

    def __init__(self, tokens: dict[str, ArraySpec], *, ratio: float) -> None:
        self.codes = {name: make_code(spec, ratio=ratio) for name, spec in tokens.items()}
        self._tokens = tokens

    def rows(self, count: int, *, shard_rows: int) -> Rows:
        """Return the rows to write: uint8 [row bytes] of each teacher."""
        arrays = {
            name: ArraySpec(shape=(code.row_bytes,), dtype=np.dtype(np.uint8)) for name, code in self.codes.items()
        }
        return Rows(count=count, shard_rows=shard_rows, arrays=arrays)

    def prepare(self, folder: Path, rows: Rows) -> None:
        """See `Writer.prepare`."""
        cache = create(folder, {"image_size": 1, "shard_rows": rows.shard_rows})
        images = image_list(range(rows.count))
        dataset = cache.create_dataset("noise", images=images, group="all", split="train", mode="train", views=1)
        for name, code in self.codes.items():
            dataset.create_teacher(
                name,
                identity={"model": name},
                groups=["all"],
                patch_grid=code.patch_grid,
                prefix_tokens=code.prefix_tokens,
                channels=code.channels,
                code=code,
            )

    def write(self, folder: Path, rows: Rows) -> None:
        """See `Writer.write`."""
        dataset = open_cache(folder)["noise"]
        for name, code in self.codes.items():
            measured = _measured(code, tokens_like(self._tokens[name], code, rows=1))
            for shard, numbers in enumerate(rows.shards()):
                with dataset.write_shard(name, shard, provenance={}, pixels_digest=NO_PIXELS) as writer:
                    for row in numbers:
                        codes = rows.row(name, row)
                        writer.append(EncodedRow(codes=codes, moments=measured.moments, distortion=measured.distortion))
                    writer.finish()


def _measured(code: Code, tokens: npt.NDArray[np.float16]) -> EncodedRow:
    """Return what is recorded of one row of tokens [1, N, C]; it serves for all of them."""
    moments = TokenMoments(prefix_tokens=code.prefix_tokens, tokens=code.tokens, channels=code.channels, rows=1)
    moments.add(tokens[0])
    codes, parts = Encoder(code).encode(tokens, np.zeros(1, np.int64))
    return EncodedRow(codes=codes[0], moments=statistics.stacked(*moments.result()), distortion=parts[0])


class CodesReader(CacheReader):
    """codistill, codes as they are stored."""

    def __init__(self, *, verify: bool) -> None:
        super().__init__(verify=verify)
        self.how = f"Dataset.read(rows, names, out=out, verify={verify}, raw=True)"

    def read(self, wanted: RowNumbers) -> RowNumbers:
        """See `Reader.read`."""
        self._dataset.read(wanted, self._names, out=self._out, verify=self._verify, raw=True)
        return wanted


def teachers(*, small: bool) -> dict[str, ArraySpec]:
    """Return the shapes of DUNE's three teachers at 336 px, or the same in small for tests."""
    return {name: spec for name, spec in specs(small=small).items() if name != PIXELS}
