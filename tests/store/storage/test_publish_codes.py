"""A shard of codes exists whole or not at all: two writers, and writers that are killed while they encode."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import store
from store.format.code_encode import Encoder
from store.storage import publish
from store.verify.verify import verify
from tests.store import caches
from tests.store.caches import CODED, DATASETS, contents

FLOWERS = DATASETS[0]
CODES = Path("features.zarr/flowers/vit/codes")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("publish") / "cache"
    caches.make_cache(root, DATASETS[:1], [CODED])
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy without the second shard of codes."""
    root = Path(shutil.copytree(whole, tmp_path / "cache"))
    (root / CODES / "c.1.0").unlink()
    return root


def tokens_of(row: int) -> np.ndarray:
    return caches.tokens_of(CODED, caches.pixels_of("flowers", row, FLOWERS.views))


def test_the_first_of_two_writers_wins_and_the_other_leaves_nothing(root: Path, whole: Path) -> None:
    one, two = store.open(root)["flowers"], store.open(root)["flowers"]
    digest = one.read_trailer("pixels", 1).digest
    first = one.write_shard("vit", 1, provenance={"device": "tests"}, pixels_digest=digest)
    second = two.write_shard("vit", 1, provenance={"device": "tests"}, pixels_digest=digest)
    with first, second:
        for row in one.shard_rows_of(1):
            first.append(tokens_of(row))
            second.append(tokens_of(row))
        assert 1 not in one.present("vit")
        assert second.finish() is True
        assert first.finish() is False
    assert contents(root) == contents(whole)


KILLED_WRITER = """
import sys
from pathlib import Path
import store
from tests.store.storage.test_publish_codes import tokens_of
dataset = store.open(sys.argv[1])["flowers"]
digest = dataset.read_trailer("pixels", 1).digest
with dataset.write_shard("vit", 1, provenance={"device": "tests"}, pixels_digest=digest) as writer:
    for row in dataset.shard_rows_of(1)[: int(sys.argv[2])]:
        writer.append(tokens_of(row))
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("rows", [1, 4])
def test_a_killed_writer_leaves_no_shard_and_another_makes_the_same(root: Path, whole: Path, rows: int) -> None:
    command = [sys.executable, "-c", KILLED_WRITER, str(root), str(rows)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert store.open(root)["flowers"].present("vit") == {0, 2}
    (leftover,) = [name for name in os.listdir(root / CODES) if publish.is_temporary(name)]
    assert store.seal(root).removed == (str(CODES / leftover),)
    caches.write_tokens(store.open(root), FLOWERS, CODED, 1)
    store.seal(root)
    assert contents(root) == contents(whole)
    assert verify(root).ok


def test_a_writer_whose_encoder_fails_leaves_no_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Encoder, tokens: np.ndarray, rows: np.ndarray) -> None:
        raise MemoryError

    monkeypatch.setattr(Encoder, "encode", fail)
    with pytest.raises(MemoryError):
        caches.write_tokens(store.open(root), FLOWERS, CODED, 1)
    assert sorted(os.listdir(root / CODES)) == ["c.0.0", "c.2.0", "zarr.json"]
