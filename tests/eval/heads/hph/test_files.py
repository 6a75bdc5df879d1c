"""Files of the human perception head: the released layout, strictly, and nothing unpickled."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from eval.heads import hph
from eval.heads.hph import files
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.sizes import HeadSizes
from store.errors import InvalidConfig, InvalidInput, UnsafeFile
from tests.eval.heads.hph import golden


def released(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    checkpoint = {"epoch": 3, "iter": 17, "model_state_dict": dict(tensors), "args": Namespace(img_size=112)}
    torch.save(checkpoint, path)
    return path


def test_a_released_file_is_read_without_backbone_and_body_model(tmp_path: Path) -> None:
    tensors = load_file(golden.WEIGHTS)
    others = {"backbone.encoder.norm.weight": torch.ones(2), "smpl_layer.bm_x.v_template": torch.ones(4, 3)}
    head = hph.load(released(tmp_path / "multiHMR.pt", {**tensors, **others}), img_size=112, heads=3)
    assert head.sizes == HeadSizes(**golden.SIZES, block_heads=12)
    assert set(head.state_dict()) == set(tensors)
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert files.tokens_read(tmp_path / "multiHMR.pt") == "patches"


def test_what_is_saved_is_loaded_with_its_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = files.build(HeadSizes(embed_dim=24, img_size=56, dim=32, heads=1, mlp_dim=8, blocks=2, block_heads=3))
    for name, scale in head.named_parameters():
        if name.endswith("gamma"):
            scale.data.fill_(1)
    files.save(tmp_path / "head.pt", head.eval(), iteration=5, args={"lr": 4e-5})
    again = hph.load(tmp_path / "head.pt")
    tokens, intrinsics = torch.randn(1, 5 + 16, 24), torch.tensor([[60.0, 0, 28], [0, 60, 28], [0, 0, 1]])
    cells = torch.tensor([[0, 1, 2], [0, 3, 0]])
    with torch.no_grad():
        first, second = (one(tokens, intrinsics, cells=cells) for one in (head, again))
        patches_alone = head(tokens[:, 5:], intrinsics, cells=cells)
    assert torch.equal(first.rotmat, second.rotmat)
    assert not torch.allclose(first.shape, patches_alone.shape)
    content = torch.load(tmp_path / "head.pt", weights_only=False)
    assert list(content) == ["epoch", "iter", "model_state_dict", "args"]
    assert (content["iter"], content["args"].lr) == (5, 4e-5)


@pytest.mark.parametrize(
    ("remove", "add", "sizes", "message"),
    [
        ("mlp_offset.2.bias", {}, {"heads": 3}, r"1 missing \(mlp_offset.2.bias\)"),
        ("", {"neck.weight": torch.ones(1)}, {"heads": 3}, r"1 unexpected \(neck.weight\)"),
        ("mlp_classif.0.weight", {}, {"heads": 3}, "'mlp_classif.0.weight' is missing"),
        ("", {"encoder.backbone.norm.weight": torch.ones(1)}, {"heads": 3}, "head for the Anny body model"),
        ("", {}, {}, "attention of width 24, found 0 heads of 32"),
        ("", {}, {"heads": 3, "img_size": 672}, "img_size is 672, the tensors have 112"),
        ("", {}, {"num_heads": 3}, "num_heads: unknown size"),
    ],
)
def test_other_files_and_sizes_are_refused(
    tmp_path: Path, remove: str, add: dict[str, Tensor], sizes: dict[str, int], message: str
) -> None:
    tensors = {name: tensor for name, tensor in load_file(golden.WEIGHTS).items() if name != remove}
    with pytest.raises(InvalidInput, match=message):
        hph.load(released(tmp_path / "head.pt", {**tensors, **add}), **sizes)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {}, "args": Path}, tmp_path / "head.pt")
    with pytest.raises(UnsafeFile):
        hph.load(tmp_path / "head.pt")


def test_sizes_that_do_not_fit_are_listed_together() -> None:
    with pytest.raises(InvalidConfig, match=r"2 problems. depth: .* found 0. heads: .* found -1"):
        HeadSizes(embed_dim=32, img_size=112, depth=0, heads=-1)
    with pytest.raises(InvalidConfig, match="a multiple of 14 px, found 100"):
        HeadSizes(embed_dim=32, img_size=100)


def test_eleven_shape_numbers_take_the_means_with_a_zero() -> None:
    head = files.build(HeadSizes(embed_dim=8, img_size=28, num_betas=11, dim=32, heads=1), meta=True)
    assert isinstance(head, PerceptionHead)
    assert head.x_attention_head.mean_shape == "init_betas_kid"
    assert head.x_attention_head.get_buffer("init_betas").shape == (1, 10)


def test_a_head_without_expression_is_saved_and_loaded(tmp_path: Path) -> None:
    sizes = HeadSizes(embed_dim=8, img_size=28, num_betas=6, rotations=4, expressions=0, dim=32, heads=1, mlp_dim=8)
    files.save(tmp_path / "head.pt", files.build(sizes))
    head = hph.load(tmp_path / "head.pt")
    with torch.no_grad():
        people = head(torch.randn(1, 4, 8), torch.eye(3) * 30, cells=torch.tensor([[0, 1, 0]]))
    assert head.sizes == sizes
    assert (people.expression.shape, people.shape.shape, people.rotmat.shape) == ((1, 0), (1, 6), (1, 4, 3, 3))
