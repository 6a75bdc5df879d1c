"""Settings of a run of `benchmarks.compact`, and the results that a folder of work has so far."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from store.common import atomic
from store.errors import Conflict

RESULTS = "results.jsonl"
DATA = "data.json"
FLOAT16 = "fp16"
RATIOS = (4, 8, 16, 32)
CONTROL = "water-filling-16x"
FIXED_SIGNS = "16x-fixed-signs"
CODED_TEACHER = "lite1"  # the one in code where one teacher alone is
ONE_CODED = f"16x-{CODED_TEACHER}-alone"
ENCODINGS = (FLOAT16, *(f"{ratio}x" for ratio in RATIOS), CONTROL)

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of caches and trainings.

    Attributes:
        work: folder of caches, runs and results.
        images: folder with one folder of photographs for each group; None takes the demo's.
        sizes: sides of views, px; parts other than the curve take the first.
        batches: images of a training step, for each size.
        seeds: students of each encoding.
        steps: training steps of the curve.
        few_steps: training steps on few photographs.
        rows: training rows of each group, about.
        held_out_rows: held-out rows of each group, about.
        depth: blocks of the student; None takes those of the recipe `demo`.
        probes: folder with `cifar10` and `camvid`; None leaves probes out.
    """

    work: Path
    images: Path | None = None
    sizes: tuple[int, ...] = (112, 336)
    batches: tuple[int, ...] = (32, 8)
    seeds: int = 3
    steps: int = 200
    few_steps: int = 300
    rows: int = 1280
    held_out_rows: int = 128
    depth: int | None = None
    probes: Path | None = None

    @property
    def size(self) -> int:
        """Side of the views of all parts but the curve, px."""
        return self.sizes[0]

    @property
    def longer_steps(self) -> int:
        """Steps of the longer trainings."""
        return 3 * self.steps

    def batch(self, size: int) -> int:
        """Return the images of a training step at a size."""
        return self.batches[self.sizes.index(size)]


class Results:
    """Results by name, one line of JSON each; what is there is not computed again."""

    def __init__(self, work: Path) -> None:
        self._path = work / RESULTS
        self._records: dict[str, Record] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                record = json.loads(line)
                self._records[record["name"]] = record

    def get(self, name: str) -> Record | None:
        """Return the result of a name; None if it is not there yet."""
        return self._records.get(name)

    def of_kind(self, kind: str) -> list[Record]:
        """Return all results of a kind, in the order in which they were computed."""
        return [record for record in self._records.values() if record["kind"] == kind]

    def once(self, name: str, kind: str, compute: Callable[[], Mapping[str, Any]]) -> Record:
        """Return the result of a name, computed and added if it is not there yet."""
        if name not in self._records:
            record = {"kind": kind, "name": name, **compute()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            before = self._path.read_text() if self._path.exists() else ""
            atomic.write_text(self._path, f"{before}{json.dumps(record)}\n")  # a crash leaves no half line
            self._records[name] = record
        return self._records[name]


def keep_data(settings: Settings) -> None:
    """Record what caches and students of a folder of work are made of.

    Raises:
        Conflict: they are made of something else.
    """
    chosen = asdict(settings)
    asked = {name: chosen[name] for name in ("rows", "held_out_rows", "depth")}
    asked["images"] = None if settings.images is None else str(settings.images.resolve())
    path = settings.work / DATA
    if not path.exists():
        settings.work.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(asked, indent=2) + "\n")
    stored = json.loads(path.read_text())
    differing = [
        f"{name}: {stored.get(name)} there, {asked[name]} asked for"
        for name in asked
        if stored.get(name) != asked[name]
    ]
    if differing:
        raise Conflict(f"'{settings.work}' has results of other data. {'; '.join(differing)}. Choose another --work")
