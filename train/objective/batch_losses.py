"""Losses of a batch against every teacher, whatever form its targets are cached in: float16 tokens, codes, or both.

Shapes: B images of a batch, m of a micro-batch, P prefix tokens, N patches, C channels, T teachers (sorted).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from store import TeacherInfo
from store.cache.joined_dataset import parts_of
from train.data.buffers import to_device
from train.data.loader import Batch
from train.data.mixture import Source
from train.data.source_reader import Flags
from train.objective.decode import Decoder
from train.objective.floors import corrected, floors_of
from train.objective.losses import TeacherLoss, teacher_loss
from train.objective.targets import TargetNorms, TeacherNorm
from train.recipe.config import Loss

Predicted = tuple[Tensor, Tensor]  # prefix (m, P, C) and patches (m, N, C)
Int64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class BatchLosses:
    """Computes the losses of the batches of one loader.

    Codes are decoded on the device, a teacher and a micro-batch at a time. An image whose targets are codes gets an
    estimate of the loss against the true tokens beside its loss.

    Attributes:
        corrects: True if some source has codes.
    """

    def __init__(
        self, *, sources: Sequence[Source], teachers: Mapping[str, TeacherInfo], norms: TargetNorms, weights: Loss
    ) -> None:
        """Read the codes and their floors; decoders are built when they are first needed.

        Args:
            sources: sources of the loader, which its batches number.
            teachers: name -> teacher, sorted.
            norms: statistics of the targets, on the device; to be set before the first batch.
            weights: weights of the two distances.

        Raises:
            Damaged: the arrays of a code are not those recorded.
        """
        self._norms, self._weights = norms, weights
        self._names = list(teachers)
        self._floors = floors_of(sources, self._names)  # (S, T, 2, 2)
        holders = [(name, source.dataset) for name in self._names for source in sources if source.codes([name])]
        self._codes = {name: dataset.code(name) for name, dataset in dict(reversed(holders)).items()}
        for name, dataset in holders:  # all are recorded as alike: that one's arrays are not, its rows do not tell
            for part in parts_of(dataset):
                if name in part.teachers:
                    part.check_code(name)
        self._decoders: dict[str, Decoder] = {}
        self.corrects = bool(self._codes)

    def of(
        self,
        predicted: Mapping[str, Predicted],
        batch: Batch,
        *,
        part: slice = slice(None),
        norms: Mapping[str, TeacherNorm] | None = None,
    ) -> dict[str, TeacherLoss]:
        """Return the loss of each image of a micro-batch against every teacher.

        Args:
            predicted: teacher -> predicted tokens of the micro-batch.
            batch: batch of the loader.
            part: place of the micro-batch in it.
            norms: statistics that float16 tokens are standardised with; None takes those stored.
        """
        by_teacher = {}
        for name in batch.teachers:
            norm = self._norms.stored(name) if norms is None else norms[name]
            images = np.arange(len(batch.rows), dtype=np.int64)[part]
            encoded = batch.codes[name].used[images] if name in batch.codes else np.zeros(len(images), np.bool_)
            if encoded.all():
                by_teacher[name] = self._of_codes(name, predicted[name], batch, images, part)
            elif encoded.any():
                by_teacher[name] = self._of_both(name, predicted[name], batch, images, encoded, norm)
            else:
                tokens = batch.tokens[name][part]
                by_teacher[name] = teacher_loss(predicted[name], tokens, norm=norm, weights=self._weights)
        return by_teacher

    def _of_codes(
        self, name: str, predicted: Predicted, batch: Batch, images: Int64, place: slice | Tensor
    ) -> TeacherLoss:
        """Return the loss of images of the batch whose targets are codes; `place` is `images` on the device."""
        codes, decoder = batch.codes[name], self._decoder(name)
        loss = teacher_loss(
            predicted,
            decoder(codes.codes[place], codes.rows[place]),
            norm=decoder.shift,
            weights=self._weights,
            tokens=None if codes.patches is None else codes.patches[place],
        )
        floors = self._floors[batch.rows.source[images], self._names.index(name)]  # (m, 2, 2)
        on_device = to_device(floors, loss.per_image.device)
        return replace(loss, corrected=corrected(loss, on_device, weights=self._weights))

    def _of_both(
        self,
        name: str,
        predicted: Predicted,
        batch: Batch,
        images: Int64,
        encoded: Flags,
        norm: TeacherNorm,
    ) -> TeacherLoss:
        """Return the loss of images of which some have float16 tokens and others codes."""
        parts = []
        for of_codes in (False, True):
            inside = np.flatnonzero(encoded == of_codes)
            index = to_device(inside, predicted[1].device)
            place = to_device(images[inside], predicted[1].device)
            chosen = (predicted[0].index_select(0, index), predicted[1].index_select(0, index))
            if of_codes:
                loss = self._of_codes(name, chosen, batch, images[inside], place)
            else:
                loss = teacher_loss(chosen, batch.tokens[name][place], norm=norm, weights=self._weights)
            parts.append((index, loss))
        return _joined(parts, len(images))

    def _decoder(self, name: str) -> Decoder:
        if name not in self._decoders:
            self._decoders[name] = Decoder(self._codes[name], self._norms.stored(name))
        return self._decoders[name]


def _joined(parts: Sequence[tuple[Tensor, TeacherLoss]], images: int) -> TeacherLoss:
    """Join the losses of disjoint images; each comes with its places in the micro-batch."""

    def join(values: Sequence[Tensor]) -> Tensor:
        joined = torch.zeros(images, dtype=values[0].dtype, device=values[0].device)
        for (index, _), of_part in zip(parts, values, strict=True):
            joined = joined.index_copy(0, index, of_part)
        return joined

    losses = [loss for _, loss in parts]
    return TeacherLoss(
        per_image=join([loss.per_image for loss in losses]),
        terms={term: join([loss.terms[term] for loss in losses]) for term in losses[0].terms},
        corrected=join([loss.against_true for loss in losses]),
    )
