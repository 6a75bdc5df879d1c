"""Teachers: frozen networks behind one small interface."""

import importlib
from typing import TYPE_CHECKING

from extract.teachers.loading import load
from extract.teachers.options import Request, TeacherOptions

if TYPE_CHECKING:
    from extract.teachers.base import Teacher
    from extract.teachers.runner import check_tokens, find_batch_size

__all__ = ["Request", "Teacher", "TeacherOptions", "check_tokens", "find_batch_size", "load"]
NEEDS_TORCH = {"Teacher": "base", "check_tokens": "runner", "find_batch_size": "runner"}


def __getattr__(name: str) -> object:
    """Import torch only when something that needs it is asked for: the listing of teachers does not."""
    if name in NEEDS_TORCH:
        return getattr(importlib.import_module(f"{__name__}.{NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
