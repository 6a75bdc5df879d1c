"""A batch of a `CacheDataset`: pixels, tokens and codes in one piece of memory, which one copy takes to a GPU.

Shapes: B images, H W pixels, N tokens of a teacher (prefix and patches), C channels, K stored patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from codistill.torch.memory import Piece, SentPiece, received
from store.common.stateless_random import Int64
from store.format.schema import PIXELS
from train.data.buffers import ROW_NUMBERS, BatchLayout, codes_of, patches_of

DATASETS = "/datasets"  # names of arrays that no teacher can have


def eligible_of(teacher: str) -> str:
    """Return the name of the array that says which images learn from a teacher."""
    return f"{teacher}/eligible"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Batch:
    """Images and what the teachers made of them, as stored; `CacheDataset.targets` makes targets of it.

    It moves as tensors do (`to`, `pin_memory`), in one copy, and travels from a DataLoader's worker without any.

    Attributes:
        pixels: uint8 (B, H, W, 3), the views as stored.
        tokens: teacher -> float16 (B, N, C), prefix tokens first; of teachers that a dataset stores as float16.
        codes: teacher -> uint8 (B, bytes), as stored; of teachers that a dataset stores in a code.
        patches: teacher -> int32 (B, K), the patches that the codes hold; of codes that do not hold all.
        eligible: teacher -> bool (B,), whether an image learns from it. Where not, tokens and codes are zeros.
        rows: int64 (B,), row numbers in their datasets.
        datasets: int64 (B,), positions of the datasets in `CacheDataset.datasets`.
        sources: the same in host memory, NumPy.
        step: number of the step, from 0, where one of our samplers made the batch; else None.
        memory, layout: the piece of memory with all arrays, uint8, and where they lie in it.
    """

    memory: Tensor
    layout: BatchLayout
    teachers: tuple[str, ...]
    sources: Int64
    step: int | None = None
    piece: Piece | None = None
    pixels: Tensor = field(init=False)
    tokens: Mapping[str, Tensor] = field(init=False)
    codes: Mapping[str, Tensor] = field(init=False)
    patches: Mapping[str, Tensor] = field(init=False)
    eligible: Mapping[str, Tensor] = field(init=False)
    rows: Tensor = field(init=False)
    datasets: Tensor = field(init=False)

    def __post_init__(self) -> None:
        arrays = self.layout.arrays(self.memory)

        def named(name_of: Any) -> dict[str, Tensor]:
            return {name: arrays[name_of(name)] for name in self.teachers if name_of(name) in arrays}

        views = {
            "pixels": arrays[PIXELS],
            "tokens": named(str),
            "codes": named(codes_of),
            "patches": named(patches_of),
            "eligible": named(eligible_of),
            "rows": arrays[ROW_NUMBERS],
            "datasets": arrays[DATASETS],
        }
        for name, value in views.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.memory, self.layout, self.teachers, self.sources, self.step)

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        stored = [f"{name}: float16 {tuple(tokens.shape)}" for name, tokens in self.tokens.items()]
        stored += [f"{name}: codes {tuple(codes.shape)}" for name, codes in self.codes.items()]
        return f"Batch({len(self)} images on {self.device}, pixels {tuple(self.pixels.shape)}, {', '.join(stored)})"

    @property
    def device(self) -> torch.device:
        """Device of the batch."""
        return self.memory.device

    @property
    def images(self) -> Tensor:
        """Pixels as a network takes them: float32 (B, 3, H, W), ImageNet's mean and deviation; made at every access."""
        return self.normalised()

    def normalised(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
        """Return float32 (B, 3, H, W), `(pixels / 255 - mean) / std`, on the device of the batch."""
        return normalise(self.pixels, mean=mean, std=std)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device; itself if it is there already."""
        moved = self.memory.to(device, non_blocking=non_blocking)
        return self if moved is self.memory else self._with(moved)

    def pin_memory(self, device: Any = None) -> "Batch":
        """Return the batch in pinned memory; a DataLoader with `pin_memory=True` calls it."""
        return self._with(self.memory.pin_memory())

    def _with(self, memory: Tensor) -> "Batch":
        return _rebuilt(memory, self.layout, self.teachers, self.sources, self.step)


def _rebuilt(memory: Tensor, layout: BatchLayout, teachers: tuple[str, ...], sources: Int64, step: int | None) -> Batch:
    return Batch(memory=memory, layout=layout, teachers=teachers, sources=sources, step=step)


def _reduced_for_transport(batch: Batch) -> tuple[Any, ...]:
    """Reduce a batch that a worker puts into its queue: its memory is shared. Pickled elsewhere, it is copied."""
    if batch.piece is None or batch.piece.shared is None:
        return batch.__reduce__()
    return _received, (batch.piece.send(), batch.layout, batch.teachers, batch.sources, batch.step)


def _received(sent: SentPiece, *described: Any) -> Batch:
    return _rebuilt(received(sent), *described)


ForkingPickler.register(Batch, _reduced_for_transport)  # as torch registers tensors


class Samples(Sequence[dict[str, Any]]):
    """The samples that `CacheDataset.__getitems__` returns: a list of dictionaries, backed by one batch.

    Attributes:
        batch: all of them together; `collate` hands it over as it is.
    """

    def __init__(self, batch: Batch, decode: Any) -> None:
        """Keep a batch.

        Args:
            batch: the batch.
            decode: function that returns the float16 tokens of a batch by teacher, codes decoded.
        """
        self.batch, self._decode = batch, decode
        self._tokens: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: Any) -> Any:
        if self._tokens is None:
            self._tokens = self._decode(self.batch)
        batch = self.batch
        return {
            PIXELS: batch.pixels[position],
            "tokens": {name: tokens[position] for name, tokens in self._tokens.items()},
            "eligible": {name: eligible[position] for name, eligible in batch.eligible.items()},
            "row": batch.rows[position],
            "dataset": batch.datasets[position],
        }


def numpy_arrays(layout: BatchLayout, memory: Tensor) -> dict[str, "np.ndarray[Any, np.dtype[Any]]"]:
    """Return the arrays of a layout in host memory, without a copy."""
    return {name: array.numpy() for name, array in layout.arrays(memory).items()}
