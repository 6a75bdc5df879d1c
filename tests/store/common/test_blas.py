"""Programs that encode and decode rows side by side leave one thread to each matrix product of numpy."""

import os
import subprocess
import sys

import pytest

from store.common.blas import VARIABLE

SCRIPT = """
import importlib, sys
program = importlib.import_module(sys.argv[1] + ".__main__")
program.main(sys.argv[2:])
import numpy
from threadpoolctl import threadpool_info
print({pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"})
"""


@pytest.mark.parametrize("typed", ["store info absent", "extract plan absent.toml"])
@pytest.mark.parametrize(("chosen", "threads"), [({}, "{1}"), ({VARIABLE: "2"}, "{2}")])
def test_products_of_numpy_have_the_threads_that_were_chosen(typed: str, chosen: dict[str, str], threads: str) -> None:
    if (os.cpu_count() or 1) == 1:
        threads = "{1}"
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", SCRIPT, *typed.split()]
    done = subprocess.run(command, env=kept | chosen, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == threads
