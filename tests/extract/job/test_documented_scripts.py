"""The scripts of docs/extraction.md run word for word, but for the cache's location, with stand-ins for a cluster."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import store
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue

PAGE = Path(__file__).parents[3] / "docs" / "extraction.md"
COMMANDS = {
    "codistill": 'exec {python} -m codistill "$@"',
    "srun": 'while [ "${{1#--}}" != "$1" ]; do shift; done; exec "$@"',
    # dask-cuda's worker is Dask's own, one for each GPU, with the same options as far as the script gives them.
    "dask": '[ "$1" = cuda ] && shift; exec {python} -m dask "$@"',
}
# Names of dask-jobqueue 0.9.0; its jobs become processes of this machine.
SLURM = """
from distributed import LocalCluster

class SLURMCluster(LocalCluster):
    def __init__(self, *, queue, walltime, memory, processes, cores, job_cpu, job_extra_directives, worker_extra_args,
                 log_directory, protocol, scheduler_options):
        assert scheduler_options == {"dashboard": False}
        assert all(isinstance(word, str) for word in [*job_extra_directives, *worker_extra_args])
        threads = cores // processes
        super().__init__(n_workers=0, threads_per_worker=threads, dashboard_address="127.0.0.1:0", host="127.0.0.1",
                         protocol=protocol)

    def adapt(self, *, minimum_jobs, maximum_jobs):
        return super().adapt(minimum=1, maximum=2)
"""


def script(kind: str, mark: str) -> str:
    """The one block of code of this kind that holds `mark`."""
    blocks = [block for block in re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL) if mark in block]
    assert len(blocks) == 1
    return blocks[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a dune.toml that is small, and commands."""
    builders.image_folder(tmp_path / "images", 9)
    small_catalogue(tmp_path).rename(tmp_path / "dune.toml")
    (tmp_path / "bin").mkdir()
    for name, line in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/bin/bash\n{line.format(python=shlex.quote(sys.executable))}\n")
        command.chmod(0o755)
    (tmp_path / "dask_jobqueue.py").write_text(SLURM)
    (tmp_path / "tls.sh").write_text(script("bash", "# tls.sh"))
    return tmp_path


def run(folder: Path, kind: str, mark: str, **variables: str) -> None:
    """Run a script of the page in `folder`; it must end well."""
    text = script(kind, mark).replace("/data/cache", str(folder / "cache"))
    (folder / "script").write_text(text)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "1",
        **variables,
    }
    python = f"tls=$PWD/tls; . ./tls.sh; exec {shlex.quote(sys.executable)} script"
    command = {"bash": ["bash", "script"], "python": ["bash", "-c", python]}[kind]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_job_array(folder: Path) -> None:
    assert run_extract(folder / "dune.toml", "--cache", folder / "cache", "--stages", "index") == 0
    for part in range(2):
        run(folder, "bash", "--array=", SLURM_ARRAY_TASK_ID=str(part), SLURM_ARRAY_TASK_COUNT="2")
        assert (folder / f"events-{part}.jsonl").exists()
    assert store.seal(folder / "cache").complete


@pytest.mark.parametrize(
    ("kind", "mark"), [("bash", "--ntasks="), ("python", "SLURMCluster"), ("bash", "dask cuda worker")]
)
def test_clusters(folder: Path, kind: str, mark: str) -> None:
    """With TLS: Dask is told to take no other connection."""
    text = script(kind, mark)
    encrypted = {"bash": r"dask scheduler .*--protocol tls .*--no-dashboard", "python": 'protocol="tls://"'}
    assert re.search(encrypted[kind], text)
    run(folder, kind, mark, SLURM_JOB_ID="7")
    cache = store.open(folder / "cache")
    assert len(cache["pictures"].valid_rows(["first"])) == 18
    assert not list(folder.glob("scheduler*"))
