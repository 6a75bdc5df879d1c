"""Fidelity: distances between the projected student and the targets on held-out rows."""

import numpy as np
import torch

from backbones.images import normalise
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, select_evenly
from train.distributed import Ranks
from train.model.distiller import Distiller
from train.objective.batch_losses import BatchLosses
from train.objective.targets import TargetNorms
from train.recipe.config import Recipe
from train.run import headline
from train.step import arithmetic, term_names

BATCH = 32  # images

Fidelity = dict[str, dict[str, dict[str, float]]]  # dataset -> teacher -> measure -> value
Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Sums = dict[tuple[str, str], Float64]  # (dataset, teacher) -> images, loss, terms; of codes corrected loss and floors


def measure(*, recipe: Recipe, mixture: Mixture, distiller: Distiller, norms: TargetNorms, ranks: Ranks) -> Fidelity:
    """Measure the student on every held-out dataset, with the stored statistics and without dropping.

    Measures against decoded targets are apart from those against true ones, under the name of the dataset followed by
    `headline.DECODED`: the noise of the code lowers them all.

    Args:
        recipe: gives `data.val_rows`, the loss weights, the precision and the use of the machine.
        mixture: gives the held-out rows; datasets of one name in several caches are measured together.
        distiller: student and projectors on the rank's device; their training mode is restored.
        norms: statistics of the targets.
        ranks: processes that share the work.

    Returns:
        dataset -> teacher -> "images"; "loss"; "cosine" (similarity) and "smooth_l1" of patch tokens, means over
        images; and the distances of each token type, such as "patch_cosine_loss". Of decoded targets also
        "corrected_loss", an estimate of the loss against the true tokens, and the floors "patch_cosine_floor" and
        "patch_smooth_l1_floor", which are the measures of the true tokens themselves.
    """
    losses = BatchLosses(sources=mixture.held_out, teachers=mixture.teachers, norms=norms, weights=recipe.loss)
    terms = term_names(distiller)
    sums: Sums = {}
    was_training = distiller.training
    distiller.eval()
    for number, source in enumerate(mixture.held_out):
        floors = {name: source.dataset.distortion(name).floors("patch") for name in source.codes(source.reads)}
        of_source = {name: np.zeros(2 + len(terms[name]) + 3 * (name in floors)) for name in source.reads}
        with _loader(recipe, mixture, number, ranks) as loader:
            for batch in loader:
                for name, values in _losses(batch, losses, recipe=recipe, distiller=distiller).items():
                    of_floor = values[0] * np.array(floors.get(name, ()))
                    of_source[name] += np.concatenate([values, of_floor])
        for name, values in of_source.items():
            dataset = source.dataset.name + (headline.DECODED if name in floors else "")
            sums[dataset, name] = sums.get((dataset, name), 0) + values
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
        raw=True,
    )


@torch.no_grad()
def _losses(batch: Batch, losses: BatchLosses, *, recipe: Recipe, distiller: Distiller) -> dict[str, Float64]:
    """Return sums over the images of a batch, by teacher: number of images, loss, terms, and the loss corrected."""
    with arithmetic(recipe, batch.pixels):
        predicted = distiller(normalise(batch.pixels))
    result = {}
    for name, teacher in losses.of(predicted, batch).items():
        columns = [torch.ones_like(teacher.per_image), teacher.per_image, *teacher.terms.values()]
        columns += [] if teacher.corrected is None else [teacher.corrected]
        result[name] = torch.stack(columns).double().sum(dim=1).cpu().numpy()
    return result


def _means(total: Float64, terms: list[str]) -> dict[str, float]:
    names = ["loss", *terms, "corrected_loss", "patch_cosine_floor", "patch_smooth_l1_floor"]
    images, *rest = (float(value) for value in total)
    means = {name: value / images for name, value in zip(names, rest, strict=False)}
    measures = {"cosine": headline.patch_cosine(means), "smooth_l1": means["patch_smooth_l1"]}
    return {"images": images, "loss": means.pop("loss"), **measures, **means}
