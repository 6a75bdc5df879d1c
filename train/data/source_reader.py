"""Reading of the rows of one source into the arrays of a batch, in whatever form each teacher's tokens are stored.

Shapes: B rows of a batch, K stored patches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from store import TeacherInfo
from store.common.stateless_random import Int64
from store.format.schema import PIXELS
from train.data.buffers import ROW_NUMBERS, codes_of, patches_of
from train.data.mixture import Source

Arrays = Mapping[str, "np.ndarray[Any, np.dtype[Any]]"]
Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class SourceReader:
    """Fills arrays that are named as `train.data.buffers.batch_shapes` names them."""

    def __init__(
        self, sources: Sequence[Source], teachers: Mapping[str, TeacherInfo], *, raw: bool, verify: bool
    ) -> None:
        """Look up in which form each source stores the tokens.

        Args:
            sources: sources that are read.
            teachers: name -> teacher whose tokens a batch holds.
            raw: give codes as they are stored; False decodes them to float16.
            verify: check the checksum of every row.
        """
        self._sources, self._raw, self._verify = sources, raw, verify
        self._grids = {name: teacher.patch_grid for name, teacher in teachers.items()}
        self._codes = [source.codes(teachers) if raw else {} for source in sources]  # of each source, by teacher

    def uses_codes(self, teacher: str, sources: Int64) -> Flags:
        """Return for each of the numbers `sources` (B,) whether that source gives codes of a teacher."""
        of_source = np.array([teacher in codes for codes in self._codes], dtype=np.bool_)
        return of_source[sources]

    def reads(self, teacher: str, sources: Int64) -> Flags:
        """Return for each of the numbers `sources` (B,) whether a teacher's tokens are read for that source."""
        of_source = np.array([teacher in source.reads for source in self._sources], dtype=np.bool_)
        return of_source[sources]

    def read(self, arrays: Arrays, number: int, rows: Int64, places: "slice | Int64") -> None:
        """Read rows of one source; the store spreads them over threads of its own.

        Args:
            arrays: arrays of the batch; those of teachers that this source does not give are set to zero there.
            number: number of the source.
            rows: rows of its dataset.
            places: where they go in the arrays; a slice, or one place a row.
        """
        source, codes = self._sources[number], self._codes[number]
        out, part = {PIXELS: arrays[PIXELS]}, places if isinstance(places, slice) else None
        for name, grid in self._grids.items():
            if name in source.reads:
                out[name] = arrays[codes_of(name) if name in codes else name]
                subset = codes[name].subset if name in codes else None
                if subset is not None:
                    arrays[patches_of(name)][places] = subset.stored(rows, grid)
            else:
                for array in (name, codes_of(name), patches_of(name)):
                    if array in arrays:
                        arrays[array][places] = 0
        if part is not None:
            out = {name: array[part] for name, array in out.items()}
        if ROW_NUMBERS in arrays:
            arrays[ROW_NUMBERS][places] = rows
        others = None if isinstance(places, slice) else places
        source.dataset.read(rows, list(out), out=out, verify=self._verify, raw=self._raw, places=others)
