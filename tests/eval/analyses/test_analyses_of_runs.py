"""The analyses on a small cache and run: streamed equals direct, replay equals training, attention equals timm's."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from backbones.images import normalise
from eval.__main__ import main
from eval.analyses import attention, correlation
from eval.analyses.correlation import Probe, correlate_updates
from eval.analyses.variance import (
    STUDENT,
    TEACHER,
    Covariance,
    Task,
    cumulative_explained_variance,
    explained_variance,
    moments_of_shard,
)
from eval.fidelity import rows
from eval.runs.open_run import OpenRun, open_run
from store import errors
from store.cache.cache import Cache
from tests.eval.builders import train_run
from train.objective.losses import teacher_loss
from train.recipe.config import Loss
from train.run import checkpoints, load


def test_variance_streamed_over_shards_is_that_of_all_tokens(opened: OpenRun, cache: Cache) -> None:
    by_dataset = explained_variance(opened.run, opened.mixture, datasets=["people", "scenes-crops"], shards=0)
    assert list(by_dataset) == ["people", "scenes-crops"]
    tokens = cache["people"].read(np.arange(40), ["alpha"])["alpha"][:, 1:].reshape(-1, 12)
    curves = by_dataset["people"]["alpha"][TEACHER]
    assert curves["tokens"] == 640
    assert curves["enough"]
    covariance = Covariance.of(tokens)
    np.testing.assert_allclose(curves["raw"], cumulative_explained_variance(covariance), rtol=1e-9)
    standardised = cumulative_explained_variance(covariance, standardised=True)
    np.testing.assert_allclose(curves["standardised"], standardised, rtol=1e-9)
    pixels = torch.from_numpy(cache["people"].read(np.arange(40), ["pixels"])["pixels"])
    with torch.inference_mode():
        predicted = opened.run.distiller(normalise(pixels))["alpha"][1]
    norm = opened.run.target_norms.stored("alpha").patch
    raw = (predicted * norm.std + norm.mean).reshape(-1, 12).numpy()
    direct = cumulative_explained_variance(Covariance.of(raw))
    np.testing.assert_allclose(by_dataset["people"]["alpha"][STUDENT]["raw"], direct, rtol=1e-4)


def test_variance_of_some_shards_and_on_a_dask_cluster(opened: OpenRun) -> None:
    here = explained_variance(opened.run, opened.mixture, datasets=[], shards=1)
    assert set(here) == {"people-crops", "people-mixed", "scenes-crops", "scenes-mixed"}
    assert here["people-crops"]["beta"][TEACHER]["tokens"] == 16 * 16
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            protocol="tcp",
        ) as cluster,
        Client(cluster),
    ):
        there = explained_variance(
            opened.run, opened.mixture, datasets=[], shards=1, scheduler=cluster.scheduler_address
        )
    assert there == here
    with pytest.raises(errors.MissingName, match=r"'peeple' is no dataset .*did you mean 'people'"):
        explained_variance(opened.run, opened.mixture, datasets=["peeple"], shards=1)


def test_datasets_of_one_name_in_several_caches_are_one_and_nothing_held_out_is_said(opened: OpenRun) -> None:
    held_out = opened.mixture.held_out
    twice = replace(opened.mixture, held_out=(*held_out, *held_out))  # as if the second were of another cache
    by_dataset = explained_variance(opened.run, twice, datasets=["people-crops"], shards=1)
    assert by_dataset["people-crops"]["beta"][TEACHER]["tokens"] == 2 * 16 * 16
    with pytest.raises(errors.InvalidInput, match=r"nothing is held out\. .* there are: people, scenes"):
        explained_variance(opened.run, replace(opened.mixture, held_out=()), datasets=[], shards=1)


def test_a_failed_row_is_left_out_of_the_variance(
    opened: OpenRun, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = cache["people-crops"]
    task = Task(
        location=cache.location,
        dataset=dataset.name,
        shard=0,
        teachers=("beta",),
        run=str(opened.directory),
        step=opened.run.step,
    )
    whole = moments_of_shard(task)["beta", TEACHER]
    original = type(dataset).read_shard

    def with_failure(self: object, array: str, shard: int, **options: bool) -> object:
        read = original(self, array, shard, **options)  # type: ignore[arg-type]
        status = read.status.copy()
        status[3] = 2 if array == "pixels" else 1
        return replace(read, status=status)

    monkeypatch.setattr(type(dataset), "read_shard", with_failure)
    assert moments_of_shard(task)["beta", TEACHER].count == whole.count - 16


def test_replayed_updates_are_those_of_the_training(cache: Cache, tmp_path: Path) -> None:
    steps = 5
    settings = {"schedule": {"steps": steps}, "checkpoint": {"every_steps": 1, "keep": 10}}
    opened = open_run(train_run(cache, tmp_path / "run", **settings), device="cpu")
    before = {path: path.stat().st_mtime_ns for path in opened.directory.rglob("*")}
    probe = Probe(steps=steps, rows=10)
    replayed = partial(correlation.on_probe, opened.run, opened.mixture, window=steps, device=opened.device)
    replay, later = replayed(probe), replayed(replace(probe, from_step=2))
    assert {path: path.stat().st_mtime_ns for path in opened.directory.rglob("*")} == before
    losses = np.array([_probe_losses(opened, step, probe) for step in range(steps + 1)])
    expected = correlate_updates(np.diff(losses, axis=0), ("alpha", "beta"), window=steps)
    np.testing.assert_allclose(replay.pearson, expected.pearson, atol=1e-4)
    expected = correlate_updates(np.diff(losses[2:], axis=0), ("alpha", "beta"), window=steps)
    np.testing.assert_allclose(later.pearson, expected.pearson, atol=1e-4)
    assert later.first_step.tolist() == [3]
    with pytest.raises(errors.InvalidInput, match="none left to replay from 4"):
        replayed(replace(probe, from_step=4))


def _probe_losses(opened: OpenRun, step: int, probe: Probe) -> list[float]:
    """The probe batch's losses from the checkpoint of a step, without the code under test."""
    distiller, norms = opened.run.initial(), opened.run.target_norms
    if step:
        saved = checkpoints.load(opened.directory / "checkpoints", step, optimizer=False)
        load.restore_model(distiller, norms, saved.model, source="test")
    selection = rows.balanced(opened.mixture, rows=probe.rows, seed=opened.run.recipe.seed)
    sums: dict[str, list[float]] = {"alpha": [], "beta": []}
    for source, row in zip(selection.rows.source, selection.rows.row, strict=True):
        row_arrays = selection.sources[source].dataset.read([row], ["pixels", "alpha", "beta"])
        with torch.inference_mode():
            predicted = distiller.eval()(normalise(torch.from_numpy(row_arrays["pixels"])))
            for name in sums:
                target = torch.from_numpy(row_arrays[name])
                loss = teacher_loss(predicted[name], target, norm=norms.stored(name), weights=Loss())
                sums[name].append(float(loss.per_image[0]))
    return [float(np.mean(values)) for values in sums.values()]


