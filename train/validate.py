"""Fidelity: distances between the projected student and the targets on held-out rows."""

from typing import Any

import numpy as np
import torch

from backbones.images import normalise
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, select_evenly
from train.distributed import Ranks
from train.model.distiller import Distiller
from train.objective.losses import teacher_loss
from train.objective.targets import TargetNorms
from train.recipe.config import Recipe
from train.run import headline
from train.step import arithmetic, term_names

BATCH = 32  # images

Fidelity = dict[str, dict[str, dict[str, float]]]  # dataset -> teacher -> measure -> value
Sums = dict[tuple[str, str], "np.ndarray[Any, np.dtype[np.float64]]"]  # (dataset, teacher) -> images, loss, terms


def measure(*, recipe: Recipe, mixture: Mixture, distiller: Distiller, norms: TargetNorms, ranks: Ranks) -> Fidelity:
    """Measure the student on every held-out dataset, with the stored statistics and without dropping.

    Args:
        recipe: gives `data.val_rows`, the loss weights, the precision and the use of the machine.
        mixture: gives the held-out rows; datasets of one name in several caches are measured together.
        distiller: student and projectors on the rank's device; their training mode is restored.
        norms: statistics of the targets.
        ranks: processes that share the work.

    Returns:
        dataset -> teacher -> "images"; "loss"; "cosine" (similarity) and "smooth_l1" of patch tokens, means over
        images; and the distances of each token type, such as "patch_cosine_loss".
    """
    terms = term_names(distiller)
    sums: Sums = {
        (source.dataset.name, name): np.zeros(2 + len(terms[name]))
        for source in mixture.held_out
        for name in source.reads
    }
    was_training = distiller.training
    distiller.eval()
    for number, source in enumerate(mixture.held_out):
        with _loader(recipe, mixture, number, ranks) as loader:
            for batch in loader:
                by_teacher = _losses(batch, recipe=recipe, distiller=distiller, norms=norms)
                for name, values in by_teacher.items():
                    sums[source.dataset.name, name] += values
    distiller.train(was_training)
    result: Fidelity = {}
    for (dataset, name), of_rank in sorted(sums.items()):
        total = ranks.total(torch.from_numpy(of_rank)).numpy()
        if total[0]:
            result.setdefault(dataset, {})[name] = _means(total, terms[name])
    return result


def _loader(recipe: Recipe, mixture: Mixture, number: int, ranks: Ranks) -> Loader:
    source = mixture.held_out[number]
    rows = select_evenly(source, number=number, rows=recipe.data.val_rows)
    return Loader(
        sources=mixture.held_out,
        teachers={name: mixture.teachers[name] for name in source.reads},
        image_size=mixture.image_size,
        plan=lambda part: rows[slice(part * BATCH, (part + 1) * BATCH)],
        steps=range(ranks.rank, -(-len(rows) // BATCH), ranks.world),
        batch=min(BATCH, len(rows)),
        device=ranks.device,
        readers=recipe.machine.readers,
        prefetch=1,
        verify=recipe.machine.verify,
    )


@torch.no_grad()
def _losses(
    batch: Batch, *, recipe: Recipe, distiller: Distiller, norms: TargetNorms
) -> "dict[str, np.ndarray[Any, np.dtype[np.float64]]]":
    """Return sums over the images of a batch, by teacher: number of images, loss, terms."""
    with arithmetic(recipe, batch.pixels):
        predicted = distiller(normalise(batch.pixels))
    result = {}
    for name, tokens in batch.tokens.items():
        teacher = teacher_loss(predicted[name], tokens, norm=norms.stored(name), weights=recipe.loss)
        columns = torch.stack([torch.ones_like(teacher.per_image), teacher.per_image, *teacher.terms.values()])
        result[name] = columns.double().sum(dim=1).cpu().numpy()
    return result


def _means(total: "np.ndarray[Any, np.dtype[np.float64]]", terms: list[str]) -> dict[str, float]:
    images, loss, *rest = (float(value) for value in total)
    by_term = {term: value / images for term, value in zip(terms, rest, strict=True)}
    return {
        "images": images,
        "loss": loss / images,
        "cosine": headline.patch_cosine(by_term),
        "smooth_l1": by_term["patch_smooth_l1"],
        **by_term,
    }
