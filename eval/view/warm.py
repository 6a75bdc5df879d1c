"""What the first page does not need and later ones do, made ready once it has been answered."""

import importlib
import threading

from eval.view.opened import Opened
from store.errors import CodistillError

LATER = ("duckdb", "pyarrow.dataset", "faiss")


def warm(opened: Opened) -> None:
    """Import libraries and load runs in the background; problems are told by what needs them."""
    threading.Thread(target=_warm, args=(opened,), daemon=True).start()


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
