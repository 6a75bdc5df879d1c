"""Checkpoints are whole, checked when they are read, and a failed save leaves the earlier ones and nothing else."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from store.common.checksums import SUMS
from store.errors import Damaged, StorageFailed
from store.storage import publish
from train.run import checkpoints
from train.run.checkpoints import MODEL, OPTIMIZER, STATE, Checkpoint


def content(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        model={"distiller.weight": torch.arange(6.0) + step},
        optimizer={"exp_avg/weight": torch.arange(6.0) - step},
        state={"steps": 9, "images": 3 * step},
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        checkpoints.save(tmp_path, content(step), keep=2)
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_flipped_bit_is_refused_with_both_sums(directory: Path) -> None:
    chosen = random.Random(0)
    for name in (MODEL, OPTIMIZER, STATE, SUMS):
        path = directory / "step-00000002" / name
        whole = path.read_bytes()
        bits = range(8 * len(whole)) if name == SUMS else chosen.sample(range(8 * len(whole)), 100)
        for bit in bits:
            flip(path, bit)
            with pytest.raises(Damaged, match=f"step-00000002.*{SUMS}.*go on from the checkpoint of step 1"):
                checkpoints.load(directory)
            flip(path, bit)
        assert path.read_bytes() == whole
    assert torch.equal(checkpoints.load(directory).optimizer["exp_avg/weight"], torch.arange(6.0) - 2)
    assert checkpoints.load(directory, 1, optimizer=False).state["images"] == 3


def test_whoever_may_list_a_checkpoint_may_read_its_files(directory: Path) -> None:
    checkpoint = directory / "step-00000002"
    allowed = checkpoint.stat().st_mode & 0o666
    assert {path.name: path.stat().st_mode & 0o777 for path in checkpoint.iterdir()} == dict.fromkeys(
        (MODEL, OPTIMIZER, STATE, SUMS), allowed
    )


def test_the_message_names_file_expected_found_and_way_out(directory: Path) -> None:
    path = directory / "step-00000001" / MODEL
    sums = (path.parent / SUMS).read_text()
    flip(path, 8 * path.stat().st_size - 1)
    with pytest.raises(Damaged) as caught:
        checkpoints.load(directory, 1)
    message = str(caught.value)
    expected = next(line.split()[0] for line in sums.splitlines() if line.endswith(MODEL))
    assert f"expected {expected}" in message
    assert f"{MODEL} has sha256 " in message
    assert "There is no older checkpoint: restore that directory from a copy" in message


def test_what_is_not_read_is_not_checked(directory: Path) -> None:
    flip(directory / "step-00000002" / OPTIMIZER, 700)
    assert checkpoints.load(directory, optimizer=False).step == 2
    with pytest.raises(Damaged, match=OPTIMIZER):
        checkpoints.check(directory, 2)


@pytest.mark.parametrize("name", [MODEL, STATE, SUMS])
def test_a_lost_file_is_refused(directory: Path, name: str) -> None:
    (directory / "step-00000002" / name).unlink()
    with pytest.raises(Damaged, match=f"{name} is missing"):
        checkpoints.load(directory)


def test_checkpoints_from_before_there_were_sums_load(directory: Path) -> None:
    path = directory / "step-00000002"
    (path / SUMS).unlink()
    (path / STATE).write_text('{\n  "step": 2,\n  "steps": 9,\n  "images": 6\n}\n')
    assert checkpoints.load(directory).state["images"] == 6
    checkpoints.check(directory, 2)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_of_safetensors(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "failing"),
    [
        (checkpoints, "save_file", full_disk_of_safetensors),
        (checkpoints, "_sync", full_disk),
        (Path, "mkdir", full_disk),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoint(
    directory: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, failing: Callable[..., None]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(StorageFailed, match=r"no space left on device\. The checkpoint of step 2 is whole"):
            checkpoints.save(directory, content(3), keep=2)
    assert names(directory) == ["step-00000001", "step-00000002"]
    checkpoints.save(directory, content(3), keep=2)
    assert names(directory) == ["step-00000002", "step-00000003"]


def test_other_failures_and_interrupts_leave_nothing_either(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(directory, content(3), keep=2)
    assert names(directory) == ["step-00000001", "step-00000002"]


def test_temporaries_of_live_writers_stay(directory: Path) -> None:
    live = publish.temporary_path(directory / ".step-00000003")
    here = str(publish.Writer.here())
    elsewhere = live.with_name(live.name.replace(here, here.replace("~", "~other", 1)))
    for path in (live, elsewhere):
        path.mkdir()
        (path / MODEL).write_bytes(b"half")
    checkpoints.save(directory, content(4), keep=2)
    checkpoints.sweep(directory, locked=False)
    assert live.is_dir()
    assert elsewhere.is_dir()
    os.utime(elsewhere, (0, 0))
    checkpoints.sweep(directory, locked=False)
    assert not elsewhere.exists()
    checkpoints.sweep(directory, locked=True)  # the lock says that nobody else writes here
    assert names(directory) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_removed_while_it_is_read_gives_the_newer_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoints._check

    def removing(place: Path, step: int, names: object) -> dict[str, object]:
        if step == 2:
            checkpoints.save(place, content(3), keep=1)
        return before(place, step, names)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "_check", removing)
    assert checkpoints.load(directory).step == 3
