"""Publish a file: write it under a temporary name, sync it, link it to its final name.

The first publisher wins and the loser discards its own file; an existing file is never renamed over. A temporary name
carries its writer (host, boot id, pid namespace, pid), so that what dead writers left can be told from what live ones
are writing. Where the file system has no links, the right to publish is an exclusively created claim.
"""

import errno
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from store.storage.open_files import process_budget

STALE_AFTER_S = 6 * 3600.0
CLAIM_POLL_S = 0.01
CLAIM_PATIENCE_S = 10.0
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
TEMPORARY = re.compile(r"(?P<final>.+)\.tmp~(?P<host>[^~]+)~(?P<boot>[^~]+)~(?P<pids>[^~]+)~(?P<pid>\d+)~[0-9a-f]+")
CLAIM = re.compile(r"(?P<final>.+)\.claim-\d+")


@dataclass(frozen=True)
class Writer:
    """A process, named so that others can tell whether it still lives.

    Attributes:
        host: host name.
        boot: boot id of the machine.
        pids: pid namespace; containers of one host may share host name and boot id but not pids.
        pid: process id.
    """

    host: str
    boot: str
    pids: str
    pid: int

    @classmethod
    def here(cls) -> "Writer":
        """Return this process."""
        host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "unknown"
        return cls(host=host, boot=_boot_id(), pids=_pid_namespace(), pid=os.getpid())

    def __str__(self) -> str:
        return f"{self.host}~{self.boot}~{self.pids}~{self.pid}"

    @classmethod
    def parse(cls, text: str) -> "Writer | None":
        """Return the writer that `str` gave, None if it is not one."""
        parts = text.split("~")
        if len(parts) != 4 or not parts[3].isdigit():
            return None
        return cls(parts[0], parts[1], parts[2], int(parts[3]))

    def known_dead(self) -> bool:
        """Return whether this process has certainly ended; False for one that cannot be looked up from here."""
        return self._lives() is False

    def known_alive(self) -> bool:
        """Return whether there is such a process on this machine; False for one that cannot be looked up from here."""
        return self._lives() is True

    def _lives(self) -> bool | None:
        here = Writer.here()
        if (self.host, self.boot, self.pids) != (here.host, here.boot, here.pids) or here.boot == "unknown":
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OverflowError:
            return None
        except PermissionError:  # of another user
            return True
        return True


def temporary_path(final: Path) -> Path:
    """Return a name beside `final` that nobody else uses, carrying this process."""
    return final.with_name(f"{final.name}.tmp~{Writer.here()}~{secrets.token_hex(4)}")


def is_temporary(name: str) -> bool:
    """Return whether a file name is that of a file being written or of a claim, never part of the cache."""
    return bool(TEMPORARY.fullmatch(name) or CLAIM.fullmatch(name))


def publish(temporary: Path, final: Path) -> bool:
    """Give a synced file its final name unless that exists, and make the name durable.

    Returns:
        False if another writer was first. `temporary` is gone either way.
    """
    try:
        os.link(temporary, final)
        won = True
    except FileExistsError:
        won = False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        won = _publish_with_claim(temporary, final)
    temporary.unlink(missing_ok=True)
    sync_directory(final.parent)
    return won


def replace(temporary: Path, final: Path) -> None:
    """Give a synced file its final name in place of any older one. For sealed tables, never for shards."""
    os.replace(temporary, final)
    sync_directory(final.parent)


def open_descriptor(path: Path, flags: int) -> int:
    """Open a file or directory; unused files of caches are closed if the process has run out of descriptors."""
    return process_budget().run(lambda: os.open(path, flags | os.O_CLOEXEC, 0o666))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = open_descriptor(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(directory: Path) -> None:
    """Create a directory and its parents, durably."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sweep(directory: Path) -> list[str]:
    """Remove leftovers of dead writers in a directory and return their names.

    Left alone: files written to in the last 6 hours, unless their process is known to be dead (those of other hosts,
    boots or pid namespaces cannot be looked up). A claim goes only when its file is published or it is 6 hours old,
    because it is also what keeps a second writer out.
    """
    try:
        entries = process_budget().run(lambda: list(os.scandir(directory)))
    except FileNotFoundError:
        return []
    removed = []
    for entry in entries:
        temporary, claim = TEMPORARY.fullmatch(entry.name), CLAIM.fullmatch(entry.name)
        if not (temporary or claim):
            continue
        try:
            old = time.time() - entry.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:
            continue
        if temporary:
            writer = Writer(temporary["host"], temporary["boot"], temporary["pids"], int(temporary["pid"]))
            dead = old or writer.known_dead()
        else:
            dead = old or (claim is not None and (directory / claim["final"]).exists())
        if dead:
            Path(entry.path).unlink(missing_ok=True)
            removed.append(entry.name)
    return removed


def _publish_with_claim(temporary: Path, final: Path) -> bool:
    """Publish by renaming, entitled by an exclusively created claim.

    Claims are numbered: one left by a dead writer stays, and the next writer to create the next number inherits the
    right. Deleting it instead would let two writers succeed it.
    """
    deadline = time.monotonic() + CLAIM_PATIENCE_S
    for claim in _claims(final):
        while True:
            if final.exists():
                return False
            try:
                fd = open_descriptor(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if _claim_is_dead(claim):
                    break
                if time.monotonic() > deadline:
                    return False
                time.sleep(CLAIM_POLL_S)
                continue
            try:
                os.write(fd, str(Writer.here()).encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            won = not final.exists()
            if won:
                os.rename(temporary, final)
            _remove_claims(final)
            return won
    return False


def _claims(final: Path) -> Iterator[Path]:
    return (final.with_name(f"{final.name}.claim-{number}") for number in itertools.count())


def _remove_claims(final: Path) -> None:
    """Remove all claims of a published file: whoever creates one from now on sees that the file exists."""
    for claim in list(itertools.takewhile(Path.exists, _claims(final))):
        claim.unlink(missing_ok=True)


def _claim_is_dead(claim: Path) -> bool:
    try:
        writer = Writer.parse(claim.read_text())
        old = time.time() - claim.stat().st_mtime > STALE_AFTER_S
    except FileNotFoundError:
        return False  # just removed: look again
    return old or (writer is not None and writer.known_dead())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return "unknown"


def _pid_namespace() -> str:
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) or "0"
    except OSError:
        return "0"
