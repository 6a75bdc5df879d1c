"""GPU utilisation during some work, as the driver measures it."""

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

SAMPLING_MS = 200


@dataclass
class Utilisation:
    """Share of time, from 0 to 1, in which a kernel ran; None without a GPU or nvidia-smi, or for too short a work."""

    mean: float | None = None


@contextmanager
def utilisation(device: str) -> Iterator[Utilisation]:
    """Sample the GPU that torch calls `device` during some work; the mean is set afterwards."""
    measured = Utilisation()
    if not (device.startswith("cuda") and shutil.which("nvidia-smi")):
        yield measured
        return
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={SAMPLING_MS}"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        with subprocess.Popen(["nvidia-smi", "-i", gpu, *query], stdout=output) as sampler:
            try:
                yield measured
            finally:
                sampler.terminate()
        output.seek(0)
        measured.mean = mean_of(output.read())


def mean_of(output: str) -> float | None:
    """Return the mean of percentages, one a line, as a share; None if there are none."""
    values = [float(line) for line in output.splitlines() if line.strip().isdigit()]
    return statistics.fmean(values) / 100 if values else None
