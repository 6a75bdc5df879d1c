"""Students of runs beside their teachers: their own tokens, their projections, and their errors.

A student sees the stored pixels of a row, so that whatever the cache holds can be compared. Its modules, and torch,
are loaded when something of it is first drawn. Shapes: B rows, P prefix tokens, N patches, C channels.
"""

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors

import store
from eval.view import tokens
from eval.view.opened import Opened
from eval.view.shapes import ArrayShape
from store import errors
from store.common import strict_json
from store.format.schema import PIXELS

if TYPE_CHECKING:
    import torch

    from eval.encoders.base import StudentEncoder
    from train.run.load import Run

COMPUTED_TOGETHER = 4
DESCRIPTION, CHECKPOINTS, MODEL = "cache.json", "checkpoints", "model.safetensors"  # in a run directory
SHAPE = {"patch_grid", "prefix_tokens", "channels", "identity_digest"}  # of a teacher in the description
WIDTH_OF = "distiller.encoder.norm.weight"


class ShownRun:
    """A run to show; not loaded before something of it is drawn.

    Args:
        name: name on the page.
        directory: run directory.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @cached_property
    def _description(self) -> dict[str, Any]:
        path = self.directory / DESCRIPTION
        try:
            found = strict_json.parse_object(path.read_bytes(), where=f"'{path}'")
        except OSError as error:
            raise errors.MissingFile(f"'{path}' cannot be read: {error.strerror}. Give a whole run") from error
        teachers = found.get("teachers")
        known = teachers.values() if isinstance(teachers, dict) else ()
        whole = [isinstance(one, dict) and one.keys() >= SHAPE for one in known]
        if not isinstance(found.get("image_size"), int) or not whole or not all(whole):
            raise errors.Damaged(f"'{path}' does not describe a run's teachers and images. Give a whole run")
        return found

    def check(self) -> None:
        """Refuse a run that does not say what it was trained on: no row could be shown beside it.

        Raises:
            errors.MissingFile: its description cannot be read.
            errors.Damaged: its description is another file's.
        """
        _ = self._description

    @property
    def teachers(self) -> list[str]:
        """Teachers that it was trained on."""
        return list(self._description["teachers"])

    def shape(self, dataset: store.Dataset, teacher: str) -> ArrayShape:
        """Return the shape of its projection to a teacher, or of its own tokens if `teacher` is empty.

        Raises:
            errors.MissingName: it was not trained on this teacher.
            errors.InvalidInput: it sees images of another size.
        """
        self._check_fits(dataset)
        if not teacher:
            one = next(iter(self._description["teachers"].values()))
            return ArrayShape(grid=tuple(one["patch_grid"]), prefix_tokens=1, channels=self._channels)
        known = self._teacher(teacher)
        return ArrayShape(
            grid=tuple(known["patch_grid"]), prefix_tokens=known["prefix_tokens"], channels=known["channels"]
        )

    def tokens(self, dataset: store.Dataset, rows: Sequence[int], teacher: str) -> npt.NDArray[np.float16]:
        """Return tokens [B, P + N, C] of rows: after the final norm, or projected, in the teacher's own units.

        Args:
            dataset: dataset of the rows.
            rows: rows whose pixels are ok.
            teacher: teacher to project to; empty for the student's own tokens.

        Raises:
            errors.RowsNotOk: a row has no pixels.
        """
        self._check_fits(dataset)
        parts = []
        for start in range(0, len(rows), COMPUTED_TOGETHER):
            pixels = dataset.read(rows[start : start + COMPUTED_TOGETHER], [PIXELS])[PIXELS]
            parts.append(self._load().tokens(pixels, teacher))
        return np.concatenate(parts)

    def error(self, opened: Opened, dataset: str, row: int, teacher: str) -> npt.NDArray[np.float64]:
        """Return 1 - cosine [N] between projection and teacher, both standardised as in training; NaN as stored.

        Raises:
            errors.Conflict: the teacher of this dataset is not the one that the run was trained on.
            errors.RowsNotOk: the row has no pixels or no tokens.
        """
        trained, stored = self._teacher(teacher), opened.teacher(dataset, teacher)
        if trained["identity_digest"] != stored.identity_digest:
            both = f"{trained['identity_digest'][:12]} in the run, {stored.identity_digest[:12]} in the cache"
            raise errors.Conflict(
                f"run '{self.name}' was trained on another '{teacher}' than is in '{dataset}': {both}"
            )
        predicted = tokens.patches(opened, dataset, row, f"{tokens.PROJECTION}{self.name}:{teacher}")
        target = tokens.patches(opened, dataset, row, teacher)
        loaded = self._load()
        vectors = [tokens.unit(loaded.standardised(values, teacher)) for values in (predicted, target)]
        return np.asarray(1.0 - np.einsum("nc,nc->n", *vectors).astype(np.float64))

    def load(self) -> None:
        """Load its modules, and torch, before something of it is drawn."""
        self._load()

    @cached_property
    def _channels(self) -> int:
        """Width of the student, from the end of its encoder in the newest checkpoint: without loading it."""
        files = sorted(self.directory.glob(f"{CHECKPOINTS}/step-*/{MODEL}"))
        if not files:
            raise errors.MissingFile(f"run '{self.directory}' has no checkpoint. Train it, or give another run")
        try:
            with safetensors.safe_open(files[-1], "numpy") as file:
                return int(file.get_slice(WIDTH_OF).get_shape()[0])
        except (OSError, safetensors.SafetensorError) as error:
            raise errors.Damaged(f"'{files[-1]}' cannot be read: {error}. Give another run") from error

    def _teacher(self, name: str) -> dict[str, Any]:
        if name not in self._description["teachers"]:
            raise errors.MissingName(
                f"run '{self.name}' has no teacher '{name}'; available: {', '.join(self.teachers)}"
            )
        return dict(self._description["teachers"][name])

    def _check_fits(self, dataset: store.Dataset) -> None:
        size = self._description["image_size"]
        if dataset.image_size != size:
            message = f"run '{self.name}' sees images of {size} px, '{dataset.name}' has {dataset.image_size} px"
            raise errors.InvalidInput(message)

    def _load(self) -> "_Loaded":
        with self._lock:
            if self._loaded is None:
                from eval.encoders.base import StudentEncoder
                from train.run.load import load

                run = load(self.directory)
                encoder = StudentEncoder(run.distiller.encoder, cell_px=run.distiller.cell_px, final_norm=True)
                self._loaded = _Loaded(run, encoder)
            return self._loaded


class _Loaded:
    """The modules of a run, on the CPU: a row is a matter of a moment, and GPUs are busy with better things."""

    def __init__(self, run: "Run", encoder: "StudentEncoder") -> None:
        self.run, self.encoder = run, encoder
        self._lock = threading.Lock()  # torch has threads of its own

    def tokens(self, pixels: npt.NDArray[np.uint8], teacher: str) -> npt.NDArray[np.float16]:
        """Return tokens [B, P + N, C] of pixels [B, H, W, 3]."""
        import torch

        from backbones.images import normalise

        with self._lock, torch.inference_mode():
            images = torch.from_numpy(pixels)
            if teacher:
                prefix, patches = self.run.distiller(normalise(images))[teacher]
                prefix = self._undone(prefix, teacher, prefix=True)
                patches = self._undone(patches, teacher, prefix=False)
            else:
                prefix, patches = self.encoder(images)
            both = torch.cat([prefix.float(), patches.float()], dim=1)
            return both.clamp(-65504, 65504).half().numpy()

    def standardised(self, patches: npt.NDArray[Any], teacher: str) -> npt.NDArray[np.float32]:
        """Return patch tokens [N, C] of a teacher in the units of training."""
        import torch

        norm = self.run.target_norms.stored(teacher).patch
        with self._lock, torch.inference_mode():
            return np.asarray(norm.apply(torch.from_numpy(np.asarray(patches, np.float32))).numpy())

    def _undone(self, values: "torch.Tensor", teacher: str, *, prefix: bool) -> "torch.Tensor":
        """Return standardised tokens in the teacher's own units."""
        from train.objective.targets import MIN_STD

        stored = self.run.target_norms.stored(teacher)
        norm = stored.prefix if prefix else stored.patch
        if norm is None:
            return values
        return values * norm.std.clamp(min=MIN_STD) + norm.mean
