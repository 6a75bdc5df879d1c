"""The lock of a run directory: one training at a time, and its end, `kill -9` included, frees the directory."""

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from store.errors import Conflict

FILE = ".lock"
NOT_SUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class RunLock:
    """The lock of one directory; the end of the block releases it.

    The kernel holds it for the open file, so it ends with the process. The file stays, empty after
    an orderly end.

    Attributes:
        held: whether this process has the lock, so that nobody else writes into the directory.
        note: why the directory could not be locked and what follows; empty if it was, or was not tried.
    """

    def __init__(self, run: Path) -> None:
        self.held = False
        self.note = ""
        self._run = run
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            if self.held:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
            self.held = False

    def acquire(self) -> None:
        """Lock the directory, which is created if absent; again does nothing.

        Raises:
            Conflict: another process trains the run.
        """
        if self._descriptor is not None:
            return
        self._run.mkdir(parents=True, exist_ok=True)
        path = self._run / FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # NFS locks only writable files
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(
                f"'{self._run}' is being trained by {_holder(path)}. Wait until that ends, or stop it; "
                "--resume then goes on"
            ) from None
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                os.close(descriptor)
                raise
            self.note = (
                f"'{self._run}' cannot be locked on this file system ({os.strerror(error.errno).lower()}): make sure "
                "that no other process trains this run"
            )
        else:
            self.held = True
            _write_holder(descriptor)
        self._descriptor = descriptor


def _write_holder(descriptor: int) -> None:
    """Write who holds the lock, for the message that others get."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}) + "\n"
    with suppress(OSError):  # a full disk is no reason not to lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on '{holder['host']}' since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
