"""The import directions that the design promises, read off the source and off a running interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "store": set(),
    "backbones": {"store"},
    "extract": {"store", "backbones"},
    "train": {"store", "backbones"},
    "eval": {"store", "backbones", "extract", "train"},
}


def imported_packages(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names.add(node.module or "")
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(str(node.args[0].value))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_the_design_allows(package: str) -> None:
    for source in (ROOT / package).rglob("*.py"):
        ours = imported_packages(source) & {*MAY_IMPORT, "benchmarks", "tests", "demo"}
        allowed = {package, *MAY_IMPORT[package]}
        assert ours <= allowed, f"{source.relative_to(ROOT)} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("store, store.__main__", "torch timm torchvision dask matplotlib obstore extract train eval"),
        ("train, train.loop, train.__main__", "extract dask distributed eval"),
        ("codistill.__main__", "store torch numpy"),
    ],
)
def test_importing_stays_light(modules: str, forbidden: str) -> None:
    script = f"import sys, {modules}; print(*[m for m in '{forbidden}'.split() if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
