"""The log of a run: one JSON line per step, TensorBoard, a progress bar. Reading it back needs no torch."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from store.common import atomic
from store.errors import MissingExtra
from train.run import headline

LOG = "log.jsonl"
STEP = "step"
FIDELITY = "fidelity"
_TODAYS_NAMES = {"cls_cosine": "cls_cosine_loss", "patch_cosine": "patch_cosine_loss"}
LOG_FILE_INTERVAL_S = 15.0  # between progress lines where stderr is not a terminal

Record = dict[str, Any]
Listener = Callable[[str, Any], None]  # gets ("step", record of the step) or ("show", line of text)


class Follower(Protocol):
    """Somebody else who gets what the log gets: `train.run.trackers.Trackers`."""

    def begin(self, show: Callable[[str], None], *, done: int) -> None:
        """Begin after `done` steps; `show` shows a line to people."""
        ...

    def record(self, record: Record) -> None:
        """Take a record."""
        ...

    def picture(self, name: str, path: Path, *, step: int) -> None:
        """Take a PNG file."""
        ...

    def end(self, *, failed: bool) -> None:
        """End, after an error or without one."""
        ...


def read(run: Path, kind: str | None = None) -> list[Record]:
    """Return the records of a run's log in order, all or those of one kind (`STEP`, `FIDELITY`).

    An incomplete last line, as a crash leaves it, is left out.
    """
    path = run / LOG
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        record = _record(line)
        if record is None:
            break
        if kind is None or record["kind"] == kind:
            records.append(_with_todays_names(record))
    return records


def _record(line: str) -> Record | None:
    """Return the record of a line; None if it is not whole."""
    try:
        record = json.loads(line)  # numbers of a run that diverged may be NaN
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("kind"), str) and type(record.get("step")) is int
    return record if whole and _nested(record.get("terms"), 2) and _nested(record.get("datasets"), 3) else None


def _nested(value: Any, depth: int) -> bool:
    """Return whether a value is absent, or objects in objects down to a depth."""
    if value is None or depth == 0:
        return True
    return isinstance(value, dict) and all(inner is not None and _nested(inner, depth - 1) for inner in value.values())


def _with_todays_names(record: Record) -> Record:
    """Return a record in which cosine distances of token types are called losses, as logs before did not."""
    if record.get("datasets") is not None:
        datasets = {
            dataset: {teacher: _renamed(values) for teacher, values in teachers.items()}
            for dataset, teachers in record["datasets"].items()
        }
        return {**record, "datasets": datasets}
    if record.get("terms") is not None:
        return {**record, "terms": {teacher: _renamed(values) for teacher, values in record["terms"].items()}}
    return record


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_TODAYS_NAMES.get(name, name): value for name, value in values.items()}


def truncate(run: Path, *, after_step: int) -> None:
    """Remove the records after a step, so that the log of a resumed run equals that of an uninterrupted one."""
    records = [record for record in read(run) if record["step"] <= after_step]
    atomic.write_text(run / LOG, "".join(_line(record) for record in records))


def flat(record: Record, prefix: str = "") -> dict[str, float]:
    """Return the numbers of a record, nested names joined by `/`."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            numbers |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers


class RunLogger:
    """Writes a run's log: JSON lines always, TensorBoard events if wanted, a progress bar on a terminal's stderr."""

    def __init__(
        self,
        run: Path,
        *,
        done: int,
        steps: int,
        tensorboard: bool,
        silent: bool = False,
        quiet: bool = False,
        listener: Listener | None = None,
        follower: Follower | None = None,
    ) -> None:
        """Open the log for appending; use as a context manager, which closes it.

        Args:
            run: run directory.
            done: number of steps done already.
            steps: number of steps of the whole run.
            tensorboard: write events below `run/tensorboard`.
            silent: write and show nothing, for ranks other than the first.
            quiet: show no progress bar.
            listener: told of each step and each line instead of a progress bar.
            follower: gets every record too.

        Raises:
            MissingExtra: TensorBoard is not installed.
        """
        self._file = None if silent else (run / LOG).open("a", encoding="utf-8")
        self._events = _event_writer(run, purge_step=done + 1) if tensorboard and not silent else None
        self._listener = None if silent else listener
        self._follower = None if silent else follower
        self._done = done
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit="step",
            desc=run.name,
            disable=quiet or silent or listener is not None,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else LOG_FILE_INTERVAL_S,
        )

    def __enter__(self) -> "RunLogger":
        if self._follower is not None:
            self._follower.begin(self.show, done=self._done)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._follower is not None:
            self._follower.end(failed=error is not None)
        self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def step(self, record: Record) -> None:
        """Write the record of one step and move the bar."""
        self._write({"kind": STEP, **record})
        if self._listener is not None:
            self._listener("step", record)
        self._bar.set_postfix(
            {
                "loss": f"{record['loss']:.4f}",
                "images/s": f"{record['images_per_s']:.1f}",
                "data wait": f"{100 * record['data_wait_s'] / max(record['step_s'], 1e-9):.1f}%",
            },
            refresh=False,
        )
        self._bar.update()

    def fidelity(self, record: Record) -> None:
        """Write a measurement on held-out rows and show it above the bar."""
        self._write({"kind": FIDELITY, **record})
        for dataset, teachers in record["datasets"].items():
            cosines = ", ".join(f"{name} {_cosine(values)}" for name, values in teachers.items())
            self.show(f"step {record['step']}, held-out '{dataset}': cosine {cosines}")

    def picture(self, name: str, path: Path, *, step: int) -> None:
        """Give a PNG file to whoever follows the log."""
        if self._follower is not None:
            self._follower.picture(name, path, step=step)

    def show(self, text: str) -> None:
        """Show a line without breaking the bar."""
        if self._listener is not None:
            self._listener("show", text)
        if not self._bar.disable:
            self._bar.write(text, file=self._bar.fp)

    def _write(self, record: Record) -> None:
        if self._file is None:
            return
        self._file.write(_line(record))
        self._file.flush()
        if self._events is not None:
            step = record["step"]
            for name, value in flat({key: value for key, value in record.items() if key != "step"}).items():
                self._events.add_scalar(f"{record['kind']}/{name}", value, step)
        if self._follower is not None:
            self._follower.record(record)


def _cosine(values: Mapping[str, float]) -> str:
    best = headline.best_patch_cosine(values)
    return f"{values['cosine']:.3f}" + (f" of {best:.3f}" if best is not None else "")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _event_writer(run: Path, *, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra(
            "log.tensorboard needs tensorboard. Install codistill[train], or --log.no-tensorboard"
        ) from None
    return SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)
