"""A run directory is trained by one process at a time."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import Conflict, OutputExists
from tests.train.builders import build_cache, tiny
from train.loop import train
from train.run import checkpoints
from train.run.lock import FILE, RunLock

HOLDER = """
import sys
from pathlib import Path
from train.run.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    lock.acquire()
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    location = tmp_path_factory.mktemp("lock") / "cache"
    build_cache(location)
    return str(location)


def test_a_second_training_is_refused_at_once_and_touches_nothing(cache: str, tmp_path: Path) -> None:
    recipe, out = tiny(schedule__steps=2, checkpoint__every_steps=1), tmp_path / "run"
    train(recipe, caches=[cache], out=out, quiet=True)
    half_written = out / "checkpoints" / ".step-00000003"
    half_written.mkdir()
    before = sorted(path for path in out.rglob("*"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        held = f"is being trained by process {holder.pid} on '{socket.gethostname()}' since "
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(Conflict, match=held):
                # the cache is not even looked for
                train(recipe, caches=["/nowhere"], out=out, quiet=True, **options)
        assert sorted(path for path in out.rglob("*")) == before
        os.kill(holder.pid, signal.SIGKILL)
    assert train(recipe, caches=[cache], out=out, resume=True, quiet=True).finished
    assert not half_written.exists()
    assert train(recipe, caches=[cache], out=out, overwrite=True, quiet=True).finished
    assert checkpoints.saved(out / "checkpoints") == [1, 2]


def test_two_that_begin_the_same_run(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    with first, second:
        first.acquire()
        first.acquire()
        assert first.held
        with pytest.raises(Conflict, match=f"process {os.getpid()} "):
            second.acquire()
        assert not second.held
    with second:
        second.acquire()
        assert second.held


def test_nothing_is_written_where_there_is_no_run(cache: str, tmp_path: Path) -> None:
    (tmp_path / "photograph.jpg").write_bytes(b"")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputExists, match="not a run"):
            train(tiny(schedule__steps=1), caches=[cache], out=tmp_path, quiet=True, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["photograph.jpg"]


def test_a_file_system_without_locks_is_told_and_trained_on(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refusing)
    assert train(tiny(schedule__steps=1), caches=[cache], out=tmp_path / "run").finished
    shown = capsys.readouterr().err
    assert "cannot be locked on this file system (no locks available)" in shown
    assert (tmp_path / "run" / FILE).exists()
