"""Experiment trackers: Weights & Biases and trackio get what the run's log gets. What fails in one stops no training.

A run has one identity, kept in `trackers.json`: a resumed run goes on in the same run of each tracker.
"""

import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from store.common import atomic, strict_json
from store.errors import CodistillError
from train.recipe.config import Log, Recipe
from train.run.log import Record, flat, read

FILE = "trackers.json"
INIT_TIMEOUT_S = 60.0  # of Weights & Biases, to reach its server
FINISH_TIMEOUT_S = 600.0  # of the same, to send what is left; it stays on disk for `wandb sync`
WANDB, TRACKIO = "wandb", "trackio"
WANDB_FOLDERS = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        directory: run directory.
        project: project of the tracker.
        name: name of the run for people; unique, because trackio finds a run by it.
        id: identity of the run in its project.
        config: complete recipe, and version of codistill.
        resumed: the tracker has records of this run already.
    """

    directory: Path
    project: str
    name: str
    id: str
    config: Mapping[str, Any]
    resumed: bool = False


class Tracker(Protocol):
    """One tracker. Every method may raise anything: `Trackers` then goes on without it."""

    name: str

    def begin(self, run: TrackedRun) -> str:
        """Begin a run or go on with it; return a line that says where to look."""
        ...

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of one record."""
        ...

    def picture(self, name: str, path: Path, *, step: int) -> None:
        """Send a PNG file."""
        ...

    def end(self, *, failed: bool) -> None:
        """Send what is left, and end the run."""
        ...


