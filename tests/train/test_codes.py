"""Whole trainings from codes: exact resumption, ranks, caches of both forms, and what is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import store
from store.errors import Conflict, Damaged, InvalidConfig, InvalidInput
from tests.train.builders import DATASETS, build_cache, tiny
from tests.train.codes import CELLS, SEERS, SIZE_PX, build_coded, code_of
from tests.train.stories import assert_close, same_run, stop_after, weights
from tests.train.test_distributed import train_on_two_ranks
from train import step as train_step
from train.__main__ import main
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, RowSelection, cached_forms, select_evenly
from train.data.open_caches import open_mixture
from train.loop import train as run_training
from train.objective import teacher_dropping
from train.objective.batch_losses import BatchLosses
from train.objective.losses import teacher_loss
from train.objective.target_statistics import set_exact
from train.objective.targets import TargetNorms
from train.recipe.config import Loss, Recipe
from train.run import curves, directory, headline, log

SUBSET_RATIO = 12.0  # alpha's smallest record of all patches is larger
FORMS = ("alpha", "beta")


def recipe(**values: Any) -> Recipe:
    return tiny(schedule__steps=6, checkpoint__every_steps=2, optim__eps=1e-6, machine__threads=1, **values)


def begin(caches: list[str], out: Path, recipe: Recipe) -> None:
    """A run that is stopped after three of its six steps."""
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 3)
        assert not run_training(recipe, caches=caches, out=out, quiet=True).finished


def loader_of(
    mixture: Mixture, *, raw: bool, batch: int = 64, plan: Callable[[int], RowSelection] | None = None
) -> Loader:
    """Training rows, by default one batch a source."""
    return Loader(
        sources=mixture.sources,
        teachers=mixture.teachers,
        image_size=mixture.image_size,
        plan=plan or (lambda step: select_evenly(mixture.sources[step], number=step, rows=batch)),
        steps=range(1 if plan else len(mixture.sources)),
        batch=batch,
        device=torch.device("cpu"),
        raw=raw,
    )


def five_of_each(mixture: Mixture) -> RowSelection:
    parts = [select_evenly(source, number=number, rows=5) for number, source in enumerate(mixture.sources)]
    return RowSelection(
        source=np.concatenate([part.source for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        slot=np.arange(5 * len(parts)),
    )


def exact_norms(mixture: Mixture) -> TargetNorms:
    norms = TargetNorms(mixture.teachers)
    set_exact(norms, mixture, over_subset=False)
    return norms


def predictions(images: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = CELLS[0] * CELLS[1]
    return {
        name: (
            torch.randn(images, seer.prefix, seer.channels, generator=generator),
            torch.randn(images, tokens, seer.channels, generator=generator, requires_grad=True),
        )
        for name, seer in SEERS.items()
    }


@pytest.mark.parametrize("ratio", [8.0, SUBSET_RATIO])
def test_a_resumed_run_on_codes_is_the_uninterrupted_one(ratio: float, tmp_path: Path) -> None:
    """Bit for bit, of all patches and of a subset; the log has the corrected loss, and the curves are drawn."""
    build_coded(tmp_path / "cache", {"alpha": ratio, "beta": 8}, coded_splits=("train", "val"))
    caches = [str(tmp_path / "cache")]
    assert (store.open(tmp_path / "cache")["faces"].stored_tokens("alpha", [0]) is not None) == (ratio == SUBSET_RATIO)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    run_training(recipe(), caches=caches, out=whole, quiet=True)
    begin(caches, pieces, recipe())
    assert run_training(recipe(), caches=caches, out=pieces, resume=True, quiet=True).finished
    assert same_run(whole, pieces)

    last = log.read(whole, log.STEP)[-1]
    assert last["corrected_loss"] < last["loss"]
    assert all(last["corrected_loss_per_teacher"][name] < last["loss_per_teacher"][name] for name in FORMS)
    assert (whole / curves.FILE).stat().st_size
    (measured,) = log.read(whole, log.FIDELITY)[-1]["datasets"].items()
    assert measured[0] == "held" + headline.DECODED
    for values in measured[1].values():
        assert values["corrected_loss"] < values["loss"]
        assert 0 < values["patch_cosine_floor"] < 1


def test_dropping_compares_corrected_losses_and_the_gradient_is_of_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_coded(tmp_path / "cache", {"beta": 8})
    compared: list[torch.Tensor] = []
    descended: list[float] = []
    keep_mask, backward = teacher_dropping.keep_mask, torch.autograd.backward

    def recording(losses: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        compared.append(losses.mean(dim=1))
        return keep_mask(losses, *arguments, **options)

    def descending(loss: torch.Tensor) -> None:
        descended.append(float(loss.detach()))
        backward(loss)

    monkeypatch.setattr(train_step, "keep_mask", recording)
    monkeypatch.setattr(torch.autograd, "backward", descending)
    run_training(recipe(), caches=[str(tmp_path / "cache")], out=tmp_path / "run", quiet=True)
    for record, losses, loss in zip(log.read(tmp_path / "run", log.STEP), compared, descended, strict=True):
        corrected, plain = record["corrected_loss_per_teacher"], record["loss_per_teacher"]
        assert losses.tolist() == pytest.approx([corrected[name] for name in FORMS], rel=1e-5)
        assert corrected["alpha"] == plain["alpha"]  # float16
        assert corrected["beta"] < plain["beta"] - 0.01
        assert loss == pytest.approx(record["loss"], rel=1e-6)
        assert record["corrected_loss"] < record["loss"] - 0.005


def test_two_ranks_on_codes_are_one(tmp_path: Path) -> None:
    build_coded(tmp_path / "cache", {"alpha": SUBSET_RATIO, "beta": 8}, coded_splits=("train", "val"))
    cache, alone, both = str(tmp_path / "cache"), tmp_path / "alone", tmp_path / "both"
    exact = recipe(optim__micro_batches=2)
    run_training(exact, caches=[cache], out=alone, quiet=True)
    train_on_two_ranks([(exact, both, 0)], cache=cache)
    assert_close(alone, both, tolerance=1e-5)
    ours, theirs = weights(alone), weights(both)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5


def test_codes_come_as_they_are_stored_and_their_losses_are_those_of_decoded_tokens(tmp_path: Path) -> None:
    cache = build_coded(tmp_path / "cache", {"alpha": SUBSET_RATIO, "beta": 8})
    mixture = open_mixture(recipe(), [str(tmp_path / "cache")])
    norms = exact_norms(mixture)
    losses = BatchLosses(sources=mixture.sources, teachers=mixture.teachers, norms=norms, weights=Loss())
    with loader_of(mixture, raw=True) as as_codes, loader_of(mixture, raw=False) as as_tokens:
        for raw, decoded in zip(as_codes, as_tokens, strict=True):
            dataset = cache[mixture.sources[int(raw.rows.source[0])].dataset.name]
            stored = dataset.read(raw.rows.row, FORMS, raw=True)
            assert not raw.tokens
            assert not decoded.codes
            by_teacher = losses.of(predictions(len(raw.rows)), raw)
            for name in FORMS:
                assert np.array_equal(raw.codes[name].codes.numpy(), stored[name])
                assert np.array_equal(raw.codes[name].rows.numpy(), raw.rows.row)
                patches = dataset.stored_tokens(name, raw.rows.row)
                found = raw.codes[name].patches
                assert (found is None) == (patches is None)
                if found is not None and patches is not None:
                    assert np.array_equal(found.numpy(), patches)
                expected = loss_of_decoded(name, decoded, norms, patches)
                assert by_teacher[name].per_image.detach().numpy() == pytest.approx(expected, abs=2e-3)


def loss_of_decoded(name: str, batch: Batch, norms: TargetNorms, patches: np.ndarray | None) -> np.ndarray:
    """The loss on the tokens that the store decodes; where it gives NaN, no token counts."""
    prefix, predicted = predictions(len(batch.rows))[name]
    tokens = batch.tokens[name].float()
    kept = [predicted.detach(), tokens[:, prefix.shape[1] :]]
    assert bool(kept[1].isnan().any()) == (patches is not None)
    if patches is not None:
        place = torch.from_numpy(patches)[..., None].expand(-1, -1, predicted.shape[2])
        kept = [values.gather(1, place) for values in kept]
    target = torch.cat([tokens[:, : prefix.shape[1]], kept[1]], dim=1)
    loss = teacher_loss((prefix, kept[0]), target, norm=norms.stored(name), weights=Loss())
    return np.asarray(loss.per_image)


def test_codes_and_float16_of_one_teacher_train_together(tmp_path: Path) -> None:
    """Each image has the loss and the gradient that it has in a batch of its own form; resumed, the same run."""
    datasets = {"faces": DATASETS["faces"], "rooms": DATASETS["rooms"]}
    build_coded(tmp_path / "one", {"alpha": SUBSET_RATIO}, datasets=datasets)
    build_coded(tmp_path / "two", {"beta": 8}, seed=1, first_view=1)
    caches = [str(tmp_path / "one"), str(tmp_path / "two")]
    mixture = open_mixture(recipe(), caches)
    forms = cached_forms(mixture.sources, mixture.teachers)
    assert [(form.tokens, form.code is not None) for form in forms.values()] == [(True, True), (True, True)]

    losses = BatchLosses(sources=mixture.sources, teachers=mixture.teachers, norms=exact_norms(mixture), weights=Loss())
    predicted = predictions(20)
    with loader_of(mixture, raw=True, batch=5) as loader:
        apart = [
            losses.of({name: (p[5 * i : 5 * i + 5], q[5 * i : 5 * i + 5]) for name, (p, q) in predicted.items()}, batch)
            for i, batch in enumerate(loader)
        ]
    with loader_of(mixture, raw=True, batch=20, plan=lambda _: five_of_each(mixture)) as loader:
        batch = next(iter(loader))
        parts = [
            losses.of({name: (p[part], q[part]) for name, (p, q) in predicted.items()}, batch, part=part)
            for part in (slice(0, 8), slice(8, 20))  # two micro-batches, both of both forms
        ]
    for name in FORMS:
        together, true = (
            torch.cat([getattr(part[name], values) for part in parts]) for values in ("per_image", "against_true")
        )
        alone = torch.cat([loss[name].per_image for loss in apart])
        assert torch.allclose(together, alone, atol=1e-6)
        assert torch.allclose(true, torch.cat([loss[name].against_true for loss in apart]))
        ours, theirs = (torch.autograd.grad(value.sum(), predicted[name][1])[0] for value in (together, alone))
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert (true != together).sum() == 10  # five of each source of codes

    run_training(recipe(), caches=caches, out=tmp_path / "whole", quiet=True)
    begin(caches, tmp_path / "pieces", recipe())
    run_training(recipe(), caches=caches, out=tmp_path / "pieces", resume=True, quiet=True)
    assert same_run(tmp_path / "whole", tmp_path / "pieces")


def test_what_does_not_fit_is_refused_together(tmp_path: Path) -> None:
    """Two codes of one teacher, running averages of codes, and what else is wrong with the data."""
    build_coded(tmp_path / "one", {"alpha": 8})
    build_coded(tmp_path / "two", {"alpha": 4}, seed=1, first_view=1)
    caches = [str(tmp_path / "one"), str(tmp_path / "two")]
    with pytest.raises(InvalidConfig) as caught:
        open_mixture(recipe(targets__norm="ema", data__teachers=["alpha", "gamma"]), caches)
    text = "\n".join(caught.value.problems)
    assert "data.teachers[1]: 'gamma' is not in this cache" in text
    assert "targets.norm: 'ema' would take the noise of codes for spread of alpha" in text
    digests = [code_of("alpha", ratio=ratio).spec.digest[:12] for ratio in (8.0, 4.0)]
    assert "teacher 'alpha' is stored in different codes: " in text
    assert all(f"{digest} in 'faces' of '{cache}'" in text for cache, digest in zip(caches, digests, strict=True))
    sources = [source for cache in caches for source in open_mixture(recipe(), [cache]).sources]
    with pytest.raises(InvalidInput, match=r"teacher 'alpha' is stored in different codes: .* in 'faces'"):
        cached_forms(sources, ["alpha"])


def test_a_sweep_trains_from_codes_as_single_runs_do(tmp_path: Path) -> None:
    build_coded(tmp_path / "cache", {"alpha": 8, "beta": 8}, coded_splits=("train", "val"))
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        'title = "codes"\nbase = "tiny"\nbaseline = "all"\nseeds = [0]\n'
        'overrides = { "schedule.steps" = 2, "machine.threads" = 1 }\n'
        '[[row]]\nname = "all"\n[[row]]\nname = "sharing"\nset = { sharing.mode = "none" }\n'
    )
    arguments = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(["sweep", str(sweep), *arguments]) == 0
    single = tiny(schedule__steps=2, machine__threads=1)
    run_training(single, caches=[str(tmp_path / "cache")], out=tmp_path / "single", quiet=True)
    swept = log.read(tmp_path / "out/all/seed-0", log.STEP)
    assert [step["loss"] for step in swept] == [step["loss"] for step in log.read(tmp_path / "single", log.STEP)]
    assert "decoded" in (tmp_path / "out/comparison.md").read_text()


def test_a_code_that_is_not_the_recorded_one_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    """Whichever dataset it is of: one of them is decoded with, all were encoded with their own."""
    build_coded(tmp_path / "cache", {"alpha": 8})
    codes = sorted(tmp_path.glob("cache/features.zarr/*/alpha/code"))
    assert len(codes) > 1
    for code in codes:
        rotation = next(code.glob("rotation/c*"))
        whole = rotation.read_bytes()
        rotation.write_bytes(whole[::-1])
        with pytest.raises(Damaged, match=f"{code.parents[1].name}.*rotation"):
            run_training(recipe(), caches=[str(tmp_path / "cache")], out=tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
        rotation.write_bytes(whole)


def test_running_averages_of_codes_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    build_coded(tmp_path / "cache", {"alpha": 8})
    command = ["train", "run", "tiny", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    program = (
        "import sys; from train.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *command[1:], "--targets.norm", "ema"], capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert "'ema' would take the noise of codes for spread of alpha" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_statistics_are_those_of_true_tokens(tmp_path: Path) -> None:
    """Of all rows, and of a subset, where rows of a code weigh their dataset's statistics."""
    build_cache(tmp_path / "true", teachers=SEERS, size_px=SIZE_PX)
    build_coded(tmp_path / "coded", {"alpha": SUBSET_RATIO, "beta": 8})
    found = {}
    for name in ("true", "coded"):
        mixture = open_mixture(recipe(), [str(tmp_path / name)])
        found[name] = exact_norms(mixture).state_dict()
        subset = open_mixture(recipe(data__subset="row < 4"), [str(tmp_path / name)])
        norms = TargetNorms(subset.teachers)
        set_exact(norms, subset, over_subset=True)
        found[name + " subset"] = norms.state_dict()
    assert all(torch.equal(found["true"][name], found["coded"][name]) for name in found["true"])
    # each group is one dataset, and groups weigh alike whatever is left of them
    assert all(torch.equal(found["coded"][name], found["coded subset"][name]) for name in found["coded"])
    assert any(not torch.equal(found["true"][name], found["true subset"][name]) for name in found["true"])


