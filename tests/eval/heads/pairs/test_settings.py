"""PAIRS.toml: all problems at once, with near misses."""

from pathlib import Path

import numpy as np
import pytest

from eval.heads.pairs import PairDataset, open_mixture, read_pairs_file
from store.errors import InvalidConfig, MissingFile


def written(folder: Path, *entries: str) -> Path:
    path = folder / "PAIRS.toml"
    path.write_text("".join(f"[[dataset]]\n{entry}\n" for entry in entries))
    return path


def test_a_file_with_synthetic_pairs(tmp_path: Path) -> None:
    rooms = 'name = "rooms"\nkind = "raycast"\npairs = 5\noptions = {seed = 3, size = [32, 24]}'
    path = written(tmp_path, rooms, 'name = "bike"\nkind = "motorcycle"\npairs = 1')
    mixture = open_mixture(path, seed=2)
    assert len(mixture) == 6
    assert all(isinstance(dataset, PairDataset) for dataset in mixture.datasets)
    one, _ = mixture.datasets[0].pair(0, np.random.default_rng(0))
    assert one.size == (32, 24)
    assert one.dataset == "rooms"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('name = "a"\nkind = "blendmvs"\nroot = "."\npairs = 1', "'blendmvs' is unknown (did you mean 'blendedmvs'?)"),
        ('name = "a"\nkind = "co3d"\npairs = 1', "kind 'co3d' reads a folder: give its root"),
        ('name = "a"\nkind = "motorcycle"\npairs = 0', "pairs: input should be greater than or equal to 1"),
        ('name = "a"\nkind = "raycast"\npairs = 1\noptions = {seeds = 3}', "seeds: unknown key (did you mean 'seed'?)"),
        ('name = "a"\nkind = "raycast"\npairs = 1\noptions = {overlap = [0.8, 0.2]}', "expected least < most"),
        ('name = "a"\nkind = "raycast"\npair = 1', "pair: unknown key (did you mean 'pairs'?)"),
        ('name = "a b"\nkind = "motorcycle"\npairs = 1', "name: string should match pattern"),
        ('name = "a"\nkind = "tartanair"\nroot = "."\npairs = 1\noptions = {steps = [0]}', "steps"),
        ('name = "a"\nkind = "mapfree"\nroot = "."\npairs = 1', "depth: missing"),
        ('name = "a"\nkind = "tartanair"\nroot = "$NOT_SET_HERE/b"\npairs = 1', "variable NOT_SET_HERE is not set"),
    ],
)
def test_problems_are_told(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        read_pairs_file(written(tmp_path, entry))
    assert message in str(raised.value)


def test_all_problems_and_all_missing_folders_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"2 problems.*dataset\[0\].*dataset\[1\]"):
        read_pairs_file(written(tmp_path, 'name = "a"\nkind = "x"\npairs = 1', 'name = "b"\nkind = "motorcycle"'))
    twice = 'name = "a"\nkind = "motorcycle"\npairs = 1'
    with pytest.raises(InvalidConfig, match="two datasets are named 'a'"):
        read_pairs_file(written(tmp_path, twice, twice))
    absent = [f'name = "{name}"\nkind = "co3d"\nroot = "{name}"\npairs = 1' for name in ("c", "d")]
    with pytest.raises(MissingFile, match=r"no folder 'c': '.*c', 'd': '.*d'"):
        read_pairs_file(written(tmp_path, *absent))
    with pytest.raises(InvalidConfig, match="dataset"):
        read_pairs_file(written(tmp_path))


def test_folders_without_pairs_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    kinds = ("arkitscenes", "blendedmvs", "co3d", "megadepth", "scannetpp", "staticthings3d", "tartanair")
    entries = [f'name = "{k}"\nkind = "{k}"\nroot = "empty"\npairs = 1' for k in (*kinds, "virtualkitti", "wildrgbd")]
    entries.append('name = "m"\nkind = "mapfree"\nroot = "empty"\npairs = 1\noptions = {depth = "{frame}.npy"}')
    with pytest.raises(InvalidConfig, match="10 problems") as raised:
        open_mixture(written(tmp_path, *entries))
    assert str(raised.value).count("no pairs below") == 10
    with pytest.raises(MissingFile, match=r"Expected PID/cams/pair\.txt"):
        open_mixture(written(tmp_path, entries[1]))
