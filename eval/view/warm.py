"""What the first page does not need and later ones do, made ready meanwhile."""

import importlib
import threading

from eval.view.opened import Opened
from store.errors import CodistillError

LATER = ("pyarrow.dataset", "duckdb")
AFTER_SECONDS = 1.5  # torch takes seconds to import, and the first page asks for more than its first answer


def warm_libraries() -> None:
    """Import libraries in the background, while a person opens the address; what needs them tells of problems."""
    threading.Thread(target=_import, daemon=True).start()


def warm_runs(opened: Opened) -> None:
    """Load runs in the background, once the first page has been answered; what needs them tells of problems."""
    if opened.runs and not opened.warmed:
        opened.warmed = True
        waiting = threading.Timer(AFTER_SECONDS, _load, args=(opened,))
        waiting.daemon = True
        waiting.start()


def _import() -> None:
    for module in LATER:
        try:
            importlib.import_module(module)
        except ImportError:
            continue


def _load(opened: Opened) -> None:
    for run in opened.runs.values():
        try:
            run.load()
        except (CodistillError, OSError, ImportError):
            continue
