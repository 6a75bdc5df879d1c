"""Measure a student, its baselines and its peers against the teachers' tokens, on rows it was not trained on.

One pass over some training rows fits the baselines, one over the held-out rows scores everything; only sums per
image are stored. Shapes: B images of a batch, N tokens, C teacher channels.
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
from eval.fidelity import code_ceiling, rows
from eval.fidelity.held_out import image_keys, seen_in_training
from eval.fidelity.linear_map import FOLDS, LinearMap
from eval.fidelity.metrics import SUMS, row_sums
from eval.fidelity.predictors import (
    CODE,
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
    split,
    statistics,
    token_types,
    undo_rounding,
)
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, IMAGE_SUMS, PREFIX
from train.data.loader import Batch
from train.data.mixture import Mixture
from train.model.distiller import Distiller
from train.model.encoder import depth, has_cls
from train.objective.targets import TargetNorms
from train.run.headline import DECODED


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rows to measure and to fit on.

    Attributes:
        rows_per_dataset: held-out rows of each dataset, sampled at random if it has more.
        fit_rows: training rows that the mean direction and the linear maps are fitted on.
        seed: seed of both samples.
    """

    rows_per_dataset: int = 1000
    fit_rows: int = 4096
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A student to measure, and the encoders that it is compared with.

    Attributes:
        student: the trained student.
        untrained: the student before its first training step.
        norms: statistics that the targets are standardised with.
        mixture: rows of the caches, for training and held out.
        peers: other encoders, by name.
    """

    student: Distiller
    untrained: Distiller
    norms: TargetNorms
    mixture: Mixture
    peers: Mapping[str, FrozenEncoder] = field(default_factory=dict)

    def encoders(self) -> dict[str, FrozenEncoder]:
        """Return the encoders that linear maps are fitted to, by name of the predictor."""
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
        subject: the student and its comparisons; their modules are on `device` already.
        settings: rows to measure and to fit on.
        device: device to compute on.
        progress: show progress bars.

    Returns:
        Facts about the fits (JSON), and per-image sums with schema `eval.fidelity.scores.IMAGE_SUMS`.
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
    for numbers, batch in _batches(selection, subject.mixture, device=device, title="fit baselines", progress=progress):
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
    ceilings = code_ceiling.of_sources(selection.sources, norms=subject.norms)
    generator = torch.Generator(device).manual_seed(settings.seed)
    for numbers, batch in _batches(selection, subject.mixture, device=device, title="held-out rows", progress=progress):
        rows_read = _read_rows(subject, batch)
        targets = _targets(subject, batch)
        ceiling = (ROUNDING, _targets(subject, batch, generator=generator))
        predicted = _predictions(subject, fitted, batch=batch, targets=targets)
        for name, predictions in chain(predicted, [ceiling]):
            for key, prediction in predictions.items():
                read = rows_read[key[0]]
                if name == ROUNDING:  # of the float16 tokens themselves; decoded ones have another ceiling
                    read = read[torch.from_numpy(~collected.decoded(key[0])[numbers[read.cpu().numpy()]]).to(device)]
                sums = row_sums(
                    prediction[read],
                    targets[key][read],
                    direction=fitted.directions[key] if name == MEAN else None,
                )
                collected.add(numbers[read.cpu().numpy()], key=key, predictor=name, sums=sums)
                if name == STUDENT:
                    _add_code_ceiling(collected, numbers[read.cpu().numpy()], key, sums=sums, ceilings=ceilings)
    return collected.table()


def _add_code_ceiling(
    collected: "_Collected",
    numbers: np.ndarray,
    key: Key,
    *,
    sums: Mapping[str, np.ndarray],
    ceilings: code_ceiling.Ceilings,
) -> None:
    """Add what true tokens would score on those rows whose targets are decoded."""
    inside = collected.decoded(key[0])[numbers]
    if not inside.any():
        return
    sources = collected.sources[numbers[inside]]
    means = np.stack([ceilings[source, key] for source in sources.tolist()])  # (B, 3)
    tokens = sums["tokens"][inside]
    of_code = dict(zip(("cosine", "smooth_l1", "squared_error"), (means * tokens[:, None]).T, strict=True))
    of_code |= {"tokens": tokens, "power": sums["power"][inside]}
    collected.add(numbers[inside], key=key, predictor=CODE, sums=of_code)


def _predictions(
    subject: Subject,
    fitted: Fitted,
    *,
    batch: Batch,
    targets: Mapping[Key, Tensor],
) -> Iterator[tuple[str, dict[Key, Tensor]]]:
    """Yield (predictor, its standardised tokens of every teacher and type), one predictor at a time."""
    images = normalise(batch.pixels)
    students = ((STUDENT, LINEAR_STUDENT, subject.student), (UNTRAINED, LINEAR_UNTRAINED, subject.untrained))
    for name, linear, model in students:
        features = model.features(images)  # once, for the projectors and for the linear map
        projected = model.project(features)
        yield (
            name,
            {
                (teacher, kind): projected[teacher][0 if kind == PREFIX else 1]
                for teacher, info in model.teachers.items()
                for kind in token_types(info)
            },
        )
        yield linear, _mapped(fitted.maps[linear], _last_tokens(model, features))
    yield MEAN, {key: torch.zeros_like(target) for key, target in targets.items() if key in fitted.directions}
    for name, encoder in subject.peers.items():
        yield LINEAR + name, _mapped(fitted.maps[LINEAR + name], encoder(batch.pixels))


def _mapped(maps: Mapping[Key, LinearMap], tokens: Tokens) -> dict[Key, Tensor]:
    return {key: linear(inputs_for(tokens, key[1])) for key, linear in maps.items()}


def _last_tokens(model: Distiller, features: Mapping[int, Tensor]) -> Tokens:
    """Return the tokens of `StudentEncoder` from the features that the projectors read; all read the last block."""
    last = features[depth(model.encoder) - 1].float()
    cls = int(has_cls(model.encoder))
    return last[:, :cls], last[:, cls:]


def _targets(subject: Subject, batch: Batch, *, generator: torch.Generator | None = None) -> dict[Key, Tensor]:
    """Return the standardised targets of a batch; with a generator, their rounding is undone at random."""
    targets = {}
    for teacher, info in subject.student.teachers.items():
        for kind, tokens in split(batch.tokens[teacher], info).items():
            values = tokens if generator is None else undo_rounding(tokens, generator=generator)
            targets[teacher, kind] = statistics(subject.norms, (teacher, kind)).apply(values)
    return targets


def _read_rows(subject: Subject, batch: Batch) -> dict[str, Tensor]:
    """Return the rows of a batch for which each teacher's tokens were read."""
    device = batch.pixels.device
    return {
        teacher: torch.from_numpy(np.flatnonzero(batch.read[index])).to(device)
        for index, teacher in enumerate(subject.mixture.teachers)
    }


