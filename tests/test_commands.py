"""The console command: dispatch, help, and one clear line for bad input."""

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from codistill import __main__ as codistill
from store.common.cli import run
from store.common.extras import EXTRAS

ROOT = Path(__file__).parent.parent
PROGRAMS = ["store", "extract", "train", "eval"]


def test_unknown_program_is_named_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert codistill.main(["extrct"]) == 2
    message = capsys.readouterr().err
    assert "unknown program 'extrct' (did you mean 'extract'?)" in message
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


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("store infoo x", "codistill store: unknown command 'infoo' (did you mean 'info'?). Expected one of info, "),
        ("train swep x", "codistill train: unknown command 'swep' (did you mean 'sweep'?)"),
        (
            "store info x --identites",
            "codistill store info: unknown option '--identites' (did you mean '--identities'?)",
        ),
        ("extract run c.toml --cache x --batchsize 3", "unknown option '--batchsize' (did you mean '--batch-size'?)"),
        ("train run demo --cache c --out r --optim.lrr 3", "unknown option '--optim.lrr' (did you mean '--optim.lr'?)"),
        ("eval report r --outt x", "codistill eval report: unknown option '--outt' (did you mean '--out'?)"),
        ("store show c d 1", "codistill store show: missing --out PATH. Run: codistill store show --help"),
        (
            "extract run c.toml --cache x --workers two",
            "--workers: expected a whole number, found 'two'. Run: ",
        ),
        ("store show c d 1 --out x.png --page 1.5", "--page: expected a whole number, found '1.5'. Run: "),
        ("store compact c --out d --ratio x", "--ratio: expected a number, found 'x'. Run: "),
        ("train run demo --cache c --out r --optim.lr x", "--optim.lr: expected a number, found 'x'. Run: "),
        ("train run demo --cache c --out r --optim.betas 1 x", "--optim.betas: expected numbers, found 'x'. Run: "),
        ("train export r --out x --format zz", "--format: expected one of timm, dune, found 'zz'. Run: "),
        ("store compact c --out", "codistill store compact: --out: no value given, expected one. Run: "),
        ("store info", "codistill store info: missing CACHE. Run: "),
        ("store info a b", "codistill store info: unrecognized options: b"),
    ],
)
def test_a_misspelt_command_line_is_one_error_with_a_near_miss(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codistill.main(typed.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: codistill ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.err.rstrip().endswith("--help") or "Expected one of" in shown.err


@pytest.mark.parametrize("program", PROGRAMS)
def test_unknown_subcommand_exits_2(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert codistill.main([program, "frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


WITHOUT_EXTRAS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

ABSENT = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
from codistill.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("typed", "extra"),
    [
        ("extract plan demo/catalogue.toml", "extract"),
        ("train run demo --cache {cache} --out {tmp}/run", "train"),
        ("eval fidelity {tmp}/run", "eval"),
        ("eval report {tmp}/run --out {tmp}/report", "eval"),
        ("store show {cache} people 0 --out {tmp}/x.png", "inspect"),
    ],
)
def test_a_command_without_its_extra_names_it(typed: str, extra: str, tmp_path: Path) -> None:
    absent = ",".join(sorted({module for modules in EXTRAS.values() for module in modules}))
    (tmp_path / "run").mkdir()
    cache = ROOT / "tests" / "golden" / "store" / "cache-v1" / "cache"
    arguments = typed.format(tmp=tmp_path, cache=cache).split()
    command = [sys.executable, "-c", WITHOUT_EXTRAS, absent, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"Run: pip install 'codistill[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
