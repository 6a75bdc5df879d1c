"""What the first page does not need and later ones do, made ready once it has been answered."""

import importlib
import threading

from eval.view.opened import Opened
from store.errors import CodistillError

LATER = ("duckdb", "pyarrow.dataset")
AFTER_SECONDS = 1.5  # the first page asks for more than its first answer


def warm(opened: Opened) -> None:
    """Import libraries and load runs in the background; problems are told by what needs them."""
    waiting = threading.Timer(AFTER_SECONDS, _warm, args=(opened,))
    waiting.daemon = True
    waiting.start()


def _warm(opened: Opened) -> None:
    for module in LATER:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    for run in opened.runs.values():
        try:
            run.load()
        except (CodistillError, OSError, ImportError):
            continue
