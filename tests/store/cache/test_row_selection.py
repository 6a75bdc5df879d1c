"""Length, slices and iteration of a dataset: views of rows that read nothing until an array is asked for."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store import errors
from tests.store.builders import fill, make_dataset, pixels_of, tokens_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> store.Dataset:
    made = make_dataset(tmp_path_factory.mktemp("rows"))
    fill(made)
    store.seal(made.storage.location)
    return made


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(2, 5), [2, 3, 4]),
        (slice(None, None, -4), [9, 5, 1]),
        (range(1, 9, 3), [1, 4, 7]),
        ([7, 0, 7], [7, 0, 7]),
        (np.arange(10) > 7, [8, 9]),
        ([], []),
    ],
)
def test_a_view_has_the_rows_that_its_key_names(dataset: store.Dataset, key: Any, expected: list[int]) -> None:
    view = dataset[key]
    assert [row.number for row in view] == expected
    assert len(view) == len(expected)
    np.testing.assert_array_equal(view.read(["t"])["t"], dataset.read(np.array(expected, np.int64), ["t"])["t"])
    assert [row.number for row in view[1:]] == expected[1:]
    assert pickle.loads(pickle.dumps(view)).read(["t"])["t"].shape[0] == len(expected)


def test_a_row_reads_the_array_that_is_asked_for_and_no_other(
    dataset: store.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[list[str]] = []
    read = store.Dataset.read

    def recorded(self: store.Dataset, rows: Any, names: Any, **options: Any) -> Any:
        reads.append(list(names))
        return read(self, rows, names, **options)

    monkeypatch.setattr(store.Dataset, "read", recorded)
    assert len(dataset) == len(list(dataset)) == 10
    row = dataset[-2:][0]
    assert (repr(row), repr(dataset[2:5])) == ("Row(8 of 'bedlam')", "Rows(3 of 'bedlam': 2..4)")
    assert row == dataset[8] != dataset[7]
    assert list(row) == ["pixels", "t"]
    assert reads == []
    np.testing.assert_array_equal(row["t"], tokens_of(8))
    assert reads == [["t"]]
    np.testing.assert_array_equal(dataset[3]["pixels"], pixels_of(3))


def test_failed_and_missing_rows_are_told_before_they_are_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset, failed_pixels={3})
    assert dataset[3].status == {"pixels": "failed", "t": "failed"}
    assert dataset[2].status == {"pixels": "ok", "t": "ok"}
    with pytest.raises(errors.RowsNotOk):
        dataset[3]["t"]
    empty = make_dataset(tmp_path / "empty")
    assert empty[0].status == {"pixels": "missing", "t": "missing"}


def test_keys_that_name_no_row_are_refused(dataset: store.Dataset) -> None:
    for bad in (10, -11):
        with pytest.raises(IndexError, match=r"\[-?1\d\]: it has 10 rows"):
            dataset[bad]
    with pytest.raises(errors.InvalidInput, match=r"Arrays are read by name with read\(rows, names\)"):
        dataset["pixels"]  # type: ignore[call-overload]
    with pytest.raises(errors.InvalidInput, match="rows 12 are not in 'bedlam'"):
        dataset[[1, 12]]
    with pytest.raises(errors.InvalidInput, match="10 bools, found bool"):
        dataset[[True, False]]
    with pytest.raises(errors.InvalidInput, match="expected a slice, integers"):
        dataset[[0.5]]  # type: ignore[list-item]
