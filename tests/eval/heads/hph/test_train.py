"""Training of the perception head: it learns, resumes exactly, and refuses what does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.vit import DinoVisionTransformer
from eval.encoders.open_encoder import OpenEncoder, of_student
from eval.heads import hph
from eval.heads.body.smplx import SmplX
from eval.heads.hph import files
from eval.heads.hph.samples import Sample, SampleSet, to_batch
from eval.heads.hph.student import FrozenTokens
from eval.heads.hph.train import Stepper, draw, sizes_for, train_hph
from eval.heads.recipes import hph as recipes
from eval.heads.recipes.hph import HphRecipe
from store.errors import Conflict, Diverged, InvalidConfig, InvalidInput, OutputExists
from tests.eval.heads.body import tiny_smplx
from tests.eval.heads.hph.test_samples import sample
from train.run import checkpoints, log

IMG_SIZE = 56
SMALL: dict[str, Any] = {
    "img_size": IMG_SIZE,
    "batch": 2,
    "steps": 4,
    "lr": 1e-3,
    "steps_per_epoch": 2,
    "losses": {"start_2d_epoch": 1},
    "head": {"blocks": 1, "block_heads": 2, "dim": 16, "heads": 1, "dim_head": 8, "mlp_dim": 16},
    "checkpoint": {"every_steps": 2, "keep": 9},
    "readers": 1,
}


class Images:
    """A few images, some without people."""

    def __init__(self, count: int) -> None:
        self.samples = [sample(number % 3, img_size=IMG_SIZE) for number in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, *, img_size: int) -> Sample:
        assert img_size == IMG_SIZE
        return self.samples[index]


def recipe(**changes: Any) -> HphRecipe:
    return recipes.from_mapping({**SMALL, **changes}, subject="recipe")


@pytest.fixture(scope="module")
def encoder() -> OpenEncoder:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network = DinoVisionTransformer(embed_dim=16, depth=1, num_heads=2, register_tokens=2, pos_grid=(4, 4))
    return of_student(network, name="tiny", cell_px=14, device=torch.device("cpu"), final_norm=False)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> SmplX:
    return SmplX(tiny_smplx.write(tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"))


def train(out: Path, encoder: OpenEncoder, body: SmplX, data: SampleSet | None = None, **options: Any) -> int:
    chosen = options.pop("recipe", recipe())
    return train_hph(chosen, encoder=encoder, data=data or Images(5), body=body, out=out, quiet=True, **options).step


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, encoder: OpenEncoder, body: SmplX) -> None:
    assert train(tmp_path / "whole", encoder, body) == 4

    def killed(kind: str, record: Any) -> None:
        if kind == "step" and record["step"] == 3:
            raise KeyboardInterrupt

    network: Any = encoder.network
    frozen = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", encoder, body, listener=killed)
    assert checkpoints.saved(tmp_path / "cut" / "checkpoints") == [2]
    assert train(tmp_path / "cut", encoder, body, resume=True) == 4
    whole, cut = (checkpoints.load(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert all(torch.equal(whole.model[name], cut.model[name]) for name in whole.model)
    assert all(torch.equal(whole.optimizer[name], cut.optimizer[name]) for name in whole.optimizer)
    losses = [[record["loss"] for record in log.read(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in network.state_dict().items())
    assert train(tmp_path / "cut", encoder, body, resume=True) == 4  # nothing left to do


def test_a_trained_head_is_loaded_and_finds_what_it_was_shown(
    tmp_path: Path, encoder: OpenEncoder, body: SmplX
) -> None:
    data = Images(2)
    data.samples = data.samples[1:]  # one image with one person
    form = {**SMALL["head"], "tokens": "all"}
    chosen = recipe(head=form, steps=40, batch=1, flip=0.0, lr=1e-2, checkpoint={"every_steps": 0})
    train(tmp_path / "run", encoder, body, data, recipe=chosen)
    records = log.read(tmp_path / "run")
    assert records[-1]["losses"]["bce"] < 0.2 * records[0]["losses"]["bce"]
    assert records[-1]["lr"] < 0.01 * records[0]["lr"]
    head = hph.load(tmp_path / "run" / "head.pt")
    assert files.tokens_read(tmp_path / "run" / "head.pt") == "all"
    one = data.samples[0]
    with torch.no_grad():
        tokens = FrozenTokens(encoder, tokens="all")(torch.from_numpy(one.pixels[None]))
        people = head(tokens, torch.from_numpy(one.intrinsics), body=body)
    assert tokens.shape == (1, 17, 16)
    assert len(people) == 1
    assert people["loc"].shape == (1, 2)
    assert people["v3d"].shape == (1, tiny_smplx.VERTICES, 3)


def test_another_recipe_or_encoder_is_not_resumed(tmp_path: Path, encoder: OpenEncoder, body: SmplX) -> None:
    train(tmp_path / "run", encoder, body, recipe=recipe(steps=1))
    with pytest.raises(OutputExists, match="Pass --resume"):
        train(tmp_path / "run", encoder, body)
    with pytest.raises(Conflict, match=r"recipe.lr: stored 0.001, asked 0.002"):
        train(tmp_path / "run", encoder, body, recipe=recipe(steps=1, lr=2e-3), resume=True)
    other = replace(encoder, identity={**encoder.identity, "weights_sha256": "0"})
    with pytest.raises(Conflict, match=r"encoder.weights_sha256: stored '\w+', asked '0'"):
        train(tmp_path / "run", other, body, recipe=recipe(steps=1), resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text('{"name": "student"}')
    with pytest.raises(Conflict, match=r"is not a training of a perception head: .* name: unknown key"):
        train(tmp_path / "other", encoder, body, resume=True)
    assert train(tmp_path / "run", encoder, body, overwrite=True) == 4


def test_images_are_drawn_with_replacement_by_seed_and_step() -> None:
    large = recipe(batch=400)
    drawn = draw(large, 7, images=5)
    assert drawn == draw(large, 7, images=5)
    assert drawn != draw(large, 8, images=5)
    assert {image for image, _ in drawn} == set(range(5))
    assert 0.4 < np.mean([mirrored for _, mirrored in drawn]) < 0.6


def test_what_does_not_fit_is_refused(tmp_path: Path, encoder: OpenEncoder, body: SmplX) -> None:
    with pytest.raises(InvalidConfig, match=r"2 problems. steps: .* lrr: unknown key .did you mean 'lr'"):
        recipes.from_mapping({"steps": 0, "lrr": 1}, subject="recipe")
    with pytest.raises(InvalidConfig, match="'all' needs blocks"):
        recipe(head={"blocks": 0, "tokens": "all"})
    with pytest.raises(InvalidInput, match="no images"):
        train_hph(recipe(), encoder=encoder, data=Images(0), body=body, out=tmp_path / "run")
    with pytest.raises(InvalidInput, match="cells of 16 px, the perception head needs 14"):
        FrozenTokens(replace(encoder, cell_px=16))


def test_divergence_stops_before_the_weights_change(encoder: OpenEncoder, body: SmplX) -> None:
    chosen = recipe()
    head = files.build(sizes_for(chosen, channels=16, body=body))
    with torch.no_grad():
        head.mlp_classif[0].bias.fill_(float("nan"))
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    stepper = Stepper(chosen, tokens=FrozenTokens(encoder), head=head, body=body)
    batch = to_batch([sample(1), sample(2)], body, device=torch.device("cpu"))
    with pytest.raises(Diverged, match="step 1: the detection loss is not finite"):
        stepper.step(batch, 0)
    assert all(torch.equal(tensor, head.state_dict()[name]) or "bias" in name for name, tensor in before.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_geometry_stays_float32_under_autocast(precision: str, encoder: OpenEncoder, body: SmplX) -> None:
    chosen = recipe(precision=precision)
    head = files.build(sizes_for(chosen, channels=16, body=body))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        people = head(torch.randn(1, 16, 16), torch.eye(3) * 50, cells=torch.tensor([[0, 1, 1]]), body=body)
    assert {people[name].dtype for name in people.keys()[1:]} == {torch.float32}
    identity = people.rotmat @ people.rotmat.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
