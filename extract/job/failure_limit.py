"""How a stage reports while it works and how it is told to stop: the failure limit, cancelling, live counts."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from store import errors

FEWEST_ROWS = 1000  # the share of failures is taken of at least so many rows, so that a few bad files stop no small job


class Watch(Protocol):
    """What a stage calls while it makes one shard. Both calls may raise, and the shard is discarded."""

    def advance(self, *, rows: int, failed: int) -> None:
        """So many more rows were made (failed ones included)."""

    def admit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """The whole shard is ready to be published; raises errors.JobFailed if too much has failed by now."""


class Unwatched:
    """Lets everything pass; for calling one stage function by hand."""

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""

    def admit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.admit`."""


UNWATCHED = Unwatched()


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """Largest share of rows that may fail before a job stops, of the rows done so far and at least FEWEST_ROWS."""

    share: float

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read `1%` or `0.01`.

        Raises:
            errors.InvalidInput: neither, or not within 0 and 100 %.
        """
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise errors.InvalidInput(f"--max-failed {text}: expected a share such as 1% or 0.01, within 0% and 100%")
        return cls(share=share)

    def check(self, *, rows: int, failed: int, reasons: Sequence[str]) -> None:
        """Raise errors.JobFailed if `failed` of `rows` is too much; `reasons` are the latest ones."""
        if reasons and failed > self.share * max(rows, FEWEST_ROWS):
            raise errors.JobFailed(
                f"stopped: {failed} of {rows} rows failed, more than --max-failed {self.share:.3g} allows. The shard "
                f"at hand is not stored. Its last reason: {reasons[-1]}. Correct the cause, or raise the limit"
            )


class JobWatch:
    """Watches all shards of one stage of a job; safe to call from several threads."""

    def __init__(self, limit: FailureLimit, on_advance: Callable[[int, int], None]) -> None:
        self.limit = limit
        self._on_advance = on_advance
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._rows = 0
        self._failed = 0

    def stop(self) -> None:
        """Make every shard that is being made end at its next row."""
        self._stopped.set()

    def advance(self, *, rows: int, failed: int) -> None:
        """See `Watch.advance`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")
        with self._lock:
            self._on_advance(rows, failed)

    def admit(self, *, rows: int, reasons: Sequence[str]) -> None:
        """See `Watch.admit`."""
        if self._stopped.is_set():
            raise Stopped("the job was stopped; this shard is discarded")
        with self._lock:
            self.limit.check(rows=self._rows + rows, failed=self._failed + len(reasons), reasons=reasons)
            self._rows += rows
            self._failed += len(reasons)


class Stopped(errors.CodistillError):
    """A shard was given up because the job ends."""

    kind = "stopped"
