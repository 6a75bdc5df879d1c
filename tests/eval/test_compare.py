"""Several runs side by side: paired differences, seeds, foreign encoders in the same table, and the page about them."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from eval import computed
from eval.__main__ import main
from eval.compare import SeedGroup, beyond_seed_noise, difference, mean_over_teachers, seed_groups, varying
from eval.fidelity import Settings
from eval.peers import load_peers
from eval.predictors import LINEAR, LINEAR_STUDENT, STUDENT
from eval.runs import OpenRun
from eval.summary import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, IMAGE_SUMS, summarise
from store import errors
from store.cache import Cache
from tests.eval.builders import train_run
from tests.eval.test_report import Links
from train import dune_checkpoints
from train.recipe import overridden
from train.recipes import find


def sums(cosines: dict[str, list[float]]) -> pa.Table:
    """Per-image sums of a student: teacher -> cosine of one token of each image."""
    entries = [
        {
            "dataset": "d",
            "kind": HELD_OUT_VIEWS,
            "image": f"image-{number:02}",
            "teacher": teacher,
            "token_type": "patch",
            "predictor": STUDENT,
            "tokens": 1.0,
            "cosine": cosine,
            "smooth_l1": 0.5,
            "squared_error": 0.5,
            "power": 1.0,
        }
        for teacher, values in cosines.items()
        for number, cosine in enumerate(values)
    ]
    return pa.Table.from_pylist(entries, schema=IMAGE_SUMS)


def test_a_small_difference_on_the_same_images_is_told_from_none() -> None:
    hard = np.random.default_rng(0).uniform(0, 1, 30)
    first = sums({"a": list(hard), "b": list(hard / 2)})
    second = sums({"a": list(hard - 0.01), "b": list(hard / 2 - 0.03)})
    assert mean_over_teachers(first, kind=HELD_OUT_VIEWS) == pytest.approx(0.75 * hard.mean())
    found = difference(first, second, kind=HELD_OUT_VIEWS)
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02, 0.02))
    assert found.clear
    assert found.images == 30
    noise = np.random.default_rng(1).normal(0, 0.1, 30)
    assert not difference(
        first, sums({"a": list(hard + noise), "b": list(hard / 2 - noise)}), kind=HELD_OUT_VIEWS
    ).clear


def test_differences_of_one_image_or_none() -> None:
    one = sums({"a": [0.5]})
    found = difference(one, sums({"a": [0.25, 0.75]}), kind=HELD_OUT_VIEWS)
    assert found.value == 0.25
    assert math.isnan(found.low)
    assert not found.clear
    assert difference(one, one, kind=HELD_OUT_PHOTOGRAPHS).images == 0
    assert math.isnan(mean_over_teachers(one, kind=HELD_OUT_PHOTOGRAPHS))


def test_runs_of_one_recipe_are_grouped_over_seeds() -> None:
    base = find("tiny")
    sp = overridden(base, {"projector.kind": "sp", "name": "other"}, subject="test")
    recipes = {
        "tp-0": base,
        "tp-1": overridden(base, {"seed": 1, "name": "again", "log.tensorboard": True}, subject="test"),
        "sp-0": sp,
        "sp-1": overridden(sp, {"seed": 1}, subject="test"),
        "lr-0": overridden(base, {"optim.lr": 0.5}, subject="test"),
    }
    values = {"tp-0": 0.50, "tp-1": 0.52, "sp-0": 0.38, "sp-1": 0.42, "lr-0": 0.42}
    tp, lr, sp_group = seed_groups(recipes, values)
    assert (tp.runs, lr.runs, sp_group.runs) == (("tp-0", "tp-1"), ("lr-0",), ("sp-0", "sp-1"))
    assert (tp.mean, tp.std) == pytest.approx((0.51, 0.02 / math.sqrt(2)))
    groups = [tp, lr, sp_group]
    # Pooled deviation: sqrt((0.0002 + 0.0008) / 2) = 0.0224; t of 2 degrees of freedom: 4.303; so 2 and 2 seeds must
    # be 0.0962 apart, 2 and 1 seed 0.1178. Two standard errors would have been 0.0447 and 0.0548.
    assert beyond_seed_noise(tp, sp_group, groups) is True
    assert beyond_seed_noise(tp, lr, groups) is False
    assert beyond_seed_noise(lr, lr, [SeedGroup(runs=("a",), mean=0.1, std=math.nan)]) is None
    assert set(varying(recipes)) == {"name", "seed", "projector.kind", "optim.lr"}
    assert varying(recipes)["projector.kind"]["sp-0"] == "sp"


def test_foreign_encoders_stand_in_the_same_table(opened: OpenRun, tmp_path: Path) -> None:
    import timm

    run = opened.run
    released = dune_checkpoints.to_released(run.distiller, run.target_norms, names={})
    torch.save({"model": released}, tmp_path / "dune.pth")
    network = timm.create_model("resnet10t", pretrained=False)
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    file = tmp_path / "encoders.toml"
    file.write_text(
        f'[[encoder]]\nname = "same run"\nmodel = "run"\nweights = "{run.directory}"\n'
        '[[encoder]]\nname = "dune file"\nmodel = "dune"\nweights = "dune.pth"\nnum_heads = 2\n'
        '[[encoder]]\nname = "resnet"\nmodel = "timm:resnet10t"\nweights = "resnet.safetensors"\nstride = 16\n'
    )
    peers = load_peers(file, image_size=56, cell_px=14, device=torch.device("cpu"))
    table = computed.fidelity(opened, Settings(fit_rows=40, rows_per_dataset=8), peers=peers)
    found = {(s.group, s.teacher, s.token_type, s.predictor): s.value for s in summarise(table, replicates=2)}
    for group, teacher, token_type, predictor in list(found):
        if predictor == LINEAR_STUDENT:
            for name in ("same run", "dune file"):
                peer = found[group, teacher, token_type, LINEAR + name]
                assert peer == pytest.approx(found[group, teacher, token_type, predictor], abs=1e-4)
            assert math.isfinite(found[group, teacher, token_type, LINEAR + "resnet"][0])
    again = computed.fidelity(opened, Settings(fit_rows=40, rows_per_dataset=8))
    assert set(again["predictor"].to_pylist()) < set(table["predictor"].to_pylist())


def test_problems_of_an_encoder_file_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "encoders.toml"
    file.write_text('[[encoder]]\nname = "a"\nmodel = "run"\nweigths = "x"\n[[encoder]]\nname = "b"\nweights = "y"\n')
    with pytest.raises(errors.InvalidConfig, match=r"3 problems.*did you mean 'weights'") as raised:
        load_peers(file, image_size=56, cell_px=14, device=torch.device("cpu"))
    assert "encoder[1].model: missing" in str(raised.value)
    file.write_text('[[encoder]]\nname = "a"\nmodel = "run"\nweights = "x"\n' * 2)
    with pytest.raises(errors.InvalidConfig, match="'a' appears more than once"):
        load_peers(file, image_size=56, cell_px=14, device=torch.device("cpu"))


def test_the_page_ranks_a_sweep_and_shows_what_was_computed(cache: Cache, tmp_path: Path) -> None:
    names = ("tp/seed-0", "tp/seed-1", "short/seed-0")
    long, short = {"schedule": {"steps": 10}}, {"schedule": {"steps": 2}}
    settings = [{"seed": 0, **long}, {"seed": 1, **long}, {"seed": 0, **short}]
    sweep = [str(train_run(cache, tmp_path / name, **over)) for name, over in zip(names, settings, strict=True)]
    for command in (["variance"], ["correlation", "--probe-steps", "3", "--probe-rows", "4"], ["attention"]):
        assert main([command[0], sweep[0], "--out", str(tmp_path / "figures"), *command[1:]]) == 0
    assert main(["report", *sweep, "--out", str(tmp_path / "page")]) == 0
    html = (tmp_path / "page" / "index.html").read_text()
    text = Links(html).text
    for name in names:
        assert name in text
    ranking = text[text.index("Ranking") : text.index("What differs")]
    assert ranking.index("tp/seed-") < ranking.index("short/seed-0")
    assert "schedule.steps" in text
    assert "Beyond seed noise" in text
    for anchor in ("comparison", "variance", "correlation", "attention"):
        assert f'<section id="{anchor}">' in html
    not_computed = text[text.index("What was not computed") :]
    assert "Attention maps (for tp/seed-1, short/seed-0)" in not_computed
    assert "Linear segmentation" in not_computed
