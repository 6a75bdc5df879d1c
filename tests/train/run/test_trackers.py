"""Experiment trackers get every record of a run once, also when it is resumed, and never stop it."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from store.errors import InvalidConfig
from tests.train.builders import build_cache, tiny
from tests.train.stories import stop_after
from train.loop import train
from train.recipe.config import Recipe
from train.run import log, trackers
from train.run.log import RunLogger
from train.run.trackers import FILE, TrackedRun, open_trackers

STEPS, STOPPED = 5, 3
BLOCK_BYTES, HEADER = 2**15, struct.Struct("<IHB")  # of wandb's offline file: LevelDB's log format
WHOLE, LAST = 1, 4


class Recorder:
    """A tracker that keeps what it gets; it fails in the methods of `failing`."""

    name = trackers.WANDB

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.runs: list[TrackedRun] = []
        self.got: list[tuple[int, str]] = []
        self.ends: list[bool] = []

    def begin(self, run: TrackedRun) -> str:
        self._fail("begin")
        self.runs.append(run)
        return "begun"

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        self._fail("log")
        self.got.append((step, min(numbers)))

    def picture(self, name: str, path: Path, *, step: int) -> None:
        self._fail("picture")
        assert path.stat().st_size
        self.got.append((step, name))

    def end(self, *, failed: bool) -> None:
        self._fail("end")
        self.ends.append(failed)

    def _fail(self, method: str) -> None:
        if method in self.failing:
            raise ConnectionError(f"{method}: no route to host\nand a long story")


def recipe(**values: Any) -> Recipe:
    return tiny(schedule__steps=STEPS, checkpoint__every_steps=2, machine__threads=1, **values)


def step_record(step: int) -> log.Record:
    return {"kind": log.STEP, "step": step, "loss": 0.5, "note": "text", "nothing": None}


def write_log(run: Path, *steps: int) -> None:
    (run / log.LOG).write_text("".join(json.dumps(step_record(step)) + "\n" for step in steps))


def follow(run: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch, *, done: int, steps: range) -> list[str]:
    """Train a run for some steps without the training; returns the lines shown."""
    monkeypatch.setattr(trackers, "KINDS", {trackers.WANDB: lambda: recorder})
    follower = open_trackers(recipe(log__wandb=True), run)
    log.truncate(run, after_step=done or -1)
    lines: list[str] = []
    logger = RunLogger(
        run,
        done=done,
        steps=9,
        tensorboard=False,
        follower=follower,
        listener=lambda kind, text: lines.append(text) if kind == "show" else None,
    )
    numbers = {"images_per_s": 1.0, "data_wait_s": 0.0, "step_s": 1.0}
    with logger:
        for step in steps:
            logger.step({**step_record(step), **numbers})
    return lines


def test_steps_taken_again_are_not_sent_again_and_the_run_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed after step 5 goes on from the checkpoint of step 3."""
    first, second = Recorder(), Recorder()
    follow(tmp_path, first, monkeypatch, done=0, steps=range(1, 6))
    follow(tmp_path, second, monkeypatch, done=3, steps=range(4, 8))
    assert [step for step, _ in first.got + second.got] == [1, 2, 3, 4, 5, 6, 7]
    ((before,), (after,)) = first.runs, second.runs
    assert (before.id, before.name, before.resumed, after.resumed) == (after.id, after.name, False, True)
    assert before.id in before.name
    assert before.config["schedule"]["steps"] == STEPS


