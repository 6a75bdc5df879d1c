"""Points at which tests kill, hold or count a process: its calls that change files.

A test that names a call, and not a time, tests the same thing on an idle and on a loaded machine.
"""

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = ("mkdir", "open", "pwritev", "ftruncate", "fsync", "fdatasync", "link", "rename", "replace", "unlink", "rmdir")
WRITE = "pwritev"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a function of `os` that is about to change files.

    Attributes:
        name: name of the function.
        path: path that it changes; of links and renames the new one.
        arguments: arguments of the call.
    """

    name: str
    path: str
    arguments: tuple[Any, ...]

    def half(self) -> None:
        """Write the first half of what a `pwritev` is to write."""
        fd, buffers, offset = self.arguments
        data = b"".join(bytes(buffer) for buffer in buffers)
        os.pwrite(fd, data[: len(data) // 2], offset)


def observe(folder: Path, before: Callable[[Call], None]) -> None:
    """Have `before` called ahead of every such call of this process below `folder`, in the thread that makes it."""
    for name in CALLS:
        setattr(os, name, _observed(name, str(folder), before))


def _observed(name: str, folder: str, before: Callable[[Call], None]) -> Callable[..., Any]:
    function = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        path = _path(name, arguments, options.get("dir_fd"))
        if path is not None and path.startswith(folder):
            before(Call(name=name, path=path, arguments=arguments))
        return function(*arguments, **options)

    return call


def _path(name: str, arguments: tuple[Any, ...], directory: int | None) -> str | None:
    """Return the path that a call changes; None if it changes nothing."""
    if name == "open" and not arguments[1] & os.O_CREAT:
        return None
    target = arguments[1 if name in ("link", "rename", "replace") else 0]
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    return os.fspath(target) if directory is None else os.path.join(os.readlink(f"/proc/self/fd/{directory}"), target)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The `number`-th call, from 1, of a function of these names below `folder` on a path that contains `part`."""

    folder: Path
    number: int
    names: tuple[str, ...] = CALLS
    part: str = ""

    def when_reached(self, act: Callable[[Call], None]) -> None:
        """Have `act` called once, ahead of that call of this process."""
        counter = itertools.count(1)  # `next` is atomic: several threads make calls

        def before(call: Call) -> None:
            if call.name in self.names and self.part in call.path and next(counter) == self.number:
                act(call)

        observe(self.folder, before)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Writes the name of each call to a file, one a line; for a process that is left undisturbed."""

    folder: Path
    file: Path

    def __call__(self) -> None:
        fd = os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        observe(self.folder, lambda call: os.write(fd, f"{call.name}\n".encode()))

    def numbers(self) -> list[int]:
        """Return the numbers, from 1, of the calls at which a kill leaves something else than at the one before.

        That is no fsync, as the system goes on, and of writes in a row only the first.
        """
        names = self.file.read_text().split()
        pairs = zip(names, ["", *names], strict=False)
        return [number for number, pair in enumerate(pairs, start=1) if pair != (WRITE, WRITE) and pair[0] != "fsync"]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Kills this process ahead of a call; in the middle of it if it is a write."""

    point: Point

    def __call__(self) -> None:
        self.point.when_reached(kill)


def kill(call: Call) -> None:
    """Kill this process."""
    if call.name == WRITE:
        call.half()
    os.kill(os.getpid(), signal.SIGKILL)
