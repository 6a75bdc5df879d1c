"""The student of plain_pytorch.py under Lightning: python examples/with_lightning.py demo/cache."""

import pytorch_lightning as lightning
import timm
import torch
import tyro
from torch.nn.functional import smooth_l1_loss

from codistill.torch import BalancedBatchSampler, Batch, CacheDataset


class Student(lightning.LightningModule):
    def __init__(self, data: CacheDataset) -> None:
        super().__init__()
        sizes = {"img_size": data.image_size, "patch_size": data.image_size // data.patch_grid[0]}
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", class_token=False, **sizes)
        heads = {name: torch.nn.Linear(self.vit.num_features, t.channels) for name, t in data.teachers.items()}
        self.heads, self.targets = torch.nn.ModuleDict(heads), data.targets()

    def training_step(self, batch: Batch) -> torch.Tensor:
        tokens, targets = self.vit(batch.images), self.targets(batch)  # Lightning has moved the batch
        losses = [smooth_l1_loss(self.heads[n](tokens)[t.mask], t.patches[t.mask]) for n, t in targets.items()]
        print(f"step {batch.step} loss {sum(losses).item() / len(losses):.4f}")
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


def main(cache: tyro.conf.Positional[str], steps: int = 100, batch_size: int = 32, workers: int = 2) -> None:
    lightning.seed_everything(0, verbose=False)
    data = CacheDataset(cache)
    sampler = BalancedBatchSampler(data, batch_size, steps=steps)  # asks torch.distributed which part is this rank's
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=workers)
    lightning.Trainer(max_steps=steps, use_distributed_sampler=False, logger=False).fit(Student(data), loader)


if __name__ == "__main__":
    tyro.cli(main)
