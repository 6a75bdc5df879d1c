"""Mean parameters of a head from scratch: SPIN's file is read in the order that this head reads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eval.heads.body import rotations
from eval.heads.hph.mean_parameters import from_spin, standing
from eval.heads.hph.sizes import HeadSizes
from store.errors import InvalidInput

SIZES = HeadSizes(embed_dim=8, img_size=28)


def test_rotations_of_spin_are_read_as_they_were_meant(tmp_path: Path) -> None:
    meant = rotations.from_vector(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)))
    pose = meant[:, :, :2].reshape(144).numpy()  # rows of the first two columns
    np.savez(tmp_path / "means.npz", pose=pose, shape=np.arange(10.0), cam=np.array([0.9, 0, 0]))
    buffers = from_spin(tmp_path / "means.npz", SIZES)
    found = rotations.from_6d(buffers["init_body_pose"].reshape(53, 6))
    torch.testing.assert_close(found[:24], meant, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[24:], torch.eye(3).expand(29, 3, 3))
    assert buffers["init_betas"].tolist() == [list(range(10))]
    assert buffers["init_betas_kid"].tolist() == [[*range(10), 0]]
    assert buffers["init_cam"][0, 0] == pytest.approx(0.9)
    assert {name: tensor.shape for name, tensor in buffers.items()} == {
        name: tensor.shape for name, tensor in standing(SIZES).items()
    }


def test_another_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "means.npz", pose=np.zeros(72), shape=np.zeros(10), cam=np.zeros(3))
    with pytest.raises(InvalidInput, match="expected numbers of pose 144, found 72"):
        from_spin(tmp_path / "means.npz", SIZES)
