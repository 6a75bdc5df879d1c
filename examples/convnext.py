"""A ConvNeXt learns from every teacher, on feature maps of its own grid: python examples/convnext.py demo/cache."""

import timm
import torch
import tyro
from torch import nn
from torch.nn.functional import interpolate, smooth_l1_loss
from torch.utils.data import DataLoader

from codistill.torch import BalancedBatchSampler, CacheDataset


def main(cache: tyro.conf.Positional[str], steps: int = 100, batch_size: int = 32, workers: int = 2) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = CacheDataset(cache)
    sampler = BalancedBatchSampler(data, batch_size, steps=steps)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)
    targets = data.targets()
    student = timm.create_model("convnext_atto", features_only=True, out_indices=(1,))  # a map of stride 8
    width = student.feature_info.channels()[0]
    heads = nn.ModuleDict({name: nn.Conv2d(width, t.channels, kernel_size=1) for name, t in data.teachers.items()})
    model = nn.ModuleDict({"student": student, "heads": heads}).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for batch in (batch.to(device) for batch in loader):
        (features,) = student(batch.images)  # (B, width, H / 8, W / 8)
        losses = []
        for name, t in targets(batch).items():
            predicted = heads[name](interpolate(features, t.grid, mode="bilinear", antialias=True))  # like t.map
            losses.append(smooth_l1_loss(predicted * t.mask_map, t.map))  # zeros where there is no target
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {batch.step} loss {loss.item():.4f}")


if __name__ == "__main__":
    tyro.cli(main)
