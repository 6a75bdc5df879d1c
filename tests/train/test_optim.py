"""Learning rate, momentum, length of a run, decay rule and clipping, against the authors' numbers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from store.errors import InvalidInput
from tests.train import golden
from train.optim import adamw, clip_per_tensor, ema_momentum, learning_rate, parameter_groups, peak_rate, set_lr
from train.recipe.config import iterations


def test_schedules_of_the_authors() -> None:
    recorded, facts = golden.tensors("schedules.io"), golden.scalars("schedules")
    params = facts["params"]
    assert peak_rate(3e-4, batch=512) == pytest.approx(params["base"], rel=1e-15)
    rate = learning_rate(peak=params["base"], steps=params["iters"], warmup=params["warm"], minimum=params["min"])
    assert np.abs(rate - recorded["output.lr"].numpy()).max() < 1e-12
    momentum = ema_momentum(steps=params["iters"])
    assert np.abs(momentum - recorded["output.tnorm_ema_momentum"].numpy()).max() < 1e-12
    for case in facts["iters_rule"]:
        steps = iterations(case["epochs"], batch=case["batch"], epoch_images=case["epoch_size"])
        assert steps == case["iters"]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.2), (2, 0.0), (7, 1.0), (10, 0.1), (13, 0.5)])
def test_short_schedules_have_every_step(steps: int, warmup: float) -> None:
    rate = learning_rate(peak=1.0, steps=steps, warmup=warmup)
    assert rate.shape == (steps,)
    assert np.isfinite(rate).all()
    assert rate.max() <= 1.0


def test_a_warmup_in_steps_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected a fraction"):
        learning_rate(peak=1.0, steps=10, warmup=5)


def test_clipping_is_per_tensor_and_gives_the_norms_before() -> None:
    parameters = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([3.0, 4.0, 0.0, 0.0])
    parameters[1].grad = torch.full((2, 3), 0.01)
    norms = clip_per_tensor(parameters, 1.0)
    assert norms.tolist() == pytest.approx([5.0, 0.01 * math.sqrt(6)])
    assert float(parameters[0].grad.norm()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(parameters[1].grad, torch.full((2, 3), 0.01))
    assert clip_per_tensor([parameters[2]], 1.0).shape == (0,)


def test_groups_leave_out_what_is_frozen_and_cover_the_rest_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "frozen": nn.Linear(3, 3)})
    model["frozen"].requires_grad_(False)
    groups = parameter_groups(model, 0.03)
    assert [group["weight_decay"] for group in groups] == [0.03, 0.0]
    assert [[p.shape for p in group["params"]] for group in groups] == [[(3, 2)], [(3,), (3,), (3,)]]


def test_adamw_has_the_released_settings() -> None:
    model = nn.Linear(3, 2)
    optimizer = adamw(model, lr=0.1)
    assert optimizer.defaults["betas"] == (0.9, 0.99)
    assert optimizer.defaults["eps"] == 1e-15
    assert optimizer.defaults["fused"]
    before = model.weight.detach().clone()
    set_lr(optimizer, 0.0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before)  # step 0 of the warm-up changes nothing
