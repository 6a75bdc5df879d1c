"""Deletion of datasets and teachers: whole, of nothing else, and from wherever an interruption left it."""

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

import store
from store import errors
from store.__main__ import main
from store.cache import deletion
from store.storage.base import Storage
from store.verify.verify import verify
from tests.store import caches
from tests.store.caches import DATASETS, TEACHERS
from tests.store.damage import temporary_name

FLOWERS, ROOMS = DATASETS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "cache"
    caches.make_cache(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def belongs(name: str, deleted: str) -> bool:
    """Return whether a file is of what is deleted."""
    dataset, _, teacher = deleted.partition("/")
    if teacher:
        return name.startswith((f"features.zarr/{deleted}/", f"seal/{dataset}.{teacher}."))
    return name.startswith(f"features.zarr/{dataset}/") or name.partition("/")[2].startswith(f"{dataset}.")


@pytest.mark.parametrize("name", ["flowers", "flowers/dino"])
def test_it_deletes_all_of_it_and_nothing_else(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    assert main(["delete", str(root), name, "--yes"]) == 0
    gone = {path: data for path, data in before.items() if belongs(path, name)}
    assert files(root) == {path: data for path, data in before.items() if path not in gone}
    assert not list(root.glob(f"features.zarr/{name}"))
    assert f"deleted '{name}'" in (text := capsys.readouterr().out)
    assert f"{len(gone)} objects" in text
    assert verify(root).problems == ()
    with pytest.raises(errors.MissingName, match=r"available: (rooms|mast)$"):
        deletion.plan(store.open(root).storage, name)


def check_half_deleted(location: Any, name: str) -> None:
    """A cache in which a deletion stopped: every reader gets along, and nothing that is gone is called good."""
    expected = "there is no dataset 'flowers': it was lost, or its deletion did not end"  # only its image list is left
    assert [str(problem) for problem in verify(location).problems if expected not in problem.message] == []
    cache = store.open(location)
    for dataset in cache:
        for array in ("pixels", *dataset.teachers):
            try:
                rows = dataset.valid_rows([array])
            except errors.NotSealed:
                assert dataset.name == name.partition("/")[0]
                continue
            dataset.read(rows, [array])
    assert cache["rooms"].valid_rows(["dino", "mast"]).tolist() == list(range(7))


@pytest.mark.parametrize("name", ["flowers", "flowers/dino"])
def test_interrupted_at_every_file(
    whole: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlink = Path.unlink
    expected = {path: data for path, data in files(whole).items() if not belongs(path, name)}
    for interrupted_at in itertools.count():
        root = Path(shutil.copytree(whole, tmp_path / str(interrupted_at)))
        left = interrupted_at

        def counting(path: Path, missing_ok: bool = False) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", counting)
        code = main(["delete", str(root), name, "--yes"])
        monkeypatch.setattr(Path, "unlink", unlink)
        if code == 0:
            break
        assert code == 130
        assert "Run the same command again" in capsys.readouterr().err
        check_half_deleted(root, name)
        assert main(["delete", str(root), name, "--yes"]) == 0
        assert files(root) == expected
    assert interrupted_at >= 10


@pytest.mark.parametrize("name", ["flowers", "flowers/dino"])
def test_interrupted_between_steps_on_an_object_store(name: str) -> None:
    for done in itertools.count():
        location = f"memory://deletion-{name.replace('/', '-')}-{done}"
        caches.make_cache(location, teachers=TEACHERS)
        storage = store.open(location).storage
        steps = list(deletion.steps(storage, deletion.plan(storage, name)))
        if done > len(steps):
            break
        for step in steps[:done]:
            step()
        check_half_deleted(location, name)
        with contextlib.suppress(errors.MissingName):  # all of it is gone already
            deletion.delete(storage, name)
        assert verify(location).notes == ()
        assert set(store.open(location).datasets) == ({"rooms"} if name == "flowers" else {"flowers", "rooms"})


def test_a_dataset_that_cannot_be_read_is_deleted(root: Path) -> None:
    for path in root.glob("features.zarr/flowers/**/zarr.json"):
        path.write_text("{")
    deletion.delete(store.open(root).storage, "flowers")
    assert verify(root).problems == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "dataset name '' is not allowed"),
        ("../flowers", r"dataset name '..' is not allowed"),
        ("flowers/..", r"teacher name '..' is not allowed"),
        ("flowers/", "teacher name '' is not allowed"),
        ("flowers/dino/tokens", "teacher name 'dino/tokens' is not allowed"),
        ("flowers/pixels", "Delete 'flowers'"),
        ("flowers/dini", "available: dino, mast"),
        ("flwers", "available: flowers, rooms"),
    ],
)
def test_names_of_nothing(root: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    assert main(["delete", str(root), name, "--yes"]) == 2
    assert message in capsys.readouterr().err
    assert files(root) == before


def test_it_asks_first(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["delete", str(root), "flowers"]) == 2
    assert "Pass --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "n")
    assert main(["delete", str(root), "flowers"]) == 1
    assert "delete 'flowers' of " in capsys.readouterr().err
    assert files(root) == before
    monkeypatch.setattr("builtins.input", lambda: "y")
    assert main(["delete", str(root), "flowers"]) == 0


def test_what_a_live_process_writes_is_not_deleted(root: Path) -> None:
    name = temporary_name(root, pid=1)
    (root / f"features.zarr/flowers/dino/tokens/{name}").write_bytes(b"half")
    storage: Storage = store.open(root).storage
    with pytest.raises(errors.Conflict, match="process 1 of this machine is writing"):
        deletion.delete(storage, "flowers")
    deletion.delete(storage, "flowers/mast")


def test_a_link_out_of_the_cache_is_not_followed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(root / "features.zarr/flowers/dino", elsewhere)
    (root / "features.zarr/flowers/dino").symlink_to(elsewhere)
    before = files(elsewhere)
    with pytest.raises(errors.RefusedFile, match="nothing is deleted there"):
        deletion.delete(store.open(root).storage, "flowers/dino")
    assert files(elsewhere) == before
