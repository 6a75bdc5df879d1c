"""A shard exists whole or not at all: who wins, what is left behind, what is swept."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import store
from store import errors
from store.storage import publish
from tests.store.builders import fill, make_dataset, pixels_of, tokens_of, write_pixels, write_tokens

TOKENS = Path("features.zarr/bedlam/t/tokens")


def refuse_links(source: object, target: object) -> None:
    raise OSError(errno.EPERM, "no links here")


@pytest.mark.parametrize("links", [True, False])
def test_the_first_publisher_wins_and_the_loser_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 0)
    digest = dataset.read_trailer("pixels", 0).digest
    first = dataset.write_shard("t", 0, provenance={"writer": 1}, pixels_digest=digest)
    second = dataset.write_shard("t", 0, provenance={"writer": 2}, pixels_digest=digest)
    with first, second:
        for row in dataset.shard_rows_of(0):
            first.append(tokens_of(row))
            second.append(tokens_of(row))
        assert dataset.present("t") == frozenset()
        assert second.finish() is True
        assert first.finish() is False
    assert dataset.read_trailer("t", 0).provenance == {"writer": 2}
    assert sorted(os.listdir(tmp_path / TOKENS)) == ["c.0.0.0", "zarr.json"]


def test_leaving_the_block_without_finish_removes_what_was_written(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with dataset.write_shard("pixels", 0, provenance={}) as writer:
        writer.append(pixels_of(0))
        assert len(os.listdir(tmp_path / "features.zarr/bedlam/pixels")) == 2
    assert os.listdir(tmp_path / "features.zarr/bedlam/pixels") == ["zarr.json"]
    with pytest.raises(errors.InvalidInput, match="finished or discarded"):
        writer.append(pixels_of(0))


def test_a_claim_of_a_dead_writer_is_inherited_and_of_a_live_one_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(publish, "CLAIM_PATIENCE_S", 0.0)
    dead = publish.Writer(**{**vars(publish.Writer.here()), "pid": dead_pid()})

    def publish_one(name: str) -> bool:
        temporary = publish.temporary_path(tmp_path / name)
        temporary.write_text("data")
        return publish.publish(temporary, tmp_path / name)

    (tmp_path / "a.claim-0").write_text(str(dead))
    (tmp_path / "a.claim-1").write_text(str(dead))
    assert publish_one("a")
    (tmp_path / "b.claim-0").write_text(str(publish.Writer.here()))
    assert not publish_one("b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b.claim-0"]


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_leftovers_of_the_dead_are_swept_and_those_of_others_kept(tmp_path: Path) -> None:
    here = publish.Writer.here()
    old = time.time() - publish.STALE_AFTER_S - 60
    writers = {
        "dead": publish.Writer(here.host, here.boot, here.pids, dead_pid()),
        "alive": here,
        "other_host": publish.Writer("elsewhere", "f" * 32, here.pids, 1),
        "other_container": publish.Writer(here.host, here.boot, "1", dead_pid()),
    }
    for name, writer in writers.items():
        for age in ("new", "old"):
            path = tmp_path / f"c.{name}-{age}.tmp~{writer}~0f"
            path.write_text("partial")
            if age == "old":
                os.utime(path, (old, old))
    (tmp_path / "done").write_text("whole")
    (tmp_path / "done.claim-0").write_text(str(here))
    (tmp_path / "undone.claim-0").write_text(str(writers["dead"]))
    publish.sweep(tmp_path)
    kept = sorted(name.partition(".tmp")[0] for name in os.listdir(tmp_path))
    assert kept == ["c.alive-new", "c.other_container-new", "c.other_host-new", "done", "undone.claim-0"]


KILLED_WRITER = """
import sys
from tests.store.builders import store, tokens_of
dataset = store.open(sys.argv[1])["bedlam"]
with dataset.write_shard("t", 0, provenance={}, pixels_digest=sys.argv[2]) as writer:
    for row in (0, 1, 2):
        writer.append(tokens_of(row))
    print("written", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_no_shard_and_the_next_seal_removes_its_file(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset)
    (tmp_path / TOKENS / "c.0.0.0").unlink()
    digest = dataset.read_trailer("pixels", 0).digest
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path), digest]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert not store.seal(tmp_path).removed  # its writer is alive
        process.send_signal(signal.SIGKILL)
    assert dataset.present("t") == {1, 2}
    (leftover,) = [name for name in os.listdir(tmp_path / TOKENS) if publish.is_temporary(name)]
    report = store.seal(tmp_path)
    assert report.removed == (str(TOKENS / leftover),)
    assert [array.missing for array in report.arrays] == [0, 4]
    assert write_tokens(dataset, 0)
    assert store.seal(tmp_path).complete
