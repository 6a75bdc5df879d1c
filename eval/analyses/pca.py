"""PCA pictures (Fig. 2): patch tokens of held-out views as colours, for teachers, student and projections.

Each model has one basis over all views shown, so that equal colours mean equal tokens in all of its pictures. A
student's projection has the basis of its teacher: where it has learnt the teacher, the two look alike.
Shapes: K views, (rows, cols) of the patch grid, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from backbones.images import normalise
from eval.encoders.base import StudentEncoder
from eval.fidelity import rows
from eval.fidelity.held_out import image_keys, seen_in_training
from eval.fidelity.measure import Subject
from eval.fidelity.metrics import row_sums
from eval.fidelity.predictors import statistics
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, PATCH
from store.errors import InvalidInput
from store.inspection.token_images import pca_basis, pca_rgb
from train.data.mixture import Mixture, RowSelection, Source
from train.objective.targets import MIN_STD

PHOTOGRAPH, ENCODER = "photograph", "student encoder"
TEACHER, PROJECTION = "teacher ", "projection to "
CANDIDATES = 512
Value = TypeVar("Value")
COLUMNS = ("row", "image_index", "path", "view", "crop_height", "crop_width", "grayscale", "solarize", "blur_sigma")
PICTURES = pa.schema(
    [
        ("model", pa.string()),
        ("number", pa.int64()),
        ("caption", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("rgb", pa.binary()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A held-out row that may be shown."""

    source: int
    row: int
    caption: str
    image: str
    seen: bool
    colour_changes: int
    area_px: int


def choose(mixture: Mixture, *, count: int) -> tuple[rows.Selection, list[str]]:
    """Choose views of different held-out photographs: never seen ones first, then large crops in plain colours.

    The choice depends on the caches alone, so every run on them is shown on the same photographs: a photograph counts
    as seen if the caches have it for training, whether or not this run was trained on it. Datasets take turns; one
    that lacks the tokens of a teacher has nothing to compare and is left out.

    Args:
        mixture: rows of the caches.
        count: number of views, at most.

    Returns:
        The rows and a caption for each.
    """
    training = [dataset for cache in mixture.caches for dataset in cache if dataset.split == "train"]
    seen = seen_in_training([source.dataset for source in mixture.held_out], training)
    queues = [
        _candidates(number, source, seen[number])
        for number, source in enumerate(mixture.held_out)
        if set(source.reads) == set(mixture.teachers)
    ]
    ordered: list[Candidate] = []
    for seen_before in (False, True):
        turns = [[candidate for candidate in queue if candidate.seen == seen_before] for queue in queues]
        depth = max((len(turn) for turn in turns), default=0)
        ordered += [turn[position] for position in range(depth) for turn in turns if position < len(turn)]
    by_image = {candidate.image: candidate for candidate in reversed(ordered)}  # the first of each photograph stays
    chosen = [candidate for candidate in ordered if by_image[candidate.image] is candidate][:count]
    selected = RowSelection(
        source=np.array([candidate.source for candidate in chosen], dtype=np.int64),
        row=np.array([candidate.row for candidate in chosen], dtype=np.int64),
        slot=np.arange(len(chosen)),
    )
    return rows.Selection(sources=mixture.held_out, rows=selected), [candidate.caption for candidate in chosen]


def held_out_views(mixture: Mixture, *, count: int) -> tuple[rows.Selection, list[str]]:
    """Choose views as `choose` does, and refuse caches that hold none.

    Raises:
        InvalidInput: nothing is held out.
    """
    selection, captions = choose(mixture, count=count)
    if not captions:
        where = ", ".join(f"'{cache.location}'" for cache in mixture.caches)
        raise InvalidInput(
            f"nothing is held out in {where}: no usable row with split 'val' and the tokens of "
            f'{", ".join(mixture.teachers)}. Extract a dataset with split = "val"'
        )
    return selection, captions


def pictures(subject: Subject, *, device: torch.device, count: int = 6) -> tuple[dict[str, object], pa.Table]:
    """Compute pictures of photographs, teachers, the student's encoder (after its final norm) and its projections.

    Args:
        subject: the student to show; its modules are on `device`.
        device: device to compute on.
        count: number of views, at most.

    Returns:
        The models in order, a caption for each view, its dataset and row, and by projection the cosine on its patch
        tokens in standardised units (JSON); and the pictures with schema `PICTURES`.

    Raises:
        InvalidInput: nothing is held out.
    """
    selection, captions = held_out_views(subject.mixture, count=count)
    tokens, cosines = _tokens_of_views(subject, selection, device=device)
    images: dict[str, list[np.ndarray]] = {PHOTOGRAPH: tokens[PHOTOGRAPH]}
    for teacher in subject.student.teachers:
        basis = pca_basis(_flat(tokens[TEACHER + teacher]))
        images[TEACHER + teacher] = [pca_rgb(grid, basis) for grid in tokens[TEACHER + teacher]]
        images[PROJECTION + teacher] = [pca_rgb(grid, basis) for grid in tokens[PROJECTION + teacher]]
    basis = pca_basis(_flat(tokens[ENCODER]))
    images[ENCODER] = [pca_rgb(grid, basis) for grid in tokens[ENCODER]]
    names = list(subject.student.teachers)
    models = [PHOTOGRAPH, *(TEACHER + n for n in names), ENCODER, *(PROJECTION + n for n in names)]
    numbers = zip(selection.rows.source, selection.rows.row, strict=True)
    named_rows = [[selection.sources[source].dataset.name, int(row)] for source, row in numbers]
    facts: dict[str, object] = {"models": models, "captions": captions, "rows": named_rows, "cosines": cosines}
    return facts, _table(images, captions)


