"""Failure limit of a job, and the watch by which a stage reports progress and learns that it must stop."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from store import errors

FEWEST_ROWS = 1000  # the share of failures is taken of at least as many rows: a few bad files stop no small job


class Watch(Protocol):
    """Called by a stage while it makes one shard. Both methods may raise; the shard is then discarded."""

    def advance(self, *, rows: int, failed: int) -> None:
        """Count `rows` more rows as made, of which `failed` failed."""

    def check_failure_limit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """Refuse a shard that is ready to be published if too many rows of the job have failed by now.

        Args:
            rows: number of rows of the shard.
            reasons: why rows of the shard failed, one each.

        Raises:
            errors.JobFailed: more rows failed than the limit allows.
        """


class Unwatched:
    """Watch that never stops anything, for calling one stage function by hand."""

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""

    def check_failure_limit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.check_failure_limit`."""


UNWATCHED = Unwatched()


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """Largest share of failed rows, of the rows done so far and at least FEWEST_ROWS, before a job stops."""

    share: float

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read `1%` or `0.01`.

        Raises:
            errors.InvalidInput: neither form, or not within 0 and 100 %.
        """
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise errors.InvalidInput(f"--max-failed {text}: expected a share such as 1% or 0.01, within 0% and 100%")
        return cls(share=share)

    def check(self, *, rows: int, failed: int, reasons: Sequence[str]) -> None:
        """Raise errors.JobFailed if `failed` of `rows` is more than the limit allows.

        Args:
            rows: rows done so far.
            failed: failed rows among them.
            reasons: reasons of the latest failures; nothing is raised if there are none.
        """
        if reasons and failed > self.share * max(rows, FEWEST_ROWS):
            raise errors.JobFailed(
                f"stopped: {failed} of {rows} rows failed, more than --max-failed {self.share:.3g} allows. The current "
                f"shard is not stored. Its last reason: {reasons[-1]}. Correct the cause, or raise the limit"
            )


class JobWatch:
    """Watch over all shards of one stage of a job; safe to call from several threads.

    Args:
        limit: failure limit of the job.
        on_advance: called with the numbers of rows made and of failed rows among them.
    """

    def __init__(self, limit: FailureLimit, on_advance: Callable[[int, int], None]) -> None:
        self.limit = limit
        self._on_advance = on_advance
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._rows = 0
        self._failed = 0

    def stop(self) -> None:
        """Stop every shard that is being made, at its next batch of rows."""
        self._stopped.set()

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")
        with self._lock:
            self._on_advance(rows, failed)

    def check_failure_limit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.check_failure_limit`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")
        with self._lock:
            self.limit.check(rows=self._rows + rows, failed=self._failed + len(reasons), reasons=reasons)
            self._rows += rows
            self._failed += len(reasons)


class Stopped(errors.CodistillError):
    """A shard was abandoned because the job ends."""

    kind = "stopped"
