"""Start of a training on a sealed cache of DUNE's size: time to the first batch, with 20.7 M rows and three teachers.

    python -m benchmarks.startup               # generates the cache first, which takes minutes
    python -m benchmarks.startup --share 0.01  # a hundredth of the rows, which takes seconds

Runs `codistill train run` for 20 steps as a new process and takes the time until its first batch is in memory.
Importing torch, which no trainer can avoid, is timed alone in another new process. The cache's metadata and tables are
real, its shards are sparse files of zeros, so rows are read and not verified.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarks.machine import ROOT, describe
from benchmarks.store.scale_cache import datasets_of_dune, make_cache

STEPS = 20
READY = "rows in groups"  # part of the line that the trainer shows before its first step
AIM_S = 10  # besides the import of torch


def main(
    share: float = 1.0,
    recipe: str = "dune-base-336",
    batch: int = 2,
    out: Path = Path("benchmarks/results/startup.json"),
) -> dict[str, Any]:
    """Generate the cache, measure and report.

    Args:
        share: share of the rows of DUNE's 19 datasets.
        recipe: name of the recipe to train.
        batch: images per step.
        out: JSON file to write.
    """
    work = Path(tempfile.mkdtemp(prefix="codistill-startup-"))
    try:
        make_cache(work / "cache", datasets_of_dune(share=share), shard_rows=256)
        report = measure(work / "cache", work / "run", recipe=recipe, batch=batch)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report = {
        "benchmark": "startup",
        "share": share,
        "recipe": recipe,
        "machine": describe(("torch", "numpy")),
        **report,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"torch imported in {report['torch_s']:.1f} s, first batch in memory after {report['first_batch_s']:.1f} s: "
        f"{report['ours_s']:.1f} s besides torch's import (aim {AIM_S}); the first step then took "
        f"{report['first_step_s']:.1f} s"
    )
    return report


def measure(cache: Path, run: Path, *, recipe: str, batch: int) -> dict[str, Any]:
    """Time torch's import, then a training of 20 steps up to its first batch and its first step."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    torch_s = time.perf_counter() - begun
    command = [sys.executable, "-m", "codistill", "train", "run", recipe, "--cache", str(cache), "--out", str(run)]
    command += ["--schedule.steps", str(STEPS), "--data.batch", str(batch)]
    command += ["--machine.no-verify", "--log.fidelity-every-steps", "0"]
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        messages = []
        for line in process.stderr:
            messages.append(line)
            if READY in line:
                break
        ready_s = time.perf_counter() - begun
        messages += process.stderr
    if process.returncode:
        raise RuntimeError("".join(messages))
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    return {
        "torch_s": torch_s,
        "first_batch_s": ready_s + first["data_wait_s"],
        "ours_s": ready_s + first["data_wait_s"] - torch_s,
        "first_step_s": first["step_s"],
    }


if __name__ == "__main__":
    tyro.cli(main)