def test_correlation_reads_the_log(cache: Cache, tmp_path: Path) -> None:
    run = train_run(cache, tmp_path / "run", schedule={"steps": 2})
    with pytest.raises(errors.InvalidInput, match="2 logged steps are too few"):
        correlation.from_log(load.load(run), window=5)
    lines = (run / "log.jsonl").read_text().splitlines()
    step = next(json.loads(line) for line in lines if '"kind":"step"' in line)
    pairs = [(1.0, 2.0), (0.8, 2.4), (0.9, 2.2), (None, 2.0), (0.5, 3.0), (0.4, 3.2), (0.6, 2.8)]
    records = [
        {**step, "step": number + 1, "loss_per_teacher": {"alpha": a, "beta": b}} for number, (a, b) in enumerate(pairs)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    updates = correlation.from_log(load.load(run), window=10)
    assert updates.mean_pearson()[0, 1] == pytest.approx(-1.0)  # beta = 4 - 2 alpha; the gap is no update
    assert updates.sign_agreement[0, 0, 1] == 0.0


def test_windows_keep_their_steps_over_gaps_of_the_log(cache: Cache, tmp_path: Path) -> None:
    run = train_run(cache, tmp_path / "run", schedule={"steps": 2})
    step = next(json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if '"kind":"step"' in line)
    losses = dict.fromkeys(range(3, 19))
    losses |= {number: (-1) ** number * number / 20 for number in losses}
    losses[5] = None  # no image for one teacher: the updates of steps 5 and 6 are unknown
    del losses[9]  # not logged: those of 9 and 10
    beta = {number: 1 - (value or 0) if number < 12 else value for number, value in losses.items()}
    records = [
        {**step, "step": number, "loss_per_teacher": {"alpha": value, "beta": beta[number]}}
        for number, value in losses.items()
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    updates = correlation.from_log(load.load(run), window=4)
    # Updates 4 and 7, 8 and 11, 12 to 15 (in the first of which beta turns), 16 to 18.
    assert updates.first_step.tolist() == [4, 8, 12, 16]
    np.testing.assert_allclose(updates.pearson[[0, 1, 3], 0, 1], [-1, -1, 1], atol=1e-9)
    assert updates.sign_agreement[:, 0, 1].tolist() == [0, 0, 0.75, 1]


def test_attention_is_what_timm_computes() -> None:
    layer = Attention(24, num_heads=3, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm)
    layer.fused_attn = False
    seen: list[Tensor] = []
    layer.attn_drop.register_forward_hook(lambda _module, _arguments, output: seen.append(output))
    tokens = torch.randn(2, 7, 24)
    layer.eval()(tokens)
    torch.testing.assert_close(attention.attention_weights(layer, tokens), seen[0].mean(1))
    with pytest.raises(errors.InvalidInput, match="plain attention, found Linear without qkv"):
        attention.attention_weights(nn.Linear(2, 2), tokens)


def test_attention_maps_of_encoder_and_every_projector(opened: OpenRun) -> None:
    facts, table = attention.maps(opened.subject(), device=opened.device, count=2, k=3)
    assert facts["networks"] == [attention.ENCODER, "projector of alpha", "projector of beta"]
    entries = table.to_pylist()
    assert len(entries) == 2 * 3 * 3
    for entry in entries:
        assert len(entry["attention"]) == 16
        assert 0 < sum(entry["attention"]) < 1  # the rest goes to CLS (and registers)
    for network in facts["networks"]:
        shares = [e["share"] for e in entries if e["network"] == network and e["image"] == 0]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1.0)
    pixels = np.zeros((28, 70, 3), np.uint8)
    shown = attention.maps(opened.subject(), device=opened.device, k=2, images=[("mine", pixels)])[1].to_pylist()
    assert {(entry["rows"], entry["cols"], entry["caption"]) for entry in shown} == {(2, 5, "mine")}


def test_commands_write_figure_csv_and_json(run_directory: Path, tmp_path: Path) -> None:
    from PIL import Image

    photograph = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(photograph)
    out, run = tmp_path / "out", str(run_directory)
    assert main(["variance", run, "--out", str(out), "--datasets", "people-crops"]) == 0
    assert main(["correlation", run, "--out", str(out), "--probe-steps", "4", "--probe-rows", "6"]) == 0
    assert main(["attention", run, "--out", str(out), "--images", str(photograph), "--size", "56"]) == 0
    for name, column in (("variance", "components"), ("correlation", "pearson"), ("attention", "share")):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert column in (out / f"{name}.csv").read_text().splitlines()[0].split(",")
        assert json.loads((out / f"{name}.json").read_text())
    assert "photograph.png" in (out / "attention.csv").read_text()
