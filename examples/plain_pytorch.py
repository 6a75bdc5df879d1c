"""A ViT learns from every teacher of a cache in a plain PyTorch loop: python examples/plain_pytorch.py demo/cache."""

import timm
import torch
import tyro
from torch import nn
from torch.nn.functional import smooth_l1_loss
from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, CacheDataset


def main(cache: tyro.conf.Positional[str], steps: int = 100, batch_size: int = 32, workers: int = 2) -> None:
    """Train a student for some steps."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = CacheDataset(cache)
    sampler = BalancedBatchSampler(data, batch_size, steps=steps)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)
    targets = data.targets()  # decodes codes and standardises, on the device of the batch
    sizes = {"img_size": data.image_size, "patch_size": data.image_size // data.patch_grid[0]}
    student = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", class_token=False, **sizes)
    heads = nn.ModuleDict({name: nn.Linear(student.num_features, t.channels) for name, t in data.teachers.items()})
    model = nn.ModuleDict({"student": student, "heads": heads}).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for batch in loader:
        batch = batch.to(device)
        tokens = student(batch.images)  # (B, N, width)
        losses = [smooth_l1_loss(heads[n](tokens)[t.mask], t.patches[t.mask]) for n, t in targets(batch).items()]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {batch.step} loss {loss.item():.4f}")


if __name__ == "__main__":
    tyro.cli(main)
