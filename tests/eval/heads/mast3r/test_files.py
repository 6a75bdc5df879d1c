"""Released layouts: read strictly and without running anything, written, and a student's head begun from MASt3R."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones import weight_files
from eval.heads import mast3r
from eval.heads.mast3r import constructor
from eval.heads.mast3r.layout import to_released
from eval.heads.mast3r.model import PairModel
from store.errors import InvalidInput, MissingFile, UnsafeFile
from tests.eval.heads.mast3r.goldens import PAIR, PAIR_HEADS, TINY, images, read, tiny_pair, tiny_student
from train.run.load import load as load_run

SHARED = "downstream_head1.dpt.scratch.layer{}_rn.weight"
DUPLICATE = "downstream_head1.dpt.scratch.layer_rn.{}.weight"


def same(one: PairModel, two: PairModel, patch: int) -> bool:
    views = images(1, 2 * patch, 3 * patch), images(1, 3 * patch, 2 * patch, seed=1)
    outputs = [[part for half in model(*views) for part in half.values()] for model in (one, two)]
    return all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def changed(tmp_path: Path, state: dict[str, Tensor], **changes: Tensor | None) -> Path:
    """Write a state dict with tensors replaced, or left out where None is given."""
    new = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
    save_file({name: tensor.clone() for name, tensor in new.items()}, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


def test_mast3r_saved_and_loaded(tmp_path: Path) -> None:
    pair = mast3r.load(PAIR, **PAIR_HEADS, conf_mode=("exp", 2.0, 9.0))
    mast3r.save(tmp_path / "a.pth", pair)
    content = weight_files.load(tmp_path / "a.pth")
    assert content["model"].keys() == {*read("mast3r_pair"), *(n for head in "12" for n in doubled(head))}
    assert torch.equal(content["model"]["mask_token"], read("mast3r_pair")["mask_token"])
    loaded = mast3r.load(tmp_path / "a.pth")  # heads and modes are in the constructor
    assert loaded.activations == pair.activations
    assert same(pair, loaded, 16)


def doubled(head: str) -> list[str]:
    return [DUPLICATE.format(number).replace("head1", f"head{head}") for number in range(4)]


def test_dunes_variant_saved_and_loaded(tmp_path: Path) -> None:
    pair = tiny_pair()
    mast3r.save(tmp_path / "a.pth", pair, backbone_name="my_student")
    content = weight_files.load(tmp_path / "a.pth")
    assert set(content) == {"model", "dune_backbone_name", "mast3r_model_str"}
    assert not any(name.startswith(("encoder.", "dune_backbone.")) for name in content["model"])
    with pytest.raises(InvalidInput, match=r"my_student.*encoder="):
        mast3r.load(tmp_path / "a.pth")
    with pytest.raises(InvalidInput, match="expected an encoder of 16 channels and patch size 14, found 24"):
        mast3r.load(tmp_path / "a.pth", encoder=tiny_student(24))
    assert same(pair, mast3r.load(tmp_path / "a.pth", encoder=pair.encoder.network), 14)


def test_one_file_with_its_student(tmp_path: Path) -> None:
    pair = tiny_pair()
    student = pair.encoder.network.state_dict()
    named = {f"dune_backbone.{name.replace('reg_token', 'register_tokens')}": t for name, t in student.items()}
    path = changed(tmp_path, to_released(pair) | named | {"imagenet_mean": torch.zeros(3)})
    assert same(pair, mast3r.load(path, enc_num_heads=2, dec_num_heads=2), 14)
    with pytest.raises(InvalidInput, match=r"16 channels are no multiple of 64. Pass num_heads"):
        mast3r.load(path, dec_num_heads=2)


def test_loading_is_strict(tmp_path: Path) -> None:
    state = read("mast3r_pair")
    shared = SHARED.format(2)
    for changes, expected in (
        ({"dec_norm.bias": None}, "1 missing .dec_norm.bias"),
        ({"more.weight": torch.zeros(2)}, "1 unexpected .more.weight"),
        ({"decoder_embed.bias": torch.zeros(3)}, "decoder_embed.bias expected 24, found 3"),
        ({"dec_blocks2.0.norm1.bias": None}, "1 missing .dec_blocks2.0.norm1.bias"),
        ({DUPLICATE.format(1): torch.zeros_like(state[shared])}, "one tensor, found different values"),
        ({"dec_blocks.999999999.norm1.bias": torch.zeros(24)}, "expected dec_blocks.0 to dec_blocks.4"),
        ({"enc_blocks.7.norm1.bias": torch.zeros(64)}, "expected enc_blocks.0 to enc_blocks.2"),
        ({"decoder_embed.weight": torch.zeros(24)}, "decoder_embed.weight of another kind"),
        ({"decoder_embed.weight": None}, "expected a MASt3R decoder with heads, found no decoder_embed.weight"),
    ):
        with pytest.raises(InvalidInput, match=expected):
            mast3r.load(changed(tmp_path, state, **changes), **PAIR_HEADS)
    renamed = changed(tmp_path, state, **{shared: None, DUPLICATE.format(1): state[shared]})
    assert same(mast3r.load(renamed, **PAIR_HEADS), mast3r.load(PAIR, **PAIR_HEADS), 16)


def test_an_absent_second_stream_is_a_copy_in_files_of_mast3r_only(tmp_path: Path) -> None:
    state = read("mast3r_pair")
    absent: dict[str, Any] = {name: None for name in state if name.startswith("dec_blocks2.")}
    pair = mast3r.load(changed(tmp_path, state, **absent), **PAIR_HEADS)
    assert torch.equal(pair.mast3r.dec_blocks2[1].attn.qkv.weight, state["dec_blocks.1.attn.qkv.weight"])
    pair = tiny_pair()
    released = to_released(pair)
    absent = {name: None for name in released if "dec_blocks2." in name}
    with pytest.raises(InvalidInput, match="missing"):
        mast3r.load(changed(tmp_path, released, **absent), encoder=pair.encoder.network, dec_num_heads=2)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"dec_num_head": 2}, "unknown size 'dec_num_head'.*did you mean 'dec_num_heads'"),
        ({"dec_num_heads": 0}, "expected a positive integer"),
        ({"dec_num_heads": 5}, "24 channels, 5 heads"),
        ({}, "Pass dec_num_heads"),
        ({**PAIR_HEADS, "dec_depth": 12, "desc_dim": 24}, "dec_depth 12, its weights have 4; desc_dim 24"),
        ({**PAIR_HEADS, "conf_mode": ("cubic", 0, 1)}, "conf_mode"),
        ({**PAIR_HEADS, "device": "cuda:77"}, "device cuda:77 cannot be used"),
        ({**PAIR_HEADS, "encoder": "x"}, "it has its own encoder"),
    ],
)
def test_sizes_that_cannot_be(sizes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected):
        mast3r.load(PAIR, **sizes)


def test_constructors_are_read_not_run(tmp_path: Path) -> None:
    text = "AsymmetricMASt3R(conf_mode=('exp', 1, inf), depth_mode=('exp', -inf, float('inf')), landscape_only=False)"
    read_back = constructor.parse(text, source="f")
    assert read_back["conf_mode"] == ("exp", 1, float("inf"))
    assert read_back["depth_mode"] == ("exp", float("-inf"), float("inf"))
    assert constructor.parse(constructor.write(read_back), source="f") == read_back
    mark = tmp_path / "mark"
    for hostile in (
        f"AsymmetricMASt3R(a=open({str(mark)!r}, 'w'))",
        f"AsymmetricMASt3R(a=__import__('os').mkdir({str(mark)!r}))",
        f"[open({str(mark)!r}, 'w') for _ in 'a']",
        "AsymmetricMASt3R(**{'a': 1})",
        "AsymmetricMASt3R(a={[]})",
        "AsymmetricMASt3R(a=" + "(" * 5000 + ")" * 5000 + ")",
        "Other()",
        "AsymmetricMASt3R(pos_embed='cosine')",
    ):
        torch.save({"model": read("mast3r_pair"), "args": argparse.Namespace(model=hostile)}, tmp_path / "hostile.pth")
        with pytest.raises(InvalidInput, match=r"hostile\.pth"):
            mast3r.load(tmp_path / "hostile.pth", **PAIR_HEADS)
    assert not mark.exists()


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("print('run')",)


def test_pickles_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {}, "args": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UnsafeFile):
        mast3r.load(tmp_path / "trap.pth")
    assert "run" not in capsys.readouterr().out


def test_a_students_head_begins_with_what_fits() -> None:
    state = read("mast3r_pair")
    begun = mast3r.from_mast3r(PAIR, tiny_student(32), dec_num_heads=2, enc_num_heads=2)
    head = "mast3r.downstream_head{}."
    of_heads = ("dpt.act_postprocess.0.0.weight", *(f"head_local_features.fc{n}.{w}" for n in "12" for w in wb()))
    assert set(begun.fresh) == {
        *("norm.weight", "norm.bias", "mast3r.decoder_embed.weight"),
        *(head.format(number) + name for number in "12" for name in of_heads),
    }
    own = begun.model.state_dict()
    copied = [name for name in own if name.startswith("mast3r.") and name not in begun.fresh and "layer_rn" not in name]
    assert len(copied) > 300
    assert all(torch.equal(own[name], state[name.removeprefix("mast3r.")]) for name in copied)
    assert own["mast3r.downstream_head1.head_local_features.fc2.weight"].shape == ((3 + 1) * 14 * 14, 56)
    again = mast3r.from_mast3r(PAIR, tiny_student(32), dec_num_heads=2, enc_num_heads=2)
    assert torch.equal(own["mast3r.decoder_embed.weight"], again.model.mast3r.decoder_embed.weight)
    begun.model(images(1, 28, 42), images(1, 28, 28))


def test_students_come_from_runs_and_files(run_directory: Path, tmp_path: Path) -> None:
    student = load_run(run_directory).distiller.encoder
    sizes = replace(TINY, enc_embed_dim=student.embed_dim)
    pair = mast3r.from_scratch(run_directory, sizes).eval()
    mast3r.save(tmp_path / "a.pth", pair)
    named = {f"encoder.{name.replace('reg_token', 'register_tokens')}": t for name, t in student.state_dict().items()}
    torch.save({"model": named}, tmp_path / "student.pth")
    for encoder in (run_directory, tmp_path / "student.pth"):
        loaded = mast3r.load(tmp_path / "a.pth", encoder=encoder, enc_num_heads=student.num_heads)
        assert same(pair, loaded, 14)
    with pytest.raises(MissingFile, match="expected a run or a file"):
        mast3r.load(tmp_path / "a.pth", encoder=tmp_path / "b.pth")


def wb() -> tuple[str, str]:
    return "weight", "bias"
