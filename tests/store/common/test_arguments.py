"""Lists on the command line: commas and spaces alike, without taking what belongs to a positional argument."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from store.common.arguments import COMMAS, names_of, with_lists_joined

Names = Annotated[str, COMMAS, tyro.conf.arg(metavar="A,B")]


@dataclass
class Data:
    datasets: tuple[str, ...] = ()
    batch: int = 1


@dataclass
class Values:
    data: Data = field(default_factory=Data)
    seed: int = 0


def command(
    where: Annotated[Path, tyro.conf.Positional],
    rows: Annotated[tuple[int, ...], tyro.conf.Positional] = (),
    *,
    names: Names = "",
    out: Path | None = None,
    quick: bool = False,
    shift: int = 0,
    pictures: tuple[Path, ...] = (),
    values: Annotated[Values, tyro.conf.arg(name="")] = Values(),  # noqa: B008
) -> tuple[object, ...]:
    return where, rows, names_of(names), out, quick, shift, pictures, values


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("c 4 40", "c 4 40"),
        ("c 4,40", "c 4 40"),
        ("c 4, 40", "c 4 40"),
        ("c --names a,b", "c --names a,b"),
        ("c --names a b", "c --names a,b"),
        ("c --names a, b", "c --names a,b"),
        ("c --names=a,b 4", "c --names a,b,4"),
        ("--names a c 4", "--names a c 4"),  # the path is still to come
        ("--names a, b c", "--names a,b c"),
        ("--quick --names a b", "--quick --names a b"),
        ("c --names a b --quick 7,8", "c --names a,b --quick 7 8"),
        ("c --data.datasets a,b --data.batch 3", "c --data.datasets a b --data.batch 3"),
        ("c --out 1,2 --shift -3 4,5", "c --out 1,2 --shift -3 4 5"),
    ],
)
def test_commas_and_spaces_mean_the_same(typed: str, expected: str) -> None:
    assert with_lists_joined(typed.split(), command) == expected.split()


def test_what_is_rewritten_is_what_the_parser_takes() -> None:
    typed = "c --data.datasets a,b --names x y --quick 1,2 3"
    parsed = tyro.cli(command, args=with_lists_joined(typed.split(), command))
    assert parsed[:3] == (Path("c"), (1, 2, 3), ["x", "y"])
    assert parsed[7].data.datasets == ("a", "b")  # type: ignore[attr-defined]


def test_a_path_with_a_comma_that_exists_stays_whole(tmp_path: Path) -> None:
    odd = tmp_path / "a,b.png"
    odd.write_bytes(b"")
    assert with_lists_joined(["c", "--pictures", str(odd), "x,y"], command)[2:] == [str(odd), "x", "y"]
