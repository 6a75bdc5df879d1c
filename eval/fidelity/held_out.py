"""Tell held-out views of photographs that were trained on from held-out photographs that training never saw.

The image lists of the cache decide, never the names of datasets.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.cache.dataset import Dataset
from store.errors import InvalidInput
from train.data.mixture import Mixture


def refuse_without_rows(run: str, mixture: Mixture) -> None:
    """Refuse to measure fidelity where no row is held out.

    Args:
        run: name of the run, for the message.
        mixture: rows that it was trained on, and those held out.

    Raises:
        InvalidInput: saying what is missing, and what to do.
    """
    for sentence in notes(run, mixture):
        raise InvalidInput(sentence)


def notes(run: str, mixture: Mixture) -> list[str]:
    """Return a sentence about a run that has no held-out row to be scored on; none if it has."""
    if any(len(source.rows) for source in mixture.held_out):
        return []
    where = ", ".join(f"'{cache.location}'" for cache in mixture.caches)
    used = ", ".join(f"'{source.dataset.name}'" for source in mixture.held_out)
    found = f"no usable row of {used} in {where}" if used else f"no dataset of split 'val' that it used in {where}"
    return [
        f"run '{run}' has no held-out rows to be scored on: expected some with {', '.join(mixture.teachers)}, "
        f"found {found}. Pass a cache of these teachers that has held-out rows too with --cache, or extract a dataset "
        'with split = "val" and train anew'
    ]


def image_keys(dataset: Dataset) -> pa.ChunkedArray:
    """Return a key of every image of a dataset, in image order; datasets over the same files give the same keys.

    The cache does not record where a dataset's folder was, so a key is the path below that folder together with the
    size in bytes: the path alone would confuse `train/0001.png` with `val/0001.png`.
    """
    return _keys(dataset.image_list())


def seen_in_training(held_out: Sequence[Dataset], training: Sequence[Dataset]) -> list[np.ndarray]:
    """Find the images of each held-out dataset that are also images of a training dataset: bool (images,) for each.

    Lists of training images, which may be tens of millions long, are read once each and searched by size first.

    Args:
        held_out: held-out datasets.
        training: datasets that were trained on.
    """
    lists = [dataset.image_list() for dataset in held_out]
    keys = [image_keys(dataset) for dataset in held_out]
    seen = [np.zeros(dataset.images, dtype=np.bool_) for dataset in held_out]
    for other in training:
        trained = other.image_list()
        trained_keys = None
        for number, dataset in enumerate(held_out):
            if other.image_list_sha256 == dataset.image_list_sha256:
                seen[number][:] = True
            elif not seen[number].all():
                candidates = pc.is_in(trained["bytes"], value_set=lists[number]["bytes"])
                if pc.any(candidates).as_py():
                    trained_keys = _keys(trained) if trained_keys is None else trained_keys
                    known = pc.is_in(keys[number], value_set=trained_keys.filter(candidates))
                    seen[number] |= known.to_numpy()
    return seen


def _keys(images: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(images["path"], pc.cast(images["bytes"], pa.string()), "#")
