"""The one way to open files that data names."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from store import errors
from store.common import regular_files
from store.common.regular_files import open_below, open_regular


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder `root` with a file, beside a folder `other` with a secret."""
    for name, content in (("root/in/a.txt", b"a"), ("other/secret.txt", b"secret")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path / "root"


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(os.mkfifo, "a named pipe", id="pipe"),
        pytest.param(os.mkdir, "a folder", id="folder"),
        pytest.param(bound_socket, "a socket", id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "a device", id="device"),
    ],
)
def test_only_regular_files_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make(Path("x"))
    with pytest.raises(errors.RefusedFile, match=f"^unreadable file: not a regular file but {kind}$"):
        open_regular("x")
    if kind != "a device":
        with pytest.raises(errors.RefusedFile, match=f"not a regular file but {kind}$"):
            open_below(tmp_path, "x")


def test_links_are_followed_below_the_root_alone(root: Path) -> None:
    (root / "inside").symlink_to(root / "in" / "a.txt")
    (root / "leaves").symlink_to(root.parent / "other" / "secret.txt")
    (root / "folder").symlink_to(root.parent / "other")
    (root.parent / "linked root").symlink_to(root)
    for start in (root, root.parent / "linked root"):
        for name in ("inside", "in/a.txt", "in/../in/a.txt"):
            with open_below(start, name) as file:
                assert file.read() == b"a"
        for name in ("leaves", "folder/secret.txt", "../other/secret.txt", str(root.parent / "other" / "secret.txt")):
            with pytest.raises(errors.RefusedFile, match=r"^outside the root: it leads to '.*/other/secret\.txt'$"):
                open_below(start, name)
    with pytest.raises(errors.RefusedFile, match="NUL"):
        open_below(root, "a\0b")


@pytest.mark.parametrize("swapped", ["file", "folder", "pipe"])
def test_what_is_replaced_between_check_and_opening_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """An attacker who owns the folder replaces a part of the path just before it is opened."""
    real_open = os.open

    def replacing_open(path: str, flags: int) -> int:
        if swapped == "folder":
            (root / "in").rename(root.parent / "moved")
            (root / "in").symlink_to(root.parent / "other")
            (root.parent / "other" / "a.txt").write_bytes(b"secret")
        else:
            (root / "in" / "a.txt").unlink()
            if swapped == "pipe":
                os.mkfifo(root / "in" / "a.txt")
            else:
                (root / "in" / "a.txt").symlink_to(root.parent / "other" / "secret.txt")
        return real_open(path, flags)

    monkeypatch.setattr(regular_files.os, "open", replacing_open)
    with pytest.raises((errors.RefusedFile, OSError)):
        open_below(root, "in/a.txt")
