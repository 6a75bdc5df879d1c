"""codistill: run the teachers once, train every student after that from the cache.

The names of this package are what notebooks and scripts need; each is imported when it is first used, so that reading
a cache loads no torch:

    import codistill

    cache = codistill.open("demo/cache")  # a Cache
    run = codistill.load_run("demo/run")  # a Run
    teacher = codistill.load_teacher("dinov2", weights="dinov2_vitl14_reg4.pth")  # a Teacher
    data = codistill.torch.CacheDataset("demo/cache")  # for a DataLoader of your own
"""

import importlib
from typing import TYPE_CHECKING

from codistill.shadowing import refuse_shadowed_packages

if TYPE_CHECKING:
    from codistill import torch
    from extract.teachers import load as load_teacher
    from store import open
    from train.run.load import load as load_run

    __version__: str

__all__ = ["__version__", "load_run", "load_teacher", "open", "torch"]

FUNCTIONS = {
    "open": ("store", "open"),
    "load_run": ("train.run.load", "load"),
    "load_teacher": ("extract.teachers", "load"),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("codistill")
    if name not in FUNCTIONS and name != "torch":
        raise AttributeError(f"module 'codistill' has no attribute '{name}'; available: {', '.join(__all__)}")
    refuse_shadowed_packages()
    if name == "torch":
        return importlib.import_module("codistill.torch")
    module, function = FUNCTIONS[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted(__all__)
