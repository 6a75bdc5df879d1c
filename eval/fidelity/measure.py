"""How near a student comes to its teachers on rows it was not trained on.

One pass over some training rows fits the baselines, one over the held-out rows scores everything; only sums per
image are kept. Shapes: B images of a batch, N tokens, C teacher channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from backbones.images import normalise
from eval.encoders.base import FrozenEncoder, StudentEncoder
from eval.fidelity import rows
from eval.fidelity.held_out import image_keys, seen_in_training
from eval.fidelity.linear_map import FOLDS, LinearMap
from eval.fidelity.metrics import SUMS, row_sums
from eval.fidelity.predictors import (
    LINEAR,
    LINEAR_STUDENT,
    LINEAR_UNTRAINED,
    MEAN,
    ROUNDING,
    STUDENT,
    UNTRAINED,
    Fitted,
    Fitting,
    Key,
    Tokens,
    inputs_for,
    rounded_again,
    split,
    statistics,
    token_types,
)
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, IMAGE_SUMS, PREFIX
from train.data.loader import Batch
from train.data.mixture import Mixture
from train.model.distiller import Distiller
from train.model.encoder import depth, has_cls
from train.objective.targets import TargetNorms


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is looked at.

    Attributes:
        rows_per_dataset: held-out rows of each dataset, drawn at random if it has more.
        fit_rows: training rows that the mean direction and the linear maps are fitted on.
        seed: of both draws.
    """

    rows_per_dataset: int = 1000
    fit_rows: int = 4096
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a student before and after, its targets' statistics, and peers to compare with."""

    student: Distiller
    untrained: Distiller
    norms: TargetNorms
    mixture: Mixture
    peers: Mapping[str, FrozenEncoder] = field(default_factory=dict)

    def encoders(self) -> dict[str, FrozenEncoder]:
        """Predictor name -> the encoder that a linear map is fitted to."""
        return {
            LINEAR_UNTRAINED: _encoder(self.untrained),
            LINEAR_STUDENT: _encoder(self.student),
            **{LINEAR + name: encoder for name, encoder in self.peers.items()},
        }


def measure(
    subject: Subject, settings: Settings, *, device: torch.device, progress: bool = False
) -> tuple[dict[str, object], pa.Table]:
    """Score the student and everything it is compared with.

    Args:
        subject: what is measured; its modules are on `device` already.
        settings: how much is looked at.
        device: to compute on.
        progress: show progress bars.

    Returns:
        Facts about the fits (JSON), and per-image sums with schema `eval.summary.IMAGE_SUMS`.
    """
    subject.student.eval()
    subject.untrained.eval()
    encoders = subject.encoders()
    with torch.inference_mode():
        fitted = _fit(subject, encoders, settings=settings, device=device, progress=progress)
        table = _score(subject, fitted, settings=settings, device=device, progress=progress)
    facts: dict[str, object] = {
        "fit_tokens": {" ".join(key): count for key, count in fitted.tokens.items()},
        "ridges": {
            name: {" ".join(key): linear.ridge for key, linear in maps.items()} for name, maps in fitted.maps.items()
        },
    }
    return facts, table


def _fit(
    subject: Subject,
    encoders: Mapping[str, FrozenEncoder],
    *,
    settings: Settings,
    device: torch.device,
    progress: bool,
) -> Fitted:
    selection = rows.balanced(subject.mixture, rows=settings.fit_rows, seed=settings.seed)
    folds = torch.from_numpy(selection.images() % FOLDS)
    fitting = Fitting(encoders=encoders, teachers=subject.student.teachers, device=device)
    for numbers, batch in _shown(selection, subject.mixture, device=device, title="fit baselines", progress=progress):
        fitting.add(
            batch.pixels, _targets(subject, batch), rows=_read_rows(subject, batch), folds=folds[numbers].to(device)
        )
    return fitting.fitted()


def _score(
    subject: Subject,
    fitted: Fitted,
    *,
    settings: Settings,
    device: torch.device,
    progress: bool,
) -> pa.Table:
    selection = rows.spread(subject.mixture.held_out, rows_per_source=settings.rows_per_dataset, seed=settings.seed)
    collected = _Collected(selection, subject.mixture)
    generator = torch.Generator(device).manual_seed(settings.seed)
    for numbers, batch in _shown(selection, subject.mixture, device=device, title="held-out rows", progress=progress):
        chosen = _read_rows(subject, batch)
        targets = _targets(subject, batch)
        ceiling = (ROUNDING, _targets(subject, batch, generator=generator))
        found = _predictions(subject, fitted, batch=batch, targets=targets)
        for name, predictions in chain(found, [ceiling]):
            for key, prediction in predictions.items():
                keep = chosen[key[0]]
                sums = row_sums(
                    prediction[keep],
                    targets[key][keep],
                    direction=fitted.directions[key] if name == MEAN else None,
                )
                collected.add(numbers[keep.cpu().numpy()], key=key, predictor=name, sums=sums)
    return collected.table()


