"""A small student of one teacher under accelerate: accelerate launch examples/with_accelerate.py demo/cache."""

import timm
import torch
import tyro
from accelerate import Accelerator
from torch.nn.functional import smooth_l1_loss
from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, CacheDataset


def main(cache: tyro.conf.Positional[str], steps: int = 100, batch_size: int = 32, workers: int = 2) -> None:
    """Train a student for some steps."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    name, teacher = next(iter(CacheDataset(cache).teachers.items()))
    data = CacheDataset(cache, teachers=[name])
    targets = data.targets()
    sizes = {"img_size": data.image_size, "patch_size": data.image_size // teacher.patch_grid[0]}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", class_token=False, **sizes)
    student = torch.nn.Sequential(vit, torch.nn.Linear(vit.num_features, teacher.channels))
    # The sampler itself knows the ranks, so accelerate leaves the loader alone and `to` moves the batches.
    sampler = BalancedBatchSampler(data, batch_size, steps=steps)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)
    student, optimizer = accelerator.prepare(student, torch.optim.AdamW(student.parameters(), lr=5e-4))
    for batch in loader:
        batch = batch.to(accelerator.device)
        target = targets(batch)[name]
        loss = smooth_l1_loss(student(batch.images)[target.mask], target.patches[target.mask])
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        accelerator.print(f"step {batch.step} loss {loss.item():.4f}")


if __name__ == "__main__":
    tyro.cli(main)
