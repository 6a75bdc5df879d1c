"""Comparison of runs: paired differences on common rows, other encoders in the same table."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from eval.comparison.paired import Difference, align, in_common
from eval.encoders.load import open_peers
from eval.fidelity.measure import Settings
from eval.fidelity.predictors import LINEAR, LINEAR_STUDENT, STUDENT
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, IMAGE_SUMS, summarise
from eval.runs import cached
from eval.runs.open_run import OpenRun
from store import errors
from train.run import dune_checkpoint


def sums(cosines: dict[str, list[float]], *, kind: str = HELD_OUT_VIEWS, dataset: str = "d") -> pa.Table:
    """Per-image sums of a student: teacher -> cosine of one token of each image."""
    entries = [
        {
            "dataset": dataset,
            "kind": kind,
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


def difference(first: pa.Table, second: pa.Table) -> Difference:
    return align({"a": first, "b": second}, kind=HELD_OUT_VIEWS).difference(["a"], ["b"])


def test_a_small_difference_on_the_same_images_is_told_from_none() -> None:
    hard = np.random.default_rng(0).uniform(0, 1, 30)
    first = sums({"a": list(hard), "b": list(hard / 2)})
    second = sums({"a": list(hard - 0.01), "b": list(hard / 2 - 0.03)})
    assert align({"a": first}, kind=HELD_OUT_VIEWS).score("a") == pytest.approx(0.75 * hard.mean())
    paired = difference(first, second)
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.02, 0.02, 0.02))
    assert paired.clear
    assert paired.images == 30
    noise = np.random.default_rng(1).normal(0, 0.1, 30)
    assert not difference(first, sums({"a": list(hard + noise), "b": list(hard / 2 - noise)})).clear


def test_differences_of_one_image_or_none() -> None:
    one = sums({"a": [0.5]})
    paired = difference(one, sums({"a": [0.25, 0.75]}))
    assert paired.value == 0.25
    assert math.isnan(paired.low)
    assert not paired.clear
    none = align({"a": one, "b": one}, kind=HELD_OUT_PHOTOGRAPHS)
    assert none.difference(["a"], ["b"]).images == 0
    assert math.isnan(none.score("a"))


def test_runs_are_compared_on_what_all_have_held_out_in_the_same_sense() -> None:
    """The second was not trained on the easy photographs, so they are new to it and to it alone."""
    hard, easy = {"a": [0.2, 0.3], "b": [0.1, 0.1]}, {"a": [0.9, 0.9, 0.9]}
    new = [sums(hard, kind=HELD_OUT_PHOTOGRAPHS), sums({"a": [0.1, 0.2], "c": [1.0]}, kind=HELD_OUT_PHOTOGRAPHS)]
    first = pa.concat_tables([new[0], sums(easy, kind=HELD_OUT_VIEWS, dataset="easy")])
    second = pa.concat_tables([new[1], sums(easy, kind=HELD_OUT_PHOTOGRAPHS, dataset="easy")])
    aligned = align({"first": first, "second": second}, kind=HELD_OUT_PHOTOGRAPHS)
    assert (aligned.images, aligned.teachers) == (("image-00", "image-01"), ("a",))
    assert (aligned.score("first"), aligned.score("second")) == pytest.approx((0.25, 0.15))
    assert aligned.difference(["first"], ["second"], teacher="a").value == pytest.approx(0.1)
    restricted = in_common({"first": first, "second": second})
    for name, mean in (("first", 0.25), ("second", 0.15)):
        (score,) = summarise(restricted[name], replicates=2)
        assert (score.group, score.teacher, score.images) == (HELD_OUT_PHOTOGRAPHS, "a", 2)
        assert score.of("cosine")[0] == pytest.approx(mean)
    alone = in_common({"first": first, "else": sums({"x": [0.5]}, dataset="other")})
    assert alone["first"].num_rows == first.num_rows


def test_means_over_seeds_are_compared_on_the_same_images() -> None:
    tables = {"a0": sums({"t": [0.5, 0.7]}), "a1": sums({"t": [0.3, 0.5]}), "b0": sums({"t": [0.2, 0.4]})}
    paired = align(tables, kind=HELD_OUT_VIEWS).difference(["a0", "a1"], ["b0"])
    assert (paired.value, paired.low, paired.high) == pytest.approx((0.2, 0.2, 0.2))


def test_foreign_encoders_stand_in_the_same_table(opened: OpenRun, tmp_path: Path) -> None:
    import timm

    run = opened.run
    released = dune_checkpoint.to_released(run.distiller, run.target_norms, names={})
    torch.save({"model": released}, tmp_path / "dune.pth")
    network = timm.create_model("resnet10t", pretrained=False)
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    file = tmp_path / "encoders.toml"
    file.write_text(
        f'[[encoder]]\nname = "same run"\nmodel = "run"\nweights = "{run.directory}"\n'
        '[[encoder]]\nname = "dune file"\nmodel = "dune"\nweights = "dune.pth"\nnum_heads = 2\n'
        '[[encoder]]\nname = "resnet"\nmodel = "timm:resnet10t"\nweights = "resnet.safetensors"\nstride = 16\n'
    )
    peers = open_peers(file, cell_px=14, device=torch.device("cpu"))
    table = cached.fidelity(opened, Settings(fit_rows=40, rows_per_dataset=8), peers=peers)
    values = {(s.group, s.teacher, s.token_type, s.predictor): s.value for s in summarise(table, replicates=2)}
    for group, teacher, token_type, predictor in list(values):
        if predictor == LINEAR_STUDENT:
            for name in ("same run", "dune file"):
                peer = values[group, teacher, token_type, LINEAR + name]
                assert peer == pytest.approx(values[group, teacher, token_type, predictor], abs=1e-4)
            assert math.isfinite(values[group, teacher, token_type, LINEAR + "resnet"][0])
    again = cached.fidelity(opened, Settings(fit_rows=40, rows_per_dataset=8))
    assert set(again["predictor"].to_pylist()) < set(table["predictor"].to_pylist())


def test_problems_of_an_encoder_file_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "encoders.toml"
    file.write_text('[[encoder]]\nname = "a"\nmodel = "run"\nweigths = "x"\n[[encoder]]\nname = "b"\nweights = "y"\n')
    with pytest.raises(errors.InvalidConfig, match=r"3 problems.*did you mean 'weights'") as raised:
        open_peers(file, cell_px=14, device=torch.device("cpu"))
    assert "encoder[1].model: missing" in str(raised.value)
    file.write_text('[[encoder]]\nname = "a"\nmodel = "run"\nweights = "x"\n' * 2)
    with pytest.raises(errors.InvalidConfig, match="'a' appears more than once"):
        open_peers(file, cell_px=14, device=torch.device("cpu"))