def _predictions(
    subject: Subject,
    fitted: Fitted,
    *,
    batch: Batch,
    targets: Mapping[Key, Tensor],
) -> Iterator[tuple[str, dict[Key, Tensor]]]:
    """(predictor, its standardised tokens of every teacher and type), one predictor at a time."""
    images = normalise(batch.pixels)
    own = ((STUDENT, LINEAR_STUDENT, subject.student), (UNTRAINED, LINEAR_UNTRAINED, subject.untrained))
    for name, linear, model in own:
        features = model.features(images)  # once, for the projectors and for the linear map
        found = model.project(features)
        yield (
            name,
            {
                (teacher, kind): found[teacher][0 if kind == PREFIX else 1]
                for teacher, spec in model.teachers.items()
                for kind in token_types(spec)
            },
        )
        yield linear, _mapped(fitted.maps[linear], _last_tokens(model, features))
    yield MEAN, {key: torch.zeros_like(target) for key, target in targets.items() if key in fitted.directions}
    for name, encoder in subject.peers.items():
        yield LINEAR + name, _mapped(fitted.maps[LINEAR + name], encoder(batch.pixels))


def _mapped(maps: Mapping[Key, LinearMap], tokens: Tokens) -> dict[Key, Tensor]:
    return {key: linear(inputs_for(tokens, key[1])) for key, linear in maps.items()}


def _last_tokens(model: Distiller, features: Mapping[int, Tensor]) -> Tokens:
    """What `StudentEncoder` gives, from what the projectors read; they all read the last block."""
    last = features[depth(model.encoder) - 1].float()
    cls = int(has_cls(model.encoder))
    return last[:, :cls], last[:, cls:]


def _targets(subject: Subject, batch: Batch, *, generator: torch.Generator | None = None) -> dict[Key, Tensor]:
    """Standardised targets of a batch; with a generator, those whose rounding is undone at random."""
    targets = {}
    for teacher, spec in subject.student.teachers.items():
        for kind, tokens in split(batch.tokens[teacher], spec).items():
            values = tokens if generator is None else rounded_again(tokens, generator=generator)
            targets[teacher, kind] = statistics(subject.norms, (teacher, kind)).apply(values)
    return targets


def _read_rows(subject: Subject, batch: Batch) -> dict[str, Tensor]:
    """Teacher -> rows of the batch whose tokens of it were read."""
    device = batch.pixels.device
    return {
        teacher: torch.from_numpy(np.flatnonzero(batch.read[index])).to(device)
        for index, teacher in enumerate(subject.mixture.teachers)
    }


def _shown(
    selection: rows.Selection, mixture: Mixture, *, device: torch.device, title: str, progress: bool
) -> Iterator[tuple[np.ndarray, Batch]]:
    with tqdm(total=len(selection), desc=title, unit="row", disable=not progress) as bar:
        for numbers, batch in rows.batches(selection, mixture, device=device):
            yield numbers, batch
            bar.update(len(numbers))


def _encoder(model: Distiller) -> StudentEncoder:
    return StudentEncoder(model.encoder, cell_px=model.cell_px)


class _Collected:
    """Sums of rows as they come, pooled into images at the end."""

    def __init__(self, selection: rows.Selection, mixture: Mixture) -> None:
        self._selection = selection
        self._training = [source.dataset for source in mixture.sources]
        self._parts: list[tuple[np.ndarray, Key, str, dict[str, np.ndarray]]] = []

    def add(self, numbers: np.ndarray, *, key: Key, predictor: str, sums: Mapping[str, np.ndarray]) -> None:
        """Add the sums of some rows, given by their numbers within the selection."""
        self._parts.append((numbers, key, predictor, dict(sums)))

    def table(self) -> pa.Table:
        """Per-image sums, schema `IMAGE_SUMS`."""
        datasets, kinds, images = self._describe()
        columns: dict[str, list[pa.Array]] = {name: [] for name in IMAGE_SUMS.names}
        for numbers, key, predictor, sums in self._parts:
            said = {"teacher": key[0], "token_type": key[1], "predictor": predictor}
            described = {"dataset": datasets[numbers], "kind": kinds[numbers], "image": images[numbers]}
            for name, values in described.items():
                columns[name].append(pa.array(values, pa.string()))
            for name, value in said.items():
                columns[name].append(pa.array([value] * len(numbers), pa.string()))
            for name, totals in sums.items():
                columns[name].append(pa.array(totals, pa.float64()))
        chunks = {name: pa.chunked_array(parts, IMAGE_SUMS.field(name).type) for name, parts in columns.items()}
        keys = [name for name in IMAGE_SUMS.names if name not in SUMS]
        pooled = pa.table(chunks).group_by(keys).aggregate([(name, "sum") for name in SUMS])
        renamed = pooled.rename_columns([name.removesuffix("_sum") for name in pooled.column_names])
        return renamed.select(IMAGE_SUMS.names).cast(IMAGE_SUMS).sort_by([(key, "ascending") for key in keys])

    def _describe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dataset, kind and image key of every row of the selection."""
        picks, indices = self._selection.picks, self._selection.images()
        datasets, kinds, images = (np.empty(len(picks), dtype=object) for _ in range(3))
        seen = seen_in_training([source.dataset for source in self._selection.sources], self._training)
        for number, source in enumerate(self._selection.sources):
            mine = picks.source == number
            keys = np.array(image_keys(source.dataset).to_pylist(), dtype=object)
            datasets[mine] = source.dataset.name
            images[mine] = keys[indices[mine]]
            kinds[mine] = np.where(seen[number][indices[mine]], HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS)
        return datasets, kinds, images
