"""Random checkpoints of the released models' full size, in the released layout, load and run."""

from pathlib import Path

import pytest
import torch

from extract.teachers.loading import load
from tests.extract.teachers.builders import full_size_state, released

FILES = {
    "dinov2": ("dinov2_vitl14_reg4_pretrain.pth", 343, 1),
    "mast3r": ("MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric", 292, 0),
    "multihmr": ("multiHMR_672_L.pt.backbone", 342, 0),
}


@pytest.mark.parametrize("model", FILES)
def test_full_size(tmp_path: Path, model: str) -> None:
    name, tensors, prefix_tokens = FILES[model]
    path = tmp_path / "full.pth"
    torch.save(released(model, full_size_state(name)), path)
    teacher = load(model, weights=path)

    assert teacher.channels == 1024
    assert len(teacher.network.state_dict()) == tensors
    assert (teacher.architecture["depth"], teacher.architecture["num_heads"]) == (24, 16)
    prefix, patches = teacher(torch.randint(0, 256, (1, 42, 28, 3), dtype=torch.uint8))
    assert prefix.shape == (1, prefix_tokens, 1024)
    assert patches.shape == (1, 6, 1024)
    assert bool(patches.isfinite().all())
