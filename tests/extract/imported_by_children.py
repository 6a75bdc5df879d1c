"""Imported by the server that children are forked from: what each of them would else import and compile for itself."""

from importlib import import_module

from store import kernels

MODULES = ["extract.__main__", "extract.crew", "extract.engine", "extract.summary", "tests.extract.children"]

for name in MODULES:
    import_module(name)
kernels.compiled()
