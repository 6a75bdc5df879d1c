"""A cache like another one, with other tokens in its training datasets: for encodings that the product does not make.

Everything else is hard-linked. The copy appears when it is whole, so an interrupted one is begun again.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import store
from store import Dataset
from store.cache.writer import ShardWriter
from store.format.code import Code
from store.format.schema import OK, PIXELS

Row = npt.NDArray[np.float16]
Append = Callable[[ShardWriter, str, Row], None]  # gets writer, teacher and true tokens of the next row


def rebuild(source: Path, target: Path, append: Append, *, code: Callable[[str], Code | None]) -> None:
    """Make the copy.

    Args:
        source: sealed cache of float16 tokens.
        target: folder to make.
        append: appends a row to a writer.
        code: returns the code of a teacher's training tokens; None for float16.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=os.link)
    copies = store.open(partial)
    for dataset in store.open(source):
        if dataset.split != "train":
            continue
        for teacher in dataset.teachers:
            _rewrite(dataset, copies[dataset.name], teacher, append, code=code(teacher))
    store.seal(copies)
    partial.replace(target)


def _rewrite(source: Dataset, copy: Dataset, teacher: str, append: Append, *, code: Code | None) -> None:
    info = source.teacher(teacher)
    copy.delete_teacher(teacher)
    copy.create_teacher(
        teacher,
        identity=info.identity,
        groups=info.groups,
        patch_grid=info.patch_grid,
        prefix_tokens=info.prefix_tokens,
        channels=info.channels,
        code=code,
    )
    for number in range(source.shards):
        shard = source.read_shard(teacher, number)
        trailer = source.read_trailer(teacher, number)
        digest = source.read_trailer(PIXELS, number).digest
        with copy.write_shard(teacher, number, provenance={}, pixels_digest=digest) as writer:
            for position, row in enumerate(trailer.rows):
                if trailer.status[position] == OK:
                    append(writer, teacher, shard.data[position])
                else:
                    writer.fail(trailer.errors[row])
            writer.finish()


class MomentsOfTrueTokens:
    """In place of a writer's moments: sums the true tokens of each row while the decoded ones are written."""

    def __init__(self, moments: Any) -> None:
        self._moments = moments
        self.true: Row | None = None

    def add(self, row: Row) -> bool:
        """Add the true tokens of the row that is written."""
        return bool(self._moments.add(self.true))

    def result(self) -> Any:
        """Return the moments of the true tokens."""
        return self._moments.result()


def append_decoded(writer: ShardWriter, true: Row, decoded: Row) -> None:
    """Append decoded tokens, whose statistics are to be those of the true ones, as with codes."""
    if not isinstance(writer._moments, MomentsOfTrueTokens):
        writer._moments = MomentsOfTrueTokens(writer._moments)  # type: ignore[assignment]
    moments: Any = writer._moments
    moments.true = true
    writer.append(decoded)