def _batches(
    selection: rows.Selection, mixture: Mixture, *, device: torch.device, title: str, progress: bool
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Read a selection under a progress bar."""
    with tqdm(total=len(selection), desc=title, unit="row", disable=not progress) as bar:
        for numbers, batch in rows.batches(selection, mixture, device=device):
            yield numbers, batch
            bar.update(len(numbers))


def _encoder(model: Distiller) -> StudentEncoder:
    return StudentEncoder(model.encoder, cell_px=model.cell_px)


class _Collected:
    """Sums of rows, collected in any order and pooled into images at the end."""

    def __init__(self, selection: rows.Selection, mixture: Mixture) -> None:
        self._selection = selection
        self._training = [source.dataset for source in mixture.sources]
        self._codes = [source.codes(source.reads) for source in selection.sources]
        self._parts: list[tuple[np.ndarray, Key, str, dict[str, np.ndarray]]] = []

    @property
    def sources(self) -> np.ndarray:
        """Number of the source of every row of the selection, int64."""
        return self._selection.rows.source

    def decoded(self, teacher: str) -> np.ndarray:
        """Return for every row of the selection whether the teacher's tokens are stored in a code, bool."""
        of_source = np.array([teacher in codes for codes in self._codes], dtype=np.bool_)
        return np.asarray(of_source[self.sources])

    def add(self, numbers: np.ndarray, *, key: Key, predictor: str, sums: Mapping[str, np.ndarray]) -> None:
        """Add the sums of some rows, which are numbered within the selection."""
        self._parts.append((numbers, key, predictor, dict(sums)))

    def table(self) -> pa.Table:
        """Return per-image sums, schema `IMAGE_SUMS`."""
        datasets, kinds, images = self._describe()
        columns: dict[str, list[pa.Array]] = {name: [] for name in IMAGE_SUMS.names}
        for numbers, key, predictor, sums in self._parts:
            # Decoded targets are apart: the noise of a code lowers all scores.
            suffix = np.where(self.decoded(key[0])[numbers], DECODED, "").astype(object)
            of_rows = {"dataset": datasets[numbers] + suffix, "kind": kinds[numbers] + suffix, "image": images[numbers]}
            of_part = {"teacher": key[0], "token_type": key[1], "predictor": predictor}
            for name, values in of_rows.items():
                columns[name].append(pa.array(values, pa.string()))
            for name, value in of_part.items():
                columns[name].append(pa.array([value] * len(numbers), pa.string()))
            for name, totals in sums.items():
                columns[name].append(pa.array(totals, pa.float64()))
        chunks = {name: pa.chunked_array(parts, IMAGE_SUMS.field(name).type) for name, parts in columns.items()}
        keys = [name for name in IMAGE_SUMS.names if name not in SUMS]
        pooled = pa.table(chunks).group_by(keys).aggregate([(name, "sum") for name in SUMS])
        renamed = pooled.rename_columns([name.removesuffix("_sum") for name in pooled.column_names])
        return renamed.select(IMAGE_SUMS.names).cast(IMAGE_SUMS).sort_by([(key, "ascending") for key in keys])

    def _describe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return dataset, kind and image key of every row of the selection."""
        selected, indices = self._selection.rows, self._selection.images()
        datasets, kinds, images = (np.empty(len(selected), dtype=object) for _ in range(3))
        seen = seen_in_training([source.dataset for source in self._selection.sources], self._training)
        for number, source in enumerate(self._selection.sources):
            mine = selected.source == number
            keys = np.array(image_keys(source.dataset).to_pylist(), dtype=object)
            datasets[mine] = source.dataset.name
            images[mine] = keys[indices[mine]]
            kinds[mine] = np.where(seen[number][indices[mine]], HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS)
        return datasets, kinds, images
