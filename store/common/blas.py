"""Threads of numpy's matrix products; to be set before numpy is imported."""

import os

VARIABLE = "OPENBLAS_NUM_THREADS"


def one_thread_each() -> None:
    """Let every matrix product of numpy run in the thread that asks for it, unless the user has chosen otherwise.

    Rows are encoded and decoded side by side, by threads of our own. Several more for each product only wait for each
    other: with other work on the machine that took 17 times the CPU time.
    """
    os.environ.setdefault(VARIABLE, "1")