def test_a_run_keeps_the_form_of_its_targets(tmp_path: Path) -> None:
    """A teacher that was stored again, in a code, is other data than the run began with."""
    cache = build_cache(tmp_path / "cache", teachers=SEERS, size_px=SIZE_PX)
    caches, out = [str(tmp_path / "cache")], tmp_path / "run"
    begin(caches, out, recipe())
    faces = cache["faces"]
    info, code = faces.teacher("alpha"), code_of("alpha", ratio=8)
    tokens = faces.read(np.arange(faces.rows), ["alpha"])["alpha"]
    faces.delete_teacher("alpha")
    faces = store.open(tmp_path / "cache")["faces"]
    faces.create_teacher(
        "alpha",
        identity=info.identity,
        groups=info.groups,
        patch_grid=info.patch_grid,
        prefix_tokens=info.prefix_tokens,
        channels=info.channels,
        code=code,
    )
    for shard in range(faces.shards):
        digest = faces.read_trailer("pixels", shard).digest
        with faces.write_shard("alpha", shard, provenance={}, pixels_digest=digest) as writer:
            for row in faces.shard_rows_of(shard):
                writer.append(tokens[row])
            writer.finish()
    store.seal(store.open(tmp_path / "cache"))
    expected = f"'faces': stored form.alpha: stored 'float16', asked '{code.spec.digest}'"
    with pytest.raises(Conflict, match=expected):
        run_training(recipe(), caches=caches, out=out, resume=True, quiet=True)
    run_training(recipe(), caches=caches, out=tmp_path / "new", quiet=True)
    assert directory.read_description(tmp_path / "new")["caches"][0]["datasets"]["faces"]["codes"] == {
        "alpha": code.spec.digest
    }
