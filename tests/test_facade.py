"""`import codistill`: five names, loaded when used, and never another module that has the name of a package of ours."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import codistill
import codistill.torch as library
import store
from extract import teachers
from train.run.load import load


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_names_are_those_of_the_packages() -> None:
    assert codistill.open is store.open
    assert codistill.load_run is load
    assert codistill.load_teacher is teachers.load
    assert codistill.__version__ == version("codistill")
    assert codistill.torch is library
    assert {"open", "load_run", "load_teacher", "torch", "__version__"} == set(dir(codistill)) == set(codistill.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'load_rum'; available: .*load_run"):
        codistill.load_rum  # noqa: B018


@pytest.mark.parametrize("hiding", ["train.py", "store.py", "extract/__init__.py", "eval/__init__.py", "backbones.py"])
@pytest.mark.parametrize(
    "start", [("-m", "codistill", "store", "info", "cache"), ("-c", "import codistill as c; c.open")]
)
def test_a_file_that_hides_a_package_is_named(tmp_path: Path, hiding: str, start: tuple[str, ...]) -> None:
    (tmp_path / hiding).parent.mkdir(exist_ok=True)
    (tmp_path / hiding).write_text("raise SystemExit('the wrong file ran')")
    refused = python(*start, cwd=tmp_path)
    name, other = Path(hiding).parts[0].removesuffix(".py"), tmp_path / hiding
    named = other.parent if other.name == "__init__.py" else other
    assert refused.returncode != 0
    assert f"'{named}' hides codistill's package '{name}'. Rename it" in refused.stderr
    assert "the wrong file ran" not in refused.stderr
    if start[1] == "codistill":
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")


def test_a_hidden_package_matters_only_on_the_import_path(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong file ran')")
    command = Path(sys.executable).with_name("codistill")
    looked = subprocess.run([command, "store", "info", "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "no cache at" in looked.stderr
    assert python("-m", "codistill", "--version", cwd=tmp_path).stdout == f"codistill {version('codistill')}\n"
