"""A training as a whole: exact resume after any end, refusals, divergence, fine-tuning."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train.loop
import train.step
from backbones.timm_library import timm
from store.common.interrupts import INTERRUPTED
from store.errors import Conflict, Damaged, Diverged, OutputExists
from tests.children import context
from tests.points import Kill, Point, Record
from tests.train.builders import DATASETS, build_cache, tiny
from tests.train.children import HoldAtStep, KillAtStep, start_command
from tests.train.stories import assert_close, same_run, stop_after, weights
from train.__main__ import main
from train.export.run import export_run
from train.loop import train as run_training
from train.model.encoder import resized_to_grid
from train.run import checkpoints, log
from train.run.interrupt import StopRequest
from train.run.load import load

EVERYTHING = {
    "targets__norm": "ema",
    "optim__micro_batches": 2,
    "optim__precision": "bf16",
    "data__augment": "photometric",
    "machine__threads": 1,
}


@pytest.fixture
def cache(tmp_path: Path) -> str:
    build_cache(tmp_path / "cache")
    return str(tmp_path / "cache")


@pytest.mark.parametrize("overrides", [{"machine__threads": 1}, EVERYTHING], ids=["defaults", "everything"])
def test_stopped_at_any_step_and_resumed_is_the_undisturbed_run(
    overrides: dict[str, Any], cache: str, tmp_path: Path
) -> None:
    recipe = tiny(schedule__steps=8, **overrides)
    run_training(recipe, caches=[cache], out=tmp_path / "whole", quiet=True)
    out = tmp_path / "pieces"
    for step in (1, 3, 6):
        with pytest.MonkeyPatch.context() as patched:
            stop_after(patched, step)
            outcome = run_training(recipe, caches=[cache], out=out, resume=True, quiet=True)
        assert (outcome.step, outcome.finished) == (step, False)
    assert run_training(recipe, caches=[cache], out=out, resume=True, quiet=True).finished
    assert same_run(tmp_path / "whole", out)


def test_signals_ask_and_a_second_ctrl_c_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        for _ in range(2):  # launchers send several
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_a_checkpoint(number: signal.Signals, cache: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["run", "tiny", "--cache", cache, "--out", str(out), "--schedule.steps", "100000"]
    never = ["--checkpoint.every-steps", "0", "--log.fidelity-every-steps", "0"]
    arrived, arriving = context().Pipe(duplex=False)
    held = HoldAtStep(number=3, arrived=arriving)
    child = start_command(*command, *never, output=tmp_path / "output.txt", prepare=held)
    arriving.close()
    arrived.recv()  # raises if the child ends before it is there
    os.kill(int(child.pid or 0), number)
    child.join()
    output = (tmp_path / "output.txt").read_text()
    assert child.exitcode == INTERRUPTED, output
    last = log.read(out, log.STEP)[-1]["step"]
    assert 3 <= last <= 5  # the step that was being logged, those under way and no more
    assert f"stopped after step {last} of 100000" in output
    assert checkpoints.saved(out / "checkpoints") == [last]


def test_killed_anywhere_and_resumed_is_the_undisturbed_run(cache: str, tmp_path: Path) -> None:
    """SIGKILL while steps are logged, and between the files of a checkpoint."""
    recipe = tiny(schedule__steps=10, checkpoint__every_steps=3, machine__threads=1)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["run", str(tmp_path / "recipe.json"), "--cache", cache, "--resume", "--out"]
    record = Record(folder=whole / "checkpoints", file=tmp_path / "calls.txt")
    start_command(*command, str(whole), output=tmp_path / "output.txt", prepare=record).join()
    first_save = record.file.read_text().split().index("rename") + 1
    kills = [
        *(KillAtStep(number=number) for number in (2, 3)),
        *(Kill(point=Point(folder=killed / "checkpoints", number=number)) for number in range(2, first_save + 2, 2)),
        KillAtStep(number=2),
    ]
    for kill in kills:
        child = start_command(*command, str(killed), output=tmp_path / "output.txt", prepare=kill)
        child.join()
        assert child.exitcode == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    run_training(recipe, caches=[cache], out=killed, resume=True, quiet=True)
    assert same_run(whole, killed)


def test_a_run_goes_on_with_nothing_else(cache: str, tmp_path: Path) -> None:
    recipe, out = tiny(schedule__steps=1), tmp_path / "run"
    run_training(recipe, caches=[cache], out=out, quiet=True)
    with pytest.raises(
        OutputExists, match="--resume to continue it, --overwrite to delete it, or choose another --out"
    ):
        run_training(recipe, caches=[cache], out=out, quiet=True)
    with pytest.raises(Conflict, match=r"seed: stored 0, asked 1.*optim.lr|optim.lr.*seed: stored 0, asked 1"):
        run_training(tiny(schedule__steps=1, seed=1, optim__lr=1.0), caches=[cache], out=out, resume=True, quiet=True)
    build_cache(tmp_path / "other", failed={("rooms", "beta"): [2]})
    with pytest.raises(Conflict, match=r"^another cache: uuid"):
        run_training(recipe, caches=[str(tmp_path / "other")], out=out, resume=True, quiet=True)
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert run_training(recipe, caches=[str(tmp_path / "moved")], out=out, resume=True, quiet=True).finished


def test_what_is_no_run_is_never_deleted(cache: str, tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years")
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(OutputExists, match="not a run"):
            run_training(tiny(), caches=[cache], out=precious.parent, quiet=True, **options)
    assert precious.read_text() == "years"


def test_a_run_killed_before_its_first_file_was_complete_begins_again(cache: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cache.json").write_text("{}")
    assert run_training(tiny(), caches=[cache], out=tmp_path / "run", resume=True, quiet=True).finished


def test_a_loss_that_is_not_finite_stops_before_the_step(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = train.step.normalise, []

    def poisoned(pixels: torch.Tensor) -> torch.Tensor:
        images = before(pixels)
        if len(seen) == 2:
            images[4] = torch.nan
        seen.append(1)
        return images

    monkeypatch.setattr(train.step, "normalise", poisoned)
    batches: list[Any] = []
    fill = train.loop.Loader._fill
    monkeypatch.setattr(
        train.loop.Loader, "_fill", lambda self, buffer, step: batches.append(fill(self, buffer, step)) or batches[-1]
    )
    recipe = tiny(schedule__steps=6, checkpoint__every_steps=1, log__fidelity_every_steps=0)
    with pytest.raises(Diverged) as caught:
        run_training(recipe, caches=[cache], out=tmp_path / "run", quiet=True)
    rows = batches[2].rows
    name = ("faces", "rooms")[int(rows.source[4])]
    assert f"step 3: the loss is not finite for 1 of 6 images (dataset/row: {name}/{rows.row[4]})" in str(caught.value)
    assert checkpoints.saved(tmp_path / "run" / "checkpoints") == [1, 2]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_a_gradient_that_is_not_finite_is_not_saved(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.step, "clip_per_tensor", lambda parameters, norm: torch.tensor([1.0, torch.inf]))
    with pytest.raises(Diverged, match="step 1: the gradient is not finite"):
        run_training(tiny(checkpoint__every_steps=1), caches=[cache], out=tmp_path / "run", quiet=True)
    assert checkpoints.saved(tmp_path / "run" / "checkpoints") == []


def test_compiled_is_the_same(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch.compile, without the slow code generation; checkpoints hold the student's own names."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for out in (plain, compiled):
        recipe = tiny(schedule__steps=3, machine__threads=1, optim__compile=out is compiled)
        run_training(recipe, caches=[cache], out=out, quiet=True)
    assert_close(plain, compiled, tolerance=1e-5)
    assert weights(plain).keys() == weights(compiled).keys()


def test_checkpoints_are_whole_and_few(cache: str, tmp_path: Path) -> None:
    recipe = tiny(schedule__steps=5, checkpoint__every_steps=1, checkpoint__keep=2)
    run_training(recipe, caches=[cache], out=tmp_path / "run", quiet=True)
    directory = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in directory.iterdir()) == ["step-00000004", "step-00000005"]
    assert json.loads((directory / "step-00000005" / "state.json").read_text())["step"] == 5
    optimizer = load_file(directory / "step-00000005" / "optimizer.safetensors")
    assert {name.split("/")[0] for name in optimizer} == {"step", "exp_avg", "exp_avg_sq"}
    (directory / "step-00000005" / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(Damaged, match="Remove that directory"):
        load(tmp_path / "run")
    assert load(tmp_path / "run", step=4).step == 4


def test_a_run_reads_back_as_trained_and_as_begun(cache: str, tmp_path: Path) -> None:
    recipe = tiny(schedule__steps=6, optim__lr=1.0, log__tensorboard=True)
    run_training(recipe, caches=[cache], out=tmp_path / "run", quiet=True)
    run = load(tmp_path / "run")
    assert (run.step, run.recipe, set(run.teachers), run.image_size) == (6, recipe, {"alpha", "beta"}, 28)
    assert not run.distiller.training
    trained, begun = run.distiller.state_dict(), run.initial().state_dict()
    moved = [name for name in trained if not torch.equal(trained[name], begun[name])]
    assert moved
    assert all(not name.startswith("encoder.norm") for name in moved)
    assert [record["step"] for record in run.log if record["kind"] == log.STEP] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss_per_teacher/alpha")] == [1, 2, 3, 4, 5, 6]


def test_fine_tuning_begins_with_the_weights_of_a_run_at_another_size(cache: str, tmp_path: Path) -> None:
    run_training(tiny(schedule__steps=3), caches=[cache], out=tmp_path / "small", quiet=True)
    build_cache(tmp_path / "large", size_px=56)
    recipe = tiny(schedule__steps=1, start__checkpoint=str(tmp_path / "small"), start__required=True)
    run_training(recipe, caches=[str(tmp_path / "large")], out=tmp_path / "fine", quiet=True)
    small, begun = load(tmp_path / "small").distiller, load(tmp_path / "fine").initial()
    ours, theirs = begun.state_dict(), small.state_dict()
    assert ours.pop("encoder.pos_embed").shape[1] == 17
    assert theirs.pop("encoder.pos_embed").shape[1] == 5
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_sharing_modes_read_and_train_only_what_they_use(tmp_path: Path) -> None:
    """Without sharing, rows that the other teacher failed on are used, and its loss is not reported."""
    build_cache(tmp_path / "cache", datasets={"faces": DATASETS["faces"]}, failed={("faces", "beta"): range(9)})
    recipe = tiny(sharing__mode="none", schedule__steps=2)
    run_training(recipe, caches=[str(tmp_path / "cache")], out=tmp_path / "run", quiet=True)
    for record in log.read(tmp_path / "run", log.STEP):
        assert record["loss_per_teacher"]["beta"] is None
        assert record["kept"] == {"alpha": 1.0, "beta": 0.0}
        assert record["loss"] == pytest.approx(record["loss_per_teacher"]["alpha"], rel=1e-6)


def test_a_run_is_handed_on_to_timm(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_training(tiny(schedule__steps=2), caches=[cache], out=tmp_path / "run", quiet=True)
    command = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "student")]
    assert main(command) == 0
    assert "local-dir:" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    images = torch.randn(2, 3, 28, 28)
    encoder = load(tmp_path / "run").distiller.encoder
    with torch.no_grad():
        assert torch.allclose(model.forward_features(images), encoder(images), atol=1e-5)
    card = (tmp_path / "student" / "README.md").read_text()
    assert "| held-out dataset | alpha | beta |" in card
    assert "| faces | people | 10 |" in card
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_export_takes_images_of_the_encoders_own_size(cache: str, tmp_path: Path) -> None:
    """A patch of 16 px on cells of 14 sees views of 28 px enlarged to 32, and that is what it is handed on for."""
    run_training(tiny(schedule__steps=1, student__patch_size=16), caches=[cache], out=tmp_path / "run", quiet=True)
    run = load(tmp_path / "run")
    export_run(run, tmp_path / "student")
    model = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    images = torch.randn(2, 3, 28, 28)
    enlarged = resized_to_grid(images, patch_size=16, cell_px=14)
    patches = model.forward_intermediates(enlarged, norm=False, output_fmt="NLC", intermediates_only=True)[-1]
    with torch.no_grad():
        assert torch.allclose(patches, run.distiller.features(images)[1][:, 1:], atol=1e-5)


def test_a_name_of_a_file_is_no_directory_to_export_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "a.pt")]) == 2
    assert "a.pt' is the name of a file, and timm's format is a directory. Give --out" in capsys.readouterr().err
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize(("precision", "supported"), [("bf16", False), ("bf16", True), ("fp32", False)])
def test_slow_bf16_is_told_at_the_start(
    precision: str,
    supported: bool,
    cache: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False)
    run_training(tiny(schedule__steps=1, optim__precision=precision), caches=[cache], out=tmp_path / "run")
    notes = [line for line in capsys.readouterr().err.splitlines() if "no bf16 instructions" in line]
    assert len(notes) == (precision == "bf16" and not supported)
    assert all("--optim.precision fp32" in note for note in notes)
