"""A map-style dataset over caches, for trainers of other people: indices to batches of pixels, tokens and codes.

Shapes: B images, H W pixels, N tokens of a teacher (prefix and patches), C channels, S datasets.
"""

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from codistill.torch.arguments import checked_names, checked_text
from codistill.torch.batch import DATASETS, Batch, Samples, eligible_of, numpy_arrays
from codistill.torch.memory import BatchMemory
from codistill.torch.selection import CacheLike, Conditions, RowsLike, Selection, Sharing, members_of, select
from codistill.torch.targets import Targets
from store import Dataset, TeacherInfo
from store.common.stateless_random import Int64
from store.common.threads import ThreadTeam
from store.errors import Conflict, InvalidInput, MissingRow
from store.storage.local import LocalStorage
from train.data.buffers import ROW_NUMBERS, BatchLayout, batch_shapes
from train.data.mixture import Mixture, cached_forms
from train.data.source_reader import SourceReader

DATASETS_AT_ONCE = 2  # that a batch is read from; the store reads each with threads of its own


class CacheDataset(TorchDataset[dict[str, Any]]):
    """The usable rows of sealed caches, for a plain `torch.utils.data.DataLoader`.

        data = CacheDataset("demo/cache", teachers=["lite0"])
        sampler = BalancedBatchSampler(data, batch_size=64, steps=1000)
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=2, pin_memory=True)
        targets = data.targets()
        for batch in loader:
            batch = batch.to("cuda", non_blocking=True)
            target = targets(batch)["lite0"]  # decoded here, standardised
            predicted = student(batch.images)  # like target.patches: (B, N, C)
            loss = smooth_l1_loss(predicted[target.mask], target.patches[target.mask])

    Rows are usable if they are ok in pixels and in the tokens of every teacher that is read for them; failed rows are
    left out. Indices number the usable rows, group by group, dataset by dataset.

    `data[i]` is a dictionary: `pixels` uint8 (H, W, 3), `tokens` teacher -> float16 (N, C), decoded, NaN where nothing
    is stored, `eligible` teacher -> bool, `row`, `dataset`. torch's own collate stacks them; `data.collate` is faster
    and gives a `Batch`, whose codes are decoded where the batch is by then.

    Safe in worker processes, forked or spawned: each opens files of its own. A pickled dataset holds the conditions,
    not the rows (only rows that were listed), and finds the same rows again, or raises `Conflict`.

    Attributes:
        conditions: what was asked for.
    """

    def __init__(
        self,
        cache: CacheLike | Iterable[CacheLike],
        *,
        teachers: Sequence[str] | None = None,
        rows: RowsLike | Mapping[str, RowsLike] | None = None,
        subset: str = "",
        datasets: Sequence[str] = (),
        split: str | None = "train",
        sharing: Sharing = "full",
        generic_groups: Sequence[str] = (),
        raw: bool = True,
        verify: bool = True,
    ) -> None:
        """Find the rows; reads sealed tables, no shard.

        Args:
            cache: location of a cache, an opened cache, a dataset of one, a slice of a dataset, or several of these.
            teachers: names; None takes all that the datasets have.
            rows: slice, row numbers or mask of the only dataset, or these by name of a dataset. A selection, not an
                order: a row that is listed several times is taken once. Samplers and `batch` may repeat indices.
            subset: condition on the manifest's columns, such as `view < 4 and not grayscale`.
            datasets: names of the datasets to take; empty takes all of the split.
            split: `train`, `val` or None for both, where `cache` names no dataset.
            sharing: teachers that an image learns from: `full` all, `none` those that specialise in its group,
                `generic` the same and all for `generic_groups`, `available` those that its dataset has.
            generic_groups: see `sharing`.
            raw: batches hold codes as stored; False decodes them to float16 in the process that reads.
            verify: check the checksum of every row.

        Raises:
            InvalidConfig: the arguments do not fit the caches, or no row is left; every problem is listed.
            InvalidInput: an argument is of another type, or `teachers` is an empty list.
            MissingCache, MissingName, NotSealed: from the caches.
        """
        wanted = () if teachers is None else checked_names("teachers", teachers)
        if teachers is not None and not wanted:
            raise InvalidInput("teachers: the list is empty. Name some, or leave it out to take all")
        names = checked_names("datasets", datasets)
        self.conditions = Conditions(
            members=members_of(cache, datasets=names, split=split, rows=rows),
            teachers=wanted,
            subset=checked_text("subset", subset, example="view < 4"),
            sharing=sharing,
            generic_groups=checked_names("generic_groups", generic_groups),
        )
        self._raw, self._verify = raw, verify
        self._digest: str | None = None
        self._opened: _Opened | None = None
        self._digest = self._here().selection.digest

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        groups = ", ".join(f"{name} {rows:,}" for name, rows in self.groups.items())
        return f"CacheDataset({len(self):,} rows: {groups}; teachers {', '.join(self.teachers) or 'none'})"

    def __len__(self) -> int:
        return int(self._here().ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            position = operator.index(index)
        except TypeError:
            raise InvalidInput(f"index {index!r}: expected an integer; use batch(indices) for several") from None
        if not -len(self) <= position < len(self):
            raise MissingRow(f"index {position} is not in a dataset of {len(self):,} rows")
        sample: dict[str, Any] = self.__getitems__([position % len(self)])[0]
        return sample

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Return the samples of `indices`, in their order, by one read of each dataset; a DataLoader calls it."""
        return Samples(self.batch(indices), self._decoded)

    @staticmethod
    def collate(samples: "Samples | Sequence[Mapping[str, Any]]") -> Batch:
        """Return the batch behind what `__getitems__` returned: the `collate_fn` of a DataLoader.

        Raises:
            InvalidInput: the samples come from elsewhere, for example from a wrapper that fetches them one by one.
        """
        if isinstance(samples, Samples):
            return samples.batch
        raise InvalidInput(
            "collate takes what CacheDataset.__getitems__ returns, found a list of samples. A wrapper around the "
            "dataset fetches them one by one: give it a __getitems__, or use torch's own collate"
        )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Read the rows of `indices` (B) at once, each dataset in one go.

        Args:
            indices: integers in any order, duplicates allowed; of our samplers, they carry the step. None at all give
                an empty batch.

        Raises:
            MissingRow: an index is out of bounds.
            Damaged, RowsNotOk, MissingShard: from the caches.
        """
        gathered = getattr(indices, "gathered", None)
        batch = self._here().read(np.asarray(indices), step=getattr(indices, "step", None))
        if gathered is not None:
            gathered()
        return batch

    def locate(self, indices: Sequence[int] | Int64) -> tuple[Int64, Int64]:
        """Return the position in `datasets` and the row number of each index, both int64 (B,)."""
        return self._here().locate(np.asarray(indices))

    def targets(self, *, standardise: bool = True, statistics: str = "datasets") -> Targets:
        """Return the function that makes targets of a batch, on the batch's device.

        Args:
            standardise: subtract each teacher's mean and divide by its standard deviation, channel by channel; False
                gives raw tokens.
            statistics: `datasets` takes the sealed ones of the datasets used, every group weighted alike; `subset`
                reads all float16 tokens of the selected rows once and takes theirs.

        Raises:
            InvalidInput: unknown `statistics`, or a teacher without an ok row.
            NotSealed: the message names the command.
        """
        return Targets(self._here().selection.mixture, standardise=standardise, statistics=statistics)

    @property
    def teachers(self) -> Mapping[str, TeacherInfo]:
        """Teachers by name: patch grid, prefix tokens, channels, groups."""
        return self._here().selection.mixture.teachers

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Datasets in the order of their indices."""
        return tuple(source.dataset for source in self._here().selection.mixture.sources)

    @property
    def groups(self) -> Mapping[str, int]:
        """Number of rows of each group, in the order of their indices."""
        return self._here().selection.mixture.group_rows

    @property
    def image_size(self) -> int:
        """Side of the pixels, px."""
        return self._here().selection.mixture.image_size

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patch rows and columns, where all teachers have the same.

        Raises:
            InvalidInput: they differ; ask each of `teachers`.
        """
        grids = {name: teacher.patch_grid for name, teacher in self.teachers.items()}
        if len(set(grids.values())) != 1:
            listed = ", ".join(f"{name} {rows}x{columns}" for name, (rows, columns) in grids.items())
            raise InvalidInput(f"the teachers have no common patch grid: {listed or 'no teachers'}. Ask each of them")
        return next(iter(grids.values()))

    @property
    def digest(self) -> str:
        """Digest of what the indices mean: equal digests number equal rows alike."""
        return self._here().selection.digest

    def _here(self) -> "_Opened":
        """Return what this process has opened; nothing that a parent opened is used in a forked child."""
        opened = self._opened
        if opened is None:
            opened = _Opened(select(self.conditions), raw=self._raw, verify=self._verify)
            if self._digest not in (None, opened.selection.digest):
                raise Conflict(
                    f"the caches have changed since this CacheDataset was made: rows expected {self._digest}, found "
                    f"{opened.selection.digest}. Make it again"
                )
        elif opened.pid != os.getpid():
            opened = opened.in_child()
        self._opened = opened
        return opened

    def _decoded(self, batch: Batch) -> dict[str, Tensor]:
        return self._here().decoded(batch)


class _Opened:
    """Open files, memory and tables of one process."""

    def __init__(self, selection: Selection, *, raw: bool, verify: bool) -> None:
        self.pid, self.selection = os.getpid(), selection
        self._raw, self._verify = raw, verify
        mixture = selection.mixture
        self.ends = np.cumsum([len(source.rows) for source in mixture.sources], dtype=np.int64)
        self._reader = SourceReader(mixture.sources, mixture.teachers, raw=raw, verify=verify)
        self._memory = BatchMemory()
        self._team = ThreadTeam(DATASETS_AT_ONCE)
        self._layout = lru_cache(maxsize=8)(self._layout_of)

    def in_child(self) -> "_Opened":
        """Return the same in a forked child.

        Raises:
            InvalidInput: the cache is on an object store, whose client does not survive a fork.
        """
        for source in self.selection.mixture.sources:
            if not isinstance(source.dataset.storage, LocalStorage):
                raise InvalidInput(
                    f"the client of '{source.dataset.storage.location}' does not survive a fork. Pass "
                    "multiprocessing_context='spawn' to the DataLoader"
                )
        return _Opened(self.selection.reopened(), raw=self._raw, verify=self._verify)

    def locate(self, indices: "np.ndarray[Any, np.dtype[Any]]") -> tuple[Int64, Int64]:
        """Return the number of the source and the row of each index."""
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise InvalidInput(f"indices: expected a list of integers, found {indices.dtype} {indices.shape}")
        numbers = indices.astype(np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self.ends[-1])]
        if len(outside):
            raise MissingRow(f"index {outside[0]} is not in a dataset of {self.ends[-1]:,} rows")
        sources = np.searchsorted(self.ends, numbers, side="right")
        rows = np.empty_like(numbers)
        for number in _present(sources):
            here, source = sources == number, self.selection.mixture.sources[number]
            rows[here] = source.rows_at(numbers[here] - (self.ends[number] - len(source.rows)))
        return sources, rows

    def read(self, indices: "np.ndarray[Any, np.dtype[Any]]", *, step: int | None) -> Batch:
        """Read a batch."""
        sources, rows = self.locate(indices)
        layout = self._layout(len(rows))
        memory, piece = self._memory.take(layout.bytes)
        arrays = numpy_arrays(layout, memory)
        tasks = []
        for number in _present(sources):
            places: Any = np.flatnonzero(sources == number)
            if places[-1] - places[0] + 1 == len(places):
                places = slice(int(places[0]), int(places[-1]) + 1)
            tasks.append(partial(self._reader.read, arrays, number, rows[places], places))
        self._team.run(tasks)
        arrays[DATASETS][:] = sources
        for name in self.selection.mixture.teachers:
            arrays[eligible_of(name)][:] = self._reader.reads(name, sources)
        teachers = tuple(self.selection.mixture.teachers)
        return Batch(memory=memory, layout=layout, teachers=teachers, sources=sources, step=step, piece=piece)

    def decoded(self, batch: Batch) -> dict[str, Tensor]:
        """Return the float16 tokens (B, N, C) of a batch in host memory, NaN where there are none."""
        return {name: self._tokens_of(name, batch) for name in batch.teachers}

    def _tokens_of(self, name: str, batch: Batch) -> Tensor:
        mixture = self.selection.mixture
        info = mixture.teachers[name]
        tokens = torch.full((len(batch), info.prefix_tokens + info.patches, info.channels), torch.nan, dtype=torch.half)
        eligible, encoded = self._reader.reads(name, batch.sources), self._reader.uses_codes(name, batch.sources)
        plain = torch.from_numpy(eligible & ~encoded)
        if plain.any():
            tokens[plain] = batch.tokens[name][plain]
        for number in _present(batch.sources[eligible & encoded]):
            here = torch.from_numpy(batch.sources == number)
            code = mixture.sources[number].dataset.code(name)
            decoded = code.decode(batch.codes[name][here].numpy(), batch.rows[here].numpy())
            tokens[here] = torch.from_numpy(decoded)
        return tokens

    def _layout_of(self, images: int) -> BatchLayout:
        mixture: Mixture = self.selection.mixture
        forms = cached_forms(mixture.sources, mixture.teachers) if self._raw else None
        shapes = dict(batch_shapes(mixture.teachers, image_size=mixture.image_size, batch=images, forms=forms))
        shapes |= {ROW_NUMBERS: ((images,), torch.int64), DATASETS: ((images,), torch.int64)}
        shapes |= {eligible_of(name): ((images,), torch.bool) for name in mixture.teachers}
        return BatchLayout(shapes=shapes)


def _present(numbers: Int64) -> list[int]:
    """Return which numbers occur, ascending."""
    found: list[int] = np.flatnonzero(np.bincount(numbers)).tolist()
    return found
