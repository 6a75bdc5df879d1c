"""Features of augmented training crops of a dense dataset, extracted once.

A crop is a pure function of (crop seed, image, view).
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from eval.encoders.open_encoder import OpenEncoder, Tokens
from eval.probes.datasets import Dense, identity
from eval.probes.feature_store import Features, FeatureStore
from eval.probes.settings import DepthSettings, SegmentationSettings

SampleCrop = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
ToArrays = Callable[[Tokens, np.ndarray], dict[str, np.ndarray]]


def crop_features(
    encoder: OpenEncoder,
    dataset: Dense,
    *,
    kind: str,
    sample_crop: SampleCrop,
    to_arrays: ToArrays,
    feature_store: FeatureStore,
    settings: SegmentationSettings | DepthSettings,
    shard_items: int,
) -> Features:
    """Extract the features of `settings.views` crops of every image, unless they are stored.

    Args:
        encoder: encoder of the crops.
        dataset: training images.
        kind: name of the probe in the key of the features.
        sample_crop: function of the number of an image and a random generator that returns uint8 (h, w, 3) pixels and
            the label image (h, w).
        to_arrays: function of the tokens and label images of some crops that returns the arrays to store.
        feature_store: store of the features.
        settings: sizes, number and seed of the crops.
        shard_items: crops in a shard.
    """

    def sample(item: int) -> tuple[np.ndarray, np.ndarray]:
        number, view = divmod(item, settings.views)
        return sample_crop(number, np.random.default_rng([settings.crop_seed, number, view]))

    def compute(items: range) -> dict[str, np.ndarray]:
        images, labels = zip(*map(sample, items), strict=True)
        return to_arrays(encoder(np.stack(images)), np.stack(labels))

    crops = {"crops": asdict(settings.crops), "views": settings.views, "seed": settings.crop_seed}
    return feature_store.filled(
        compute,
        encoder=encoder.name,
        part="train",
        key={"encoder": encoder.identity, "dataset": identity(dataset), kind: crops},
        items=len(dataset.images) * settings.views,
        shard_items=shard_items,
    )
