"""Training of the pair model: it learns, resumes exactly, is shared by ranks, and refuses what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads import mast3r
from eval.heads.mast3r.train import Stepper
from eval.heads.mast3r.training_pairs import batches
from eval.heads.pairs import PLAIN, Mixture, Pair, PairBatches
from eval.heads.recipes import mast3r as recipes
from eval.heads.recipes.base import find
from eval.heads.training.schedule import warmup_then_cosine
from store.errors import Conflict, Diverged, InvalidConfig, InvalidInput, OutputExists
from tests.eval.heads.mast3r.goldens import PAIR, PAIR_HEADS, images
from tests.eval.heads.mast3r.miniature import mixture, model, recipe, student, train, train_on_two_ranks
from tests.train.stories import assert_close, weights
from train.distributed import Ranks
from train.run import checkpoints, log


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    assert train(tmp_path / "whole") == 4

    def killed(kind: str, record: Any) -> None:
        if kind == "step" and record["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", listener=killed)
    assert checkpoints.saved(tmp_path / "cut" / "checkpoints") == [2]
    assert train(tmp_path / "cut", recipe(workers=1), resume=True) == 4  # read by another process, too
    whole, cut = (checkpoints.load(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert whole.model.keys() == cut.model.keys()
    assert all(torch.equal(whole.model[name], cut.model[name]) for name in whole.model)
    assert all(torch.equal(whole.optimizer[name], cut.optimizer[name]) for name in whole.optimizer)
    records = [log.read(tmp_path / name) for name in ("whole", "cut")]
    assert [record["loss"] for record in records[0]] == [record["loss"] for record in records[1]]
    assert {tuple(record["resolution"]) for record in records[0]} == {(84, 56), (56, 56)}
    assert train(tmp_path / "cut", resume=True) == 4  # nothing left to do


def test_a_trained_model_is_better_on_its_pairs_and_is_loaded(tmp_path: Path) -> None:
    chosen = recipe(
        steps=40,
        batch=1,
        part=1,
        resolutions=[(84, 56)],
        augment={"crops": False, "colours": False, "monocular": 0},
        decoder={"dim": 48, "depth": 2, "heads": 2, "dpt_dims": [32] * 4, "dpt_features": 32, "dpt_last": 32},
        optim={"lr": 2e-3, "warmup": 0.075},
        checkpoint={"every_steps": 0},
    )
    trained = model(chosen)
    encoder = {name: tensor.clone() for name, tensor in trained.encoder.state_dict().items()}
    train(tmp_path / "run", chosen, model=trained, mixture=mixture(1))
    records = log.read(tmp_path / "run")
    assert records[-1]["losses"]["regression_1"] < 0.7 * records[0]["losses"]["regression_1"]
    assert records[-1]["losses"]["matching"] < 0.95 * records[0]["losses"]["matching"]
    assert (records[0]["lr"], records[3]["lr"]) == (0, 2e-3)
    loaded = mast3r.load(tmp_path / "run" / "mast3r.pth", student().network, enc_num_heads=2)
    views = images(1, 56, 84), images(1, 56, 84, seed=1)
    for ours, theirs in zip(trained.eval()(*views), loaded(*views), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in trained.encoder.state_dict().items())
    assert not trained.train().encoder.training


def test_parts_are_means_that_ranks_share() -> None:
    """Of four parts a rank takes two; the gradient of all is the mean of the ranks' gradients."""
    chosen = recipe(batch=4, part=1, steps=1)
    pairs = PairBatches(mixture=mixture(), batch=4, resolutions=chosen.resolutions, augmentation=PLAIN, matches=64)

    def gradients(own: range) -> torch.Tensor:
        stepper = Stepper(chosen, model=model(chosen), ranks=Ranks(rank=0, world=1, device=torch.device("cpu")))
        (parts,) = batches(pairs, steps=range(1), own=own, parts=4, workers=0)
        stepper.step(parts, 0)
        return torch.cat([p.grad.flatten() for p in stepper.trained.parameters() if p.grad is not None])

    halves = (gradients(range(2)) + gradients(range(2, 4))) / 2
    torch.testing.assert_close(gradients(range(4)), halves, rtol=1e-4, atol=1e-6)


