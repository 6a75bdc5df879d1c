"""Description of the machine, without names of hosts or people, and measurements in a process of their own."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


def describe(distributions: Sequence[str]) -> dict[str, Any]:
    """Return processor, memory, system and the versions of some distributions."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def own_memory(field: str) -> int:
    """Return a field of this process's memory in bytes.

    Args:
        field: VmRSS (resident), RssAnon (resident and not part of a file) or VmHWM (largest VmRSS so far).
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark module that prints its result as one line of JSON, and return the result.

    Raises:
        subprocess.CalledProcessError: the module failed; its messages are on stderr.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report
