"""Rows by number, range, name, pattern and condition."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import store
from store.errors import CodistillError
from store.inspection.row_choice import choose_rows
from tests.store import caches

NAMES = ["a/one.jpg", "a/two.png", "b/one.jpg", "b/deep/x, y.jpg", "c[1].jpg", "17"]
VIEWS = 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> store.Dataset:
    """A dataset of some names, two views each, with nothing stored yet."""
    root = tmp_path_factory.mktemp("choice")
    (root / "images" / "a").mkdir(parents=True)
    (root / "images" / "a" / "two.png").touch()
    cache = store.create(root / "cache", {"image_size": 28, "shard_rows": 4, "seed": 0})
    table = pa.table({"image_index": pa.array(range(len(NAMES)), pa.int64()), "path": NAMES, "bytes": [1] * len(NAMES)})
    return cache.create_dataset(
        "some", images=table, group="g", split="train", mode="train", views=VIEWS, source={"root": str(root / "images")}
    )


def of_images(*numbers: int) -> list[int]:
    return [VIEWS * number + view for number in numbers for view in range(VIEWS)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], list(range(12))),
        (["7", "3", "7"], [7, 3]),
        (["2:5", "4-6"], [2, 3, 4, 5, 6]),
        (["9:", ":2"], [9, 10, 11, 0, 1]),
        ([":"], list(range(12))),
        (["1,3-4, 0:1"], [1, 3, 4, 0]),
        (["a/one.jpg"], of_images(0)),
        (["one.jpg"], of_images(0, 2)),
        (["deep/x, y.jpg"], of_images(3)),
        (["two.png,b/one.jpg"], of_images(1, 2)),
        (["*.jpg"], of_images(0, 2, 3, 4)),
        (["a/*"], of_images(0, 1)),
        (["b/*"], of_images(2)),
        (["b/**"], of_images(2, 3)),
        (["?/tw[a-z].png"], of_images(1)),
        (["[!b]/one.jpg"], of_images(0)),
        (["c[1].jpg"], of_images(4)),
        (["o*.jpg", "0"], of_images(0, 2)),
    ],
)
def test_texts_name_rows(dataset: store.Dataset, texts: list[str], expected: list[int]) -> None:
    assert choose_rows(dataset, texts).tolist() == expected


def test_a_file_that_the_shell_completed_is_the_image(dataset: store.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(str(dataset.source["root"]))
    monkeypatch.chdir(root.parent)
    for text in (str(root / "a" / "two.png"), "images/a/two.png", "./images/b/../a/two.png"):
        assert choose_rows(dataset, [text]).tolist() == of_images(1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["12"], r"rows 12 are not in 'some', which has 0\.\.11"),
        (["3-99999999999"], r"not in 'some'"),
        (["5:5"], "'5:5' is an empty range"),
        (["a/onee.jpg"], r"no image of 'some' is called 'a/onee\.jpg' \(did you mean 'a/one\.jpg'"),
        (["z*", "1", "y?"], r"no image of 'some' is called 'z\*', 'y\?'\. Expected numbers"),
        (["../../etc/passwd"], "no image"),
    ],
)
def test_what_names_nothing_is_refused(dataset: store.Dataset, texts: list[str], message: str) -> None:
    with pytest.raises(CodistillError, match=message):
        choose_rows(dataset, texts)


@pytest.mark.parametrize(
    ("texts", "where", "expected"),
    [
        ((), "view == 1", [1, 3, 5, 7, 9]),
        (("6", "1:4"), "view == 1", [1, 3]),
        ((), "flip or row in [0]", None),
    ],
)
def test_conditions_are_those_of_a_training(tmp_path: Path, texts: Any, where: str, expected: list[int] | None) -> None:
    caches.make_cache(tmp_path / "cache")
    flowers = store.open(tmp_path / "cache")["flowers"]
    chosen = choose_rows(flowers, texts, where=where).tolist()
    table = flowers.manifest(["row", "flip"]).to_pylist()
    assert chosen == (expected or [row["row"] for row in table if row["flip"] or row["row"] == 0])
    with pytest.raises(CodistillError, match=r"--where 'vieww < 2': 1 problem\. unknown column 'vieww' \(did you mean"):
        choose_rows(flowers, texts, where="vieww < 2")
    with pytest.raises(CodistillError, match="no row of 'flowers' is chosen"):
        choose_rows(flowers, texts, where="view > 5")