def test_two_ranks_are_one_rank_and_stop_together(tmp_path: Path) -> None:
    chosen = recipe(batch=2, part=1, optim={"lr": 1e-3, "warmup": 0.0, "eps": 1e-3})
    assert train_on_two_ranks(tmp_path / "two", chosen, stop_after=3) == [0, 0]
    assert train(tmp_path / "two", chosen, resume=True) == 4  # alone
    train(tmp_path / "one", chosen)
    assert_close(tmp_path / "one", tmp_path / "two", tolerance=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_another_recipe_student_or_data_is_not_resumed(tmp_path: Path) -> None:
    short = recipe(steps=1)
    train(tmp_path / "run", short, data=[{"name": "a"}])
    with pytest.raises(OutputExists, match="Pass --resume"):
        train(tmp_path / "run", short)
    with pytest.raises(Conflict, match=r"recipe.loss.alpha: stored 0.2, asked 0.3"):
        train(tmp_path / "run", recipe(steps=1, loss={"matches": 64, "alpha": 0.3}), data=[{"name": "a"}], resume=True)
    with pytest.raises(Conflict, match=r"pairs"):
        train(tmp_path / "run", short, data=[{"name": "b"}], resume=True)
    other = model(short)
    with torch.no_grad():
        other.encoder.network.norm.bias += 1  # type: ignore[union-attr, operator]
    with pytest.raises(Conflict, match=r"student.weights_sha256: stored"):
        train(tmp_path / "run", short, model=other, data=[{"name": "a"}], resume=True)


def test_divergence_stops_before_the_weights_change(tmp_path: Path) -> None:
    broken = model(recipe())
    with torch.no_grad():
        broken.mast3r.decoder_embed.bias[0] = float("nan")
    before = {name: tensor.clone() for name, tensor in broken.mast3r.state_dict().items()}
    with pytest.raises(Diverged, match=r"step 1: not finite: loss, .*No weight was changed"):
        train(tmp_path / "run", model=broken)
    after = broken.mast3r.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items() if name != "decoder_embed.bias")


class Broken:
    """A dataset whose pairs cannot be used."""

    def __len__(self) -> int:
        return 1

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        raise InvalidInput("scene 7: no depth")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pair_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InvalidInput, match=r"^scene 7: no depth$"):
        train(tmp_path / "run", recipe(workers=workers), mixture=Mixture(datasets=[Broken()], pairs=[1]))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"3 problems. steps: .* optim.lrr: unknown key .did you mean 'lr'.*batchh"):
        recipe(steps=0, optim={"lrr": 1}, batchh=1)
    with pytest.raises(InvalidConfig, match=r"part: expected a divisor of batch 4, found 3.*longer side first"):
        recipe(part=3, resolutions=[(56, 84)])
    with pytest.raises(InvalidInput, match="resolutions 84x56, 56x56: expected multiples of the student's patch, 16"):
        train(tmp_path / "run", model=model(recipe(), patch_size=16))
    with pytest.raises(InvalidInput, match="2 parts cannot be shared evenly by 3 processes"):
        train(tmp_path / "run", ranks=Ranks(rank=0, world=3, device=torch.device("cpu")))
    with pytest.raises(InvalidInput, match="found MASt3R with its own encoder"):
        train(tmp_path / "run", recipe(resolutions=[(80, 64)]), model=mast3r.load(PAIR, **PAIR_HEADS))


def test_recipes_by_name_and_from_files(tmp_path: Path) -> None:
    published = find("dune-448", recipes.RECIPES)
    assert published.steps * published.batch == pytest.approx(6_500_000, abs=64)
    assert (published.optim.lr, published.optim.beta2, published.loss.matches) == (1e-4, 0.95, 8192)
    (tmp_path / "mine.toml").write_text('base = "laptop"\nbatch = 8\n[optim]\nlr = 2e-3\n')
    mine = find(str(tmp_path / "mine.toml"), recipes.RECIPES)
    assert (mine.batch, mine.optim.lr, mine.optim.warmup, mine.steps) == (8, 2e-3, 0.05, 400)
    with pytest.raises(InvalidConfig, match=r"unknown .did you mean 'laptop'"):
        find("labtop", recipes.RECIPES)


def test_learning_rates() -> None:
    rates = warmup_then_cosine(peak=1.0, minimum=0.5, steps=6, warmup_steps=2)
    np.testing.assert_allclose(rates, [0, 0.5, 1.0, 0.75 + 0.25 * np.sqrt(0.5), 0.75, 0.75 - 0.25 * np.sqrt(0.5)])
