"""A module that is not installed is told with the extra that brings it, and the table of extras is the project's."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from store.common.extras import EXTRAS, missing_extra

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def distributions(extra: str) -> set[str]:
    names = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name, _, extras = re.match(r"([\w.-]+)(\[([\w,-]+)\])?", requirement).groups()  # type: ignore[union-attr]
        if name == "codistill":
            names |= set().union(*(distributions(inner) for inner in extras.split(",")))
        else:
            names |= {name.lower()} | ({"distributed"} if extras == "distributed" else set())
    return names


@pytest.mark.parametrize("extra", ["inspect", "cloud", "train", "extract", "eval"])
def test_the_table_names_every_module_of_an_extra_and_no_other(extra: str) -> None:
    brought_by = packages_distributions()
    ours = {name.lower() for module in EXTRAS[extra] for name in brought_by[module]}
    assert ours == distributions(extra)


def test_the_extra_of_the_program_is_named_first() -> None:
    assert missing_extra("torch.nn", program="train") == "'torch' is not installed. Run: pip install 'codistill[train]'"
    assert "codistill[extract]" in str(missing_extra("torch", program="extract"))
    assert "codistill[inspect]" in str(missing_extra("matplotlib.pyplot", program="store"))
    assert "codistill[view]" in str(missing_extra("PIL.Image", program="view"))
    assert "codistill[extract]" in str(missing_extra("PIL.Image", program="init"))
    assert missing_extra("my_teachers", program="extract") is None