def test_a_tracker_that_comes_later_gets_the_steps_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, 1, 2, 3, 4)
    late = Recorder()
    follow(tmp_path, late, monkeypatch, done=3, steps=range(4, 6))
    assert [step for step, _ in late.got] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_left_out_after_one_warning(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Recorder(method)
    lines = follow(tmp_path, failing, monkeypatch, done=0, steps=range(1, 4))
    (warning,) = [line for line in lines if line.startswith("warning")]
    expected = f"ConnectionError: {method}: no route to host"
    assert warning == f"warning: wandb failed and is left out, the training goes on: {expected}"
    assert len(log.read(tmp_path)) == 3


def test_an_error_of_the_training_ends_the_run_of_the_tracker_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(trackers, "KINDS", {trackers.WANDB: lambda: recorder})
    follower = open_trackers(recipe(log__wandb=True), tmp_path)
    with (
        pytest.raises(RuntimeError),
        RunLogger(tmp_path, done=0, steps=9, tensorboard=False, quiet=True, follower=follower),
    ):
        raise RuntimeError
    assert recorder.ends == [True]


def test_other_ranks_send_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder("begin", "end")
    monkeypatch.setattr(trackers, "KINDS", {trackers.WANDB: lambda: recorder})
    follower = open_trackers(recipe(log__wandb=True), tmp_path)
    with RunLogger(tmp_path, done=0, steps=9, tensorboard=False, silent=True, follower=follower) as logger:
        logger.picture("curves", tmp_path, step=1)
    assert not (tmp_path / FILE).exists()


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_cache(tmp_path / "cache")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InvalidConfig, match=r"wandb is not installed. Run: pip install 'codistill\[wandb\]'"):
        train(recipe(log__wandb=True), caches=[str(tmp_path / "cache")], out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> tuple[Path, dict[str, Any]]:
    """Train a run in two parts, nothing of which leaves the folder; returns it and its `trackers.json`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    build_cache(tmp_path / "cache")
    whole, out = recipe(**values), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, STOPPED)
        assert not train(whole, caches=[str(tmp_path / "cache")], out=out, quiet=True).finished
    assert train(whole, caches=[str(tmp_path / "cache")], out=out, resume=True, quiet=True).finished
    stored: dict[str, Any] = json.loads((out / FILE).read_text())
    return out, stored


def offline_records(path: Path) -> Iterator[Any]:
    """Records of a `.wandb` file, read without wandb's own reader."""
    from wandb.proto import wandb_internal_pb2

    data, at, joined = path.read_bytes(), HEADER.size, b""
    while at + HEADER.size <= len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER.size:
            at += left
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size + length
        joined += data[at - length : at]
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(joined)
            yield record
            joined = b""


@pytest.mark.parametrize("content", ["{", "[]", '{"trackers": 7, "id": {}}', '{"trackers": [[]], "name": 3}'])
def test_a_damaged_identity_stops_nothing(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text(content)
    recorder = Recorder()
    follow(tmp_path, recorder, monkeypatch, done=0, steps=range(1, 3))
    assert [step for step, _ in recorder.got] == [1, 2]


def test_weights_and_biases_that_cannot_be_reached_is_written_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    modes = []

    def unreachable(*, mode: str, **_: Any) -> object:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route to host")
        return object()

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", unreachable)
    run = TrackedRun(directory=tmp_path, project="p", name="n", id="i", config={})
    told = trackers.WandbTracker().begin(run)
    assert modes == ["online", "offline"]
    assert told.startswith("offline (CommError: no route to host). Send it with: wandb sync ")


def test_weights_and_biases_without_a_login_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    out, stored = stopped_and_resumed(tmp_path, monkeypatch, log__wandb=True, log__project="mine")
    wandb.teardown()
    parts = sorted((out / "wandb").glob(f"offline-run-*-{stored['id']}/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(parts) == 2
    assert not list(tmp_path.glob("home/.cache/wandb"))  # beside the run, with all else
    values: dict[int, dict[str, Any]] = {}
    for part in parts:
        for record in offline_records(part):
            if record.HasField("run"):
                assert (record.run.project, record.run.display_name) == ("mine", stored["name"])
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert config["schedule"]["steps"] == STEPS
            if record.HasField("history"):
                row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                step = json.loads(row["_step"])
                assert not {name for name in row if name[0] != "_"} & set(values.get(step, {}))
                values.setdefault(step, {}).update(row)
    losses = {record["step"]: record["loss"] for record in log.read(out, log.STEP)}
    assert {step: json.loads(row["step/loss"]) for step, row in values.items() if "step/loss" in row} == losses
    assert "fidelity/datasets/held/alpha/cosine" in values[STEPS]
    assert (parts[-1].parent / "files" / json.loads(values[STEPS]["curves/path"])).stat().st_size


def test_trackio_gets_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    out, stored = stopped_and_resumed(tmp_path, monkeypatch, log__trackio=True, log__run_name="mine")
    (run,) = trackio.Api().runs("codistill")
    assert run.name == "mine"
    assert run.config["schedule"]["steps"] == STEPS
    assert stored["trackers"] == ["trackio"]
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("codistill", "mine", run_id=run.id)
    losses = [(record["step"], record["loss"]) for record in log.read(out, log.STEP)]
    assert [(row["step"], row["step/loss"]) for row in rows if "step/loss" in row] == losses
    assert any("fidelity/datasets/held/alpha/cosine" in row for row in rows if row["step"] == STEPS)
    assert list((tmp_path / "trackio").rglob("*.png"))
