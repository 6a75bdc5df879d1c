"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from store.common import atomic


def test_a_file_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "report.txt"
    for text in ("first", "second"):
        atomic.write_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("first")

    def interrupted() -> None:
        with atomic.replacing(path) as partial:
            assert partial.suffix == ".txt"
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
