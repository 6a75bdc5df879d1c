"""`codistill eval heads`: train task heads on a frozen student, look at what they predict, and score them."""

import importlib
from collections.abc import Callable
from typing import Any

from store.common.cli import run

PROG = "codistill eval heads"


def heads(*words: str) -> None:
    """Task heads on a frozen student: MASt3R's decoder, people. example: codistill eval heads train mast3r --help

    Args:
        words: train, predict, score or table, then the head, benchmark or number, and its options.
    """
    raise SystemExit(main(list(words)))


def train() -> None:
    """Train a head. example: codistill eval heads train mast3r --student RUN --pairs PAIRS.toml --out DIR"""


def predict() -> None:
    """Predict pictures. example: codistill eval heads predict mast3r A.jpg B.jpg --weights W --student S --out DIR"""


def score() -> None:
    """Run a benchmark. example: codistill eval heads score map-free --data D --weights W --student S --out DIR"""


def table() -> None:
    """Write a table of the paper. example: codistill eval heads table 4 --data D --mast3r W --student S --out DIR"""


GROUPS: dict[str, Callable[..., Any]] = {"train": train, "predict": predict, "score": score, "table": table}
MODULES = {
    "train": "eval.commands.heads_train",
    "predict": "eval.commands.heads_predict",
    "score": "eval.commands.heads_scoring",
    "table": "eval.commands.heads_tables",
}
"""Modules with the commands of a group, imported when one is used: `commands(arguments)` returns them by name."""


def main(arguments: list[str]) -> int:
    """Run `codistill eval heads ...` and return its exit code."""
    group, rest = arguments[:1], arguments[1:]
    if group and group[0] in GROUPS:
        name = group[0]
        commands = importlib.import_module(MODULES[name]).commands(rest)
        return run(f"{PROG} {name}", _first_sentence(GROUPS[name]), commands, argv=rest)
    return run(PROG, _first_sentence(heads), GROUPS, argv=arguments)


def _first_sentence(command: Callable[..., Any]) -> str:
    return (command.__doc__ or "").partition(" example:")[0].strip()
