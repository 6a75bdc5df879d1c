"""Store of a labelled dataset's features, extracted once and reused by every probe setting.

    FEATURES/<name>-<key digest>/key.json                    everything that the features depend on
    FEATURES/<name>-<key digest>/shard-00000.safetensors     arrays of the first `shard_items` items, and so on

A shard appears whole under its name or not at all, so a stopped extraction continues at the first missing shard. Other
encoder weights, another list of files or other settings of the views give another key and so another folder; heads
and their training are not part of the key. Tokens are float16 (a value that does not fit is an error).

This is not a codistill cache: probes need crops that are not square, windows whose number varies by image, and labels.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eval.runs.results import digest
from store.common import atomic
from store.common.text import human_bytes
from store.errors import Conflict, Damaged, InvalidInput, MissingShard

FORMAT = 1
Compute = Callable[[range], Mapping[str, np.ndarray]]
Progress = Callable[[Iterable[int]], Iterator[int]]


class Features:
    """Arrays of a fixed number of items, in shards.

    Args:
        root: folder of all features.
        name: readable part of the folder's name, for example `student-camvid-train`.
        key: JSON data, everything that the arrays depend on.
        items: number of items.
        shard_items: number of items in a shard; the last may hold fewer.

    Raises:
        Conflict: the folder of this key holds features of another key.
    """

    def __init__(self, root: Path, *, name: str, key: Mapping[str, Any], items: int, shard_items: int) -> None:
        self.key = {"format": FORMAT, "items": items, "shard_items": shard_items, **json.loads(json.dumps(key))}
        self.folder = root / f"{name}-{digest(self.key)[:12]}"
        self.items = items
        self.shard_items = shard_items
        self._open: dict[int, Any] = {}
        self._claim()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.items // self.shard_items)

    def items_of(self, shard: int) -> range:
        """Return the items of one shard."""
        return range(shard * self.shard_items, min((shard + 1) * self.shard_items, self.items))

    def missing(self) -> list[int]:
        """List the shards that are not extracted yet."""
        return [shard for shard in range(self.shards) if not self._path(shard).exists()]

    def fill(self, compute: Compute, *, progress: Progress = iter) -> int:
        """Extract the missing shards.

        Args:
            compute: function of a shard's items that returns its arrays; float32 arrays are stored as float16.
            progress: wrapper of the list of shards that shows progress.

        Returns:
            Number of shards that were extracted.

        Raises:
            InvalidInput: a value that is not finite in float16, or too little space for all shards.
        """
        missing = self.missing()
        for count, shard in enumerate(progress(missing)):
            arrays = {name: _stored(array, name, self.folder) for name, array in compute(self.items_of(shard)).items()}
            if count == 0:
                self._check_space(sum(array.nbytes for array in arrays.values()) * len(missing))
            with atomic.replacing(self._path(shard)) as partial:
                save_file(arrays, partial)
        return len(missing)

    def read(self, shard: int) -> dict[str, np.ndarray]:
        """Read all arrays of one shard."""
        handle = self._handle(shard)
        names = list(handle.keys())
        return {name: handle.get_tensor(name) for name in names}

    def gather(self, name: str, items: np.ndarray) -> np.ndarray:
        """Read the rows (n, ...) of some items from one array, which has one row an item."""
        rows = []
        for item in items.tolist():
            shard, row = divmod(item, self.shard_items)
            rows.append(self._handle(shard).get_slice(name)[row : row + 1])
        return np.concatenate(rows)

    def names(self) -> frozenset[str]:
        """Return the names of the arrays."""
        return frozenset(self._handle(0).keys())

    def _handle(self, shard: int) -> Any:
        if shard not in self._open:
            path = self._path(shard)
            try:
                self._open[shard] = safe_open(path, framework="np")
            except FileNotFoundError:
                raise MissingShard(f"features '{self.folder}': no shard {shard}. Run the probe again") from None
            except SafetensorError as error:
                raise Damaged(f"features '{path}': {error}. Delete the file and run the probe again") from None
        return self._open[shard]

    def _claim(self) -> None:
        path = self.folder / "key.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            atomic.write_text(path, json.dumps(self.key, indent=1, sort_keys=True))
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        if stored != self.key:
            raise Conflict(f"features '{self.folder}': key.json does not fit the folder's name. Delete the folder")

    def _check_space(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.folder).free
        if needed_bytes > free_bytes:
            raise InvalidInput(
                f"features '{self.folder}': {human_bytes(needed_bytes)} needed, {human_bytes(free_bytes)} free. "
                "Pass fewer --views, or another folder as --features"
            )

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Folder of features, opened for one dataset.

    Attributes:
        root: folder of all features.
        dataset: name of the dataset, part of folder names.
        progress: wrapper of an iterable that shows progress.
    """

    root: Path
    dataset: str
    progress: Progress = iter

    def filled(
        self, compute: Compute, *, encoder: str, part: str, key: Mapping[str, Any], items: int, shard_items: int
    ) -> Features:
        """Return the features of one part of the dataset; missing shards are extracted first.

        Args:
            compute: function of a shard's items that returns its arrays.
            encoder: name of the encoder, part of the folder's name.
            part: name of the part, `train` or `test`.
            key: JSON data, everything that the arrays depend on.
            items: number of items.
            shard_items: number of items in a shard.
        """
        name = f"{encoder}-{self.dataset}-{part}"
        features = Features(self.root, name=name, key=key, items=items, shard_items=shard_items)
        features.fill(compute, progress=self.progress)
        return features


def _stored(array: np.ndarray, name: str, folder: Path) -> np.ndarray:
    """Convert an array as it is stored: float32 becomes float16."""
    if array.dtype != np.float32:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    bad = int(np.size(half) - np.isfinite(half).sum())
    if bad:
        largest = float(np.abs(array).max())
        raise InvalidInput(f"features '{folder}': {bad} values of {name} not finite in float16 (largest {largest:g})")
    return np.ascontiguousarray(half)
