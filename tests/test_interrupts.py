"""Ctrl-C while a program is still importing ends it as at any other time: exit code 130 and one line."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MESSAGE = "interrupted: nothing stored is lost; run the same command again to go on"
PROGRAMS = {
    "store": (["info", "cache"], "tyro store.inspection.info"),
    "extract": (["run", "catalogue.toml", "--cache", "cache"], "tyro extract.catalogue"),
    "train": (["run", "demo", "--cache", "cache", "--out", "run"], "tyro store.cache.cache"),
    "eval": (["human-mesh", "a.npz", "--true", "b.npz"], "tyro eval.tasks.prediction_files"),
}
CASES = [(program, module) for program, (_, modules) in PROGRAMS.items() for module in modules.split()]


def interrupted(folder: Path, module: str, *command: str, by: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is interrupted when it imports `module`, by the code `by`."""
    site = textwrap.dedent(
        f"""
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

        class Interrupt:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    sys.meta_path.remove(self)
                    {by}

        sys.meta_path.insert(0, Interrupt())
        """
    )
    (folder / "sitecustomize.py").write_text(site)
    search = os.pathsep.join([str(folder), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("program", "module"), CASES)
@pytest.mark.parametrize("by_itself", [False, True])
def test_interrupted_while_importing(program: str, module: str, by_itself: bool, tmp_path: Path) -> None:
    arguments, _ = PROGRAMS[program]
    command = [program, *arguments] if by_itself else ["codistill", program, *arguments]
    done = interrupted(tmp_path, module, *command, by="raise KeyboardInterrupt")
    assert done.stderr.strip() == MESSAGE
    assert done.returncode == 130


def test_a_signal_while_importing(tmp_path: Path) -> None:
    """The import waits for the signal, which it sends itself."""
    by = "os.kill(os.getpid(), signal.SIGINT); signal.pause()"
    for command in (["codistill", "extract", "--help"], ["extract", "--help"]):
        done = interrupted(tmp_path, "tyro", *command, by=by)
        assert done.stderr.strip() == MESSAGE
        assert done.returncode == 130


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "tyro", "extract", "--help", by="raise RuntimeError('broken')")
    assert "Traceback" in done.stderr
    assert done.stderr.strip().endswith("RuntimeError: broken")
    assert done.returncode == 1
