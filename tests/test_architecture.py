"""The import directions that the design promises, read off the source and off a running interpreter."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "store": set(),
    "backbones": {"store"},
    "extract": {"store", "backbones"},
    "train": {"store", "backbones"},
    "eval": {"store", "backbones", "extract", "train"},
    "codistill": {"store", "backbones", "extract", "train"},
}
OURS = {*MAY_IMPORT, "benchmarks", "tests", "demo"}

Graph = Mapping[str, set[str]]


def module_name(source: Path, root: Path) -> str:
    parts = source.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it, for type checking too: modules, and names inside modules."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def import_graph(root: Path, packages: Iterable[str]) -> Graph:
    """Module -> modules of `packages` that it imports; a name inside a module counts as that module."""
    sources = {module_name(source, root): source for name in packages for source in (root / name).rglob("*.py")}

    def module_of(name: str) -> str | None:
        while name and name not in sources:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {other for name in imported_names(source) if (other := module_of(name)) not in (None, module)}
        for module, source in sources.items()
    }


def between_folders(graph: Graph) -> Graph:
    """The same imports between the folders of packages: `store.cache.reader` counts as `store.cache`."""

    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2])

    folders: dict[str, set[str]] = {}
    for module, imported in graph.items():
        folders.setdefault(folder(module), set()).update(map(folder, imported))
    return {name: imported - {name} for name, imported in folders.items()}


def circle(graph: Graph) -> list[str]:
    """The modules of one import circle; none if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def forbidden_imports(root: Path) -> list[str]:
    problems = []
    for package, allowed in MAY_IMPORT.items():
        for source in sorted((root / package).rglob("*.py")):
            ours = {name.partition(".")[0] for name in imported_names(source)} & OURS
            problems += [f"{source.relative_to(root)} imports {name}" for name in sorted(ours - allowed - {package})]
    return problems


def test_packages_import_only_what_the_design_allows() -> None:
    assert forbidden_imports(ROOT) == []


def test_no_module_imports_in_a_circle() -> None:
    assert circle(import_graph(ROOT, MAY_IMPORT)) == []


def test_no_folder_imports_back_up() -> None:
    assert circle(between_folders(import_graph(ROOT, MAY_IMPORT))) == []


def test_each_kind_of_wrong_import_is_found(tmp_path: Path) -> None:
    for path, text in {
        "store/__init__.py": "",
        "store/a.py": "from store.low import one",
        "store/low/__init__.py": "",
        "store/low/one.py": "def f():\n    from store.a import g",
        "train/__init__.py": "",
        "train/up/__init__.py": "",
        "train/up/one.py": "from train.down.one import x",
        "train/up/two.py": "",
        "train/down/__init__.py": "",
        "train/down/one.py": "",
        "train/down/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import train.up.two",
        "backbones/__init__.py": "import importlib\nimportlib.import_module('extract.views')",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert forbidden_imports(tmp_path) == ["backbones/__init__.py imports extract"]
    assert set(circle(import_graph(tmp_path, ["store"]))) == {"store.a", "store.low.one"}
    trained = import_graph(tmp_path, ["train"])
    assert circle(trained) == []
    assert set(circle(between_folders(trained))) == {"train.up", "train.down"}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("store, store.__main__", "torch timm torchvision dask matplotlib obstore extract train eval"),
        ("train, train.loop, train.__main__", "extract dask distributed eval wandb"),
        ("extract.job.worker, extract.teachers.timm_model", "wandb"),
        ("eval, eval.__main__", "torch timm dask matplotlib sklearn scipy train"),
        ("codistill, codistill.__main__", "store extract train eval torch numpy"),
        ("codistill; codistill.open", "torch extract train eval"),
    ],
)
def test_importing_stays_light(modules: str, forbidden: str) -> None:
    script = f"import sys, {modules}; print(*[m for m in '{forbidden}'.split() if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