def images_of(table: pa.Table) -> dict[str, list[np.ndarray]]:
    """Return the pictures uint8 (H, W, 3) of each model, from a table with schema `PICTURES`."""
    images: dict[str, list[np.ndarray]] = {}
    for row in table.sort_by("number").to_pylist():
        pixels = np.frombuffer(row["rgb"], np.uint8).reshape(row["height"], row["width"], 3)
        images.setdefault(row["model"], []).append(pixels)
    return images


def _candidates(number: int, source: Source, seen: np.ndarray) -> list[Candidate]:
    """Find the best view of each photograph among some rows of a source, best first; `seen` bool (images,)."""
    positions = np.random.default_rng(0).permutation(len(source.rows))[:CANDIDATES].astype(np.int64)
    wanted = pa.array(source.rows_at(positions))
    table = source.dataset.manifest(columns=list(COLUMNS), filter=pc.field("row").isin(wanted))
    keys = image_keys(source.dataset)
    codes = source.codes(source.reads)
    decoded = f"; tokens of {', '.join(codes)} decoded" if codes else ""
    best: dict[int, Candidate] = {}
    for row in table.to_pylist():
        kind = HELD_OUT_VIEWS if seen[row["image_index"]] else HELD_OUT_PHOTOGRAPHS
        candidate = Candidate(
            source=number,
            row=row["row"],
            caption=f"{row['path']}, view {row['view']} ({kind.removesuffix('s')}{decoded})",
            image=keys[row["image_index"]].as_py(),
            seen=bool(seen[row["image_index"]]),
            colour_changes=bool(row["grayscale"]) + bool(row["solarize"]) + (row["blur_sigma"] is not None),
            area_px=(row["crop_height"] or 0) * (row["crop_width"] or 0),
        )
        before = best.get(row["image_index"])
        if before is None or _rank(candidate) < _rank(before):
            best[row["image_index"]] = candidate
    return sorted(best.values(), key=_rank)


def _rank(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.colour_changes, -candidate.area_px, candidate.row


def _tokens_of_views(
    subject: Subject, selection: rows.Selection, *, device: torch.device
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[float]]]:
    """Read and encode views.

    Returns:
        Model -> patch tokens (rows, cols, C) of each view, projections in the teacher's own units, and photographs;
        projection -> mean cosine over the patches of each view, in standardised units.
    """
    encoder = StudentEncoder(subject.student.encoder, cell_px=subject.student.cell_px, final_norm=True)
    grid = subject.mixture.patch_grid
    by_model: dict[str, dict[int, np.ndarray]] = {}
    cosines: dict[str, dict[int, float]] = {}
    with torch.inference_mode():
        for numbers, batch in rows.batches(selection, subject.mixture, device=device):
            tokens = {ENCODER: encoder(batch.pixels)[1]}
            predicted = subject.student(normalise(batch.pixels))
            for teacher, info in subject.student.teachers.items():
                norm = statistics(subject.norms, (teacher, PATCH))
                patches = batch.tokens[teacher][:, info.prefix_tokens :]
                tokens[TEACHER + teacher] = _whole(patches.float())
                sums = row_sums(predicted[teacher][1], norm.apply(patches))
                means = (sums["cosine"] / sums["tokens"]).tolist()
                cosines.setdefault(PROJECTION + teacher, {}).update(zip(numbers.tolist(), means, strict=True))
                tokens[PROJECTION + teacher] = predicted[teacher][1] * norm.std.clamp(min=MIN_STD) + norm.mean
            images = {model: values.float().cpu().numpy() for model, values in tokens.items()}
            images = {model: values.reshape(len(values), *grid, -1) for model, values in images.items()}
            for model, values in {PHOTOGRAPH: batch.pixels.cpu().numpy().copy(), **images}.items():
                by_model.setdefault(model, {}).update(zip(numbers.tolist(), values, strict=True))
    return _in_order(by_model), _in_order(cosines)


def _whole(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens (B, N, C) in which the patches that a code does not hold have the mean of their view's others."""
    return torch.where(tokens.isnan(), tokens.nanmean(dim=1, keepdim=True), tokens)


def _in_order(by_model: Mapping[str, Mapping[int, Value]]) -> dict[str, list[Value]]:
    """Sort the values of each model by number of the view: the loader reads rows in another order."""
    return {model: [by_number[number] for number in sorted(by_number)] for model, by_number in by_model.items()}


def _flat(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])


def _table(images: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str]) -> pa.Table:
    entries = [
        {
            "model": model,
            "number": number,
            "caption": captions[number],
            "height": picture.shape[0],
            "width": picture.shape[1],
            "rgb": picture.tobytes(),
        }
        for model, pictures in images.items()
        for number, picture in enumerate(pictures)
    ]
    return pa.Table.from_pylist(entries, schema=PICTURES)
