"""Caches for the training loops of other people: a map-style dataset, samplers and targets for a plain DataLoader.

from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, CacheDataset

data = CacheDataset("demo/cache")
sampler = BalancedBatchSampler(data, batch_size=64, steps=1000)
targets = data.targets()
for batch in DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=2):
    batch = batch.to("cpu")
    batch.images, targets(batch)["lite0"].patches  # float32 (B, 3, H, W) and (B, N, C)
"""

from store.common.extras import missing_extra
from store.errors import MissingExtra

try:
    import torch as _torch  # noqa: F401  # an absolute import: this package is `codistill.torch`
except ModuleNotFoundError as error:
    raise MissingExtra(missing_extra("torch", program="train")) from error

from backbones.images import normalise
from codistill.torch.batch import Batch
from codistill.torch.dataset import CacheDataset
from codistill.torch.samplers import BalancedBatchSampler, ShuffledBatchSampler
from codistill.torch.targets import Target, Targets

__all__ = [
    "BalancedBatchSampler",
    "Batch",
    "CacheDataset",
    "ShuffledBatchSampler",
    "Target",
    "Targets",
    "normalise",
]
