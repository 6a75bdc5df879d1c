"""The console command: dispatch, help, and one clear line for bad input."""

import errno
import importlib

import pytest

from codistill import __main__ as codistill
from store.common.cli import run

PROGRAMS = ["store", "extract", "train", "eval"]


def test_unknown_program_is_named_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert codistill.main(["extrct"]) == 2
    message = capsys.readouterr().err
    assert "unknown program 'extrct'" in message
    assert all(program in message for program in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_help_with_an_example(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        codistill.main([program, "--help"])
    assert exit_info.value.code == 0
    assert f"codistill {program}" in capsys.readouterr().out
    assert importlib.import_module(f"{program}.__main__").main.__doc__


def test_a_full_disk_is_one_line_and_a_mistake_of_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cache/c.0")

    def wrong() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    assert run("codistill store", "Test.", {"full": full, "wrong": wrong}, argv=["full"]) == 2
    assert capsys.readouterr().err.startswith("error: 'cache/c.0': no space left on device. What is stored is whole")
    with pytest.raises(OSError, match="Bad file descriptor"):
        run("codistill store", "Test.", {"full": full, "wrong": wrong}, argv=["wrong"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_unknown_subcommand_exits_2(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        codistill.main([program, "frobnicate"])
    assert exit_info.value.code == 2
    assert "frobnicate" in capsys.readouterr().err
