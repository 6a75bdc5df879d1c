"""Arguments of all programs are checked before torch is imported, and every number and device has a constraint."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

import store
from eval.commands.heads import MODULES as HEAD_COMMANDS
from store.cache.argument import ExistingCaches
from store.common import cli
from store.common.constraints import AtLeast, Constraint, DeviceName, OutputFile, device_name
from tests.extract import builders
from tests.extract.builders import small_catalogue

PROGRAMS = ("store", "extract", "train", "eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue, a folder of images, and the empty cache `made`."""
    folder = tmp_path_factory.mktemp("arguments")
    builders.image_folder(folder / "images", 3)
    small_catalogue(folder)
    store.create(folder / "made", {"image_size": 28, "shard_rows": 8})
    return folder


WITHOUT_TORCH = """
import sys
from codistill.__main__ import main
code = main(sys.argv[1:])
sys.exit(97 if "torch" in sys.modules else code)
"""


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("extract run absent.toml --cache c", "absent.toml"),
        ("extract plan absent.toml", "absent.toml"),
        ("extract run catalogue.toml --cache c --device cudaa", "--device: 'cudaa' is no device (did you mean 'cuda'"),
        ("extract run catalogue.toml --cache c --batch-size -4", "--batch-size: expected a number from 1 on, found -4"),
        ("extract run catalogue.toml --cache c --threads 0 --workers -1", "2 problems. --threads: expected a number"),
        ("extract run catalogue.toml --cache c --datasets a", "--datasets: 'a' is unknown"),
        ("extract run catalogue.toml --cache c --max-failed 2", "--max-failed 2: expected a share"),
        ("extract run catalogue.toml --cache images", "images' is not empty and holds no cache"),
        ("extract run catalogue.toml --cache c --stages views", "no cache at"),
        ("extract run catalogue.toml --cache c --summary images", "--summary 'images': is a folder"),
        ("extract plan catalogue.toml --threads 0", "--threads: expected a number from 1 on, found 0"),
        ("store info c", "no cache at c"),
        ("store verify c --repair --yes --device gpu", "--device: 'gpu' is no device"),
        ("train run demo --cache c,d --out r", "no cache at c"),
        ("train run demo --cache made --out r --machine.device cpu:x", "machine.device: 'cpu:x' is no device"),
        ("train run demo --cache made --out images", "output 'images' is not empty and not a run"),
        ("train run demo --cache made --out r --resume --overwrite", "exclude each other"),
        ("train sweep table1 --cache c --out r", "no cache at c"),
        ("train export r --out o", "RUN 'r' is not a run: no such directory"),
        ("train export images --out o", "RUN 'images' is not a run: no recipe.json in it"),
        ("eval report r --out o", "RUN 'r' is not a run: no such directory"),
        ("eval fidelity r", "RUN 'r' is not a run: no such directory"),
        ("eval fidelity r --rows -5 --device x", "3 problems"),
        ("eval pca r --out o.png", "RUN 'r' is not a run: no such directory"),
        ("eval variance images --out o", "RUN 'images' is not a run: no recipe.json in it"),
        ("eval correlation r --out o", "RUN 'r' is not a run: no such directory"),
        ("eval attention r --out o", "RUN 'r' is not a run: no such directory"),
        ("eval attention images --out o --cache c", "2 problems"),
        ("eval knn r --data images --features f --device cudda", "--device: 'cudda' is no device"),
        ("eval linear r --data images --features f --iterations 0", "iterations: expected more than 0"),
        ("eval depth r --data images --features f", "encoder 'r'"),
        ("eval segmentation r --data absent --layout ade20k --features f", "--data 'absent'"),
    ],
)
def test_arguments_are_checked_before_torch_is_imported(folder: Path, typed: str, message: str) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *typed.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert message in done.stderr
    assert done.returncode == 2, done.stderr


def commands_of(program: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}

    def note(prog: str, description: str, commands: dict[str, Callable[..., Any]], **options: Any) -> int:
        found.update(commands)
        return 0

    module = importlib.import_module(f"{program}.__main__")
    for name, value in vars(module).items():
        if value is cli.run:
            monkeypatch.setattr(module, name, note)
    monkeypatch.setattr(cli, "run", note)
    module.main([])
    if program == "eval":
        for group, name in HEAD_COMMANDS.items():
            commands = importlib.import_module(name).commands([])
            found |= {f"heads {group} {command}": function for command, function in commands.items()}
    return found


def arguments(name: str, hint: Any, default: Any) -> Iterator[tuple[str, Any]]:
    """Every single argument of a parameter with its type hint; the values of a recipe are checked by the recipe."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        hints = get_type_hints(type(default), include_extras=True)
        for field in dataclasses.fields(default):
            yield from arguments(f"{name}.{field.name}", hints[field.name], getattr(default, field.name))
    else:
        yield name, hint


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_number_and_every_device_has_a_constraint(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = commands_of(program, monkeypatch)
    assert commands
    unconstrained = []
    for command, function in commands.items():
        hints = get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            hint = hints[parameter.name]
            marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
            whole = any(isinstance(mark, Constraint) for mark in marks)
            if whole or parameter.name == "values":  # of a recipe, which checks them
                continue
            for name, inner in arguments(parameter.name, hint, parameter.default):
                marks = get_args(inner)[1:] if get_origin(inner) is Annotated else ()
                types = [inner, *get_args(inner), *(t for a in get_args(inner) for t in get_args(a))]
                number = (int in types or float in types) and not any(isinstance(mark, AtLeast) for mark in marks)
                device = name.endswith("device") and not any(isinstance(mark, DeviceName) for mark in marks)
                unconstrained += [f"{command} {name}"] if number or device else []
    assert unconstrained == []


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps", "xpu:1"])
def test_devices(name: str) -> None:
    assert device_name(name) == name


@pytest.mark.parametrize("name", ["", "cud", "CPU", "cuda:", "cuda:-1", "cuda:a", "cpu:0", "auto:1", "cuda:0 ", "gpu"])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(store.errors.InvalidInput, match="is no device"):
        device_name(name)


@pytest.mark.parametrize("value", [0, -4, float("nan")])
def test_numbers_below_the_least(value: float) -> None:
    with pytest.raises(store.errors.InvalidInput, match=f"--rows: expected a number from 1 on, found {value}"):
        AtLeast(1).check("--rows", value)
    AtLeast(1).check("--rows", 1)


def test_files_to_write_and_caches_to_read(folder: Path) -> None:
    OutputFile().check("--out", folder / "new" / "file.json")
    for path in (folder, folder / "catalogue.toml" / "x" / "file.json"):
        with pytest.raises(store.errors.InvalidInput, match="a folder"):
            OutputFile().check("--out", path)
    ExistingCaches().check("--cache", f"{folder / 'made'},")
    with pytest.raises(store.errors.InvalidInput, match=r"no cache at .*/a: .*no cache at .*/b: "):
        ExistingCaches().check("--cache", f"{folder}/a,{folder / 'made'},{folder}/b")
