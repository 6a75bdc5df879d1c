"""Sums beside files are those of `sha256sum`, and what differs is refused."""

import hashlib
from pathlib import Path

import pytest

from store.common import checksums
from store.common.checksums import SUMS
from store.errors import Damaged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    checksums.write_folder_sums(tmp_path, ["weights", "config.json"])
    return tmp_path


def test_the_sums_are_in_the_form_of_sha256sum(folder: Path) -> None:
    digests = [hashlib.sha256(content).hexdigest() for content in (b"weights", b"{}")]
    assert (folder / SUMS).read_text() == f"{digests[0]}  weights\n{digests[1]}  config.json\n"
    checksums.write_file_sum(folder / "weights")
    assert (folder / "weights.sha256").read_text() == f"{digests[0]}  weights\n"
    (folder / SUMS).write_text(f"{digests[0]} *./weights\n")  # as others write it
    checksums.check_file(folder / "weights")


@pytest.mark.parametrize("name", ["weights", "config.json"])
def test_a_changed_file_is_refused_and_also_one_that_says_what_it_is(folder: Path, name: str) -> None:
    checksums.check_folder(folder)
    checksums.check_file(folder / "weights")
    (folder / name).write_bytes(b"other")
    actual = hashlib.sha256(b"other").hexdigest()
    for check in (lambda: checksums.check_folder(folder), lambda: checksums.check_file(folder / "weights")):
        with pytest.raises(Damaged, match=rf"{name} has sha256 {actual}, expected [0-9a-f]{{64}} \({SUMS}\)"):
            check()


def test_a_file_of_its_own_has_its_own_sum(tmp_path: Path) -> None:
    path = tmp_path / "student.pth"
    path.write_bytes(b"student")
    checksums.check_file(path)  # none is no problem
    checksums.write_file_sum(path)
    whole = (tmp_path / "student.pth.sha256").read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "student.pth.sha256").write_bytes(flipped)
        with pytest.raises(Damaged, match=r"student\.pth"):
            checksums.check_file(path)


def test_sums_of_other_files_do_not_matter(folder: Path) -> None:
    (folder / "unlisted").write_bytes(b"x")
    (folder / "weights").write_bytes(b"changed")
    checksums.check_file(folder / "unlisted")
    with pytest.raises(Damaged, match="does not list unlisted"):
        checksums.check_folder(folder, ["unlisted"])
    (folder / SUMS).write_text("nonsense\n")
    with pytest.raises(Damaged, match="line 1 is not a sha256"):
        checksums.check_folder(folder)