class WandbTracker:
    """Weights & Biases, with its own settings (`wandb login`, `WANDB_*`); offline where nobody is logged in."""

    name = WANDB

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, run: TrackedRun) -> str:
        import wandb

        asked = os.environ.get("WANDB_MODE", "")
        reason = "WANDB_MODE" if asked else ""
        if not asked and not wandb.login(prompt=False, verify=False):
            asked, reason = "offline", "not logged in"
        try:
            self._run = self._init(run, mode=asked or "online")
        except Exception as error:  # no network, no such project, no right to it
            if asked:
                raise
            asked, reason = "offline", _one_line(error)
            self._run = self._init(run, mode=asked)
        if asked == "offline":
            return f"offline ({reason}). Send it with: wandb sync {run.directory}/wandb/offline-run-*"
        return str(self._run.url or reason)

    def _init(self, run: TrackedRun, *, mode: str) -> Any:
        import wandb

        with _folders_in(run.directory / WANDB):
            return self._init_there(wandb, run, mode=mode)

    def _init_there(self, wandb: Any, run: TrackedRun, *, mode: str) -> Any:
        return wandb.init(
            dir=str(run.directory),
            project=run.project,
            name=run.name,
            id=run.id,
            config=dict(run.config),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline the same id is enough, and resume= a warning
            allow_val_change=True,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",  # the progress bar is no output to keep
                silent=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
            ),
        )

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def picture(self, name: str, path: Path, *, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    def end(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class TrackioTracker:
    """trackio, with its own settings (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`, ...); a local project unless they say else."""

    name = TRACKIO

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, run: TrackedRun) -> str:
        with redirect_stdout(io.StringIO()):  # what follows is told in one line
            import trackio

            self._run = trackio.init(run.project, name=run.name, config=dict(run.config), resume="allow", embed=False)
        return f"run '{run.name}'. Look at it with: trackio show --project {run.project}"

    def log(self, numbers: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def picture(self, name: str, path: Path, *, step: int) -> None:
        import trackio

        self._run.log({name: trackio.Image(str(path))}, step=step)

    def end(self, *, failed: bool) -> None:
        import trackio

        with redirect_stdout(io.StringIO()):
            trackio.finish()


KINDS: Mapping[str, Callable[[], Tracker]] = {WANDB: WandbTracker, TRACKIO: TrackioTracker}


class Trackers:
    """The trackers of a run: each gets every record once, and one that fails is left out after one warning."""

    def __init__(
        self, run: TrackedRun, trackers: Sequence[Tracker], *, known: Sequence[str], logged: Sequence[Record]
    ) -> None:
        """Prepare; nothing is sent before `begin`.

        Args:
            run: the run.
            trackers: those that the recipe asks for.
            known: names of those that have followed the run before.
            logged: records that a log had before this training: those sent to the known ones, with the steps that will
                be taken again.
        """
        self._run = run
        self._trackers = list(trackers)
        self._known = set(known)
        self._logged = list(logged)
        self._sent: dict[str, set[tuple[str, int]]] = {}
        self._show: Callable[[str], None] = _silent

    def begin(self, show: Callable[[str], None], *, done: int) -> None:
        """Begin in every tracker; one that is new to the run gets the steps that are done already.

        Args:
            show: shows a line to people.
            done: steps done already.
        """
        self._show = show
        past = [record for record in self._logged if record["step"] <= done] if done else []
        for tracker in list(self._trackers):
            resumed = tracker.name in self._known
            begun = self._guarded(tracker, partial(tracker.begin, replace(self._run, resumed=resumed)))
            if begun is None:
                continue
            show(f"{tracker.name}: {begun}")
            sent = self._logged if resumed else []
            self._sent[tracker.name] = {(record["kind"], record["step"]) for record in sent}
            self._known.add(tracker.name)
            for record in past:
                self._send(tracker, record)
        content = {"id": self._run.id, "name": self._run.name, "trackers": sorted(self._known)}
        atomic.write_text(self._run.directory / FILE, json.dumps(content, indent=2) + "\n")

    def record(self, record: Record) -> None:
        """Send a record of the log; steps that were taken again after a crash are not sent again."""
        for tracker in list(self._trackers):
            self._send(tracker, record)

    def picture(self, name: str, path: Path, *, step: int) -> None:
        """Send a PNG file."""
        for tracker in list(self._trackers):
            self._guarded(tracker, partial(tracker.picture, name, path, step=step))

    def end(self, *, failed: bool) -> None:
        """End in every tracker; waits until what was logged is sent."""
        for tracker in list(self._trackers):
            self._guarded(tracker, partial(tracker.end, failed=failed))

    def _send(self, tracker: Tracker, record: Record) -> None:
        kind, step = record["kind"], record["step"]
        if (kind, step) in self._sent.get(tracker.name, ()):
            return
        values = {key: value for key, value in record.items() if key != "step"}
        numbers = {f"{kind}/{name}": value for name, value in flat(values).items()}
        self._guarded(tracker, partial(tracker.log, numbers, step=step))

    def _guarded(self, tracker: Tracker, call: Callable[[], Any]) -> Any:
        """Call a tracker; if it fails, warn once and go on without it."""
        try:
            return call()
        except Exception as error:
            self._trackers.remove(tracker)
            self._show(f"warning: {tracker.name} failed and is left out, the training goes on: {_one_line(error)}")
            return None


def open_trackers(recipe: Recipe, run: Path) -> Trackers | None:
    """Return the trackers that a recipe asks for; None for none. Call it before the log is truncated.

    Args:
        recipe: recipe of the run.
        run: run directory.
    """
    wanted = [name for name in KINDS if getattr(recipe.log, name)]
    if not wanted:
        return None
    stored = _stored(run)
    tracked = TrackedRun(
        directory=run,
        project=recipe.log.project,
        name=recipe.log.run_name or str(stored.get("name") or ""),
        id=str(stored.get("id") or secrets.token_hex(4)),
        config={**recipe.model_dump(mode="json"), "codistill": version("codistill"), "directory": str(run.resolve())},
    )
    if not tracked.name:
        tracked = replace(tracked, name=f"{'-'.join(run.resolve().parts[-2:])}-{tracked.id}")
    listed = stored.get("trackers")
    known = [name for name in wanted if isinstance(listed, list) and name in listed]
    return Trackers(tracked, [KINDS[name]() for name in wanted], known=known, logged=read(run))


def missing(settings: Log) -> list[str]:
    """Return the problems of the trackers that a recipe asks for and that are not installed."""
    return [
        f"log.{name}: {name} is not installed. Run: pip install 'codistill[{name}]'"
        for name in KINDS
        if getattr(settings, name) and not _installed(name)
    ]


@contextmanager
def _folders_in(folder: Path) -> Iterator[None]:
    """Let wandb's service, which starts here, keep logs and files to send in a folder, not in the user's home.

    Variables that are set stay as they are.
    """
    unset = [variable for variable in WANDB_FOLDERS if not os.environ.get(variable)]
    os.environ |= {variable: str((folder / "service").absolute()) for variable in unset}
    try:
        yield
    finally:
        for variable in unset:
            del os.environ[variable]


def _installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # a folder of that name, as wandb makes one, is no package


def _stored(run: Path) -> dict[str, Any]:
    """Return the content of `FILE`; nothing where it cannot be read, so that a new run of the trackers begins."""
    try:
        return strict_json.parse_object((run / FILE).read_bytes(), where=f"'{run / FILE}'")
    except (OSError, CodistillError):
        return {}


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _silent(line: str) -> None:
    """Show nothing."""
