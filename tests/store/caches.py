"""Small caches that tests make: photographs, two datasets, two teachers, some failed rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

import store
from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_fit import fit_code
from store.format.manifest import SCHEMA
from store.format.schema import FAILED, OK, PIXELS

IMAGE_SIZE_PX = 28
SHARD_ROWS = 4
SOURCE_SIZE_PX = (40, 60)  # height, width
NO_PIXELS = "no pixels: the view failed"


@dataclass(frozen=True)
class TeacherSpec:
    """A made-up teacher."""

    name: str
    prefix_tokens: int
    channels: int
    groups: tuple[str, ...]
    patch_grid: tuple[int, int] = (2, 2)
    weights: str = "w"
    ratio: float | None = None  # of the code that its tokens are stored in; None stores float16

    @property
    def identity(self) -> dict[str, Any]:
        return {"architecture": self.name, "weights": self.weights, "patch_grid": list(self.patch_grid)}


@dataclass(frozen=True)
class DatasetSpec:
    """A made-up dataset; `failed` rows have no pixels, `failed_tokens` fail for that teacher only."""

    name: str
    group: str
    images: int
    views: int = 1
    split: Literal["train", "val"] = "train"
    first_view: int = 0
    failed: Collection[int] = ()
    failed_tokens: Mapping[str, Collection[int]] = field(default_factory=dict)


CODED = TeacherSpec("vit", 1, 8, ("generic",), patch_grid=(4, 4), ratio=4.0)
CODED_IN_PART = TeacherSpec("part", 0, 8, ("scenes",), patch_grid=(4, 4), ratio=16.0)
CODED_TEACHERS = (CODED, CODED_IN_PART)
CALIBRATION_ROWS = 512
TEACHERS = (TeacherSpec("dino", 1, 6, ("generic",)), TeacherSpec("mast", 0, 4, ("scenes",)))
DATASETS = (
    DatasetSpec("flowers", "generic", images=5, views=2, failed={3}, failed_tokens={"dino": {9}}),
    DatasetSpec("rooms", "scenes", images=7, split="val", first_view=3),
)


def photograph(dataset: str, image: int) -> np.ndarray:
    """Return uint8 (40, 60, 3), from integer arithmetic alone."""
    y, x = np.mgrid[0 : SOURCE_SIZE_PX[0], 0 : SOURCE_SIZE_PX[1]]
    seed = sum(dataset.encode()) + 17 * image
    return np.stack([(x * (3 + seed % 5) + y * (2 + c) + 31 * seed) % 256 for c in range(3)], axis=-1).astype(np.uint8)


def crop_of(row: int) -> tuple[int, int]:
    """Return (top, left) of the crop that a row shows."""
    return row % (SOURCE_SIZE_PX[0] - IMAGE_SIZE_PX), (3 * row) % (SOURCE_SIZE_PX[1] - IMAGE_SIZE_PX)


def pixels_of(dataset: str, row: int, views: int) -> np.ndarray:
    """Return the pixels of a row, uint8 (28, 28, 3)."""
    top, left = crop_of(row)
    return photograph(dataset, row // views)[top : top + IMAGE_SIZE_PX, left : left + IMAGE_SIZE_PX].copy()


def tokens_of(teacher: TeacherSpec, pixels: np.ndarray) -> np.ndarray:
    """Return float16 (tokens, channels): a fixed linear map of the mean colour of each patch."""
    rows, cols = teacher.patch_grid
    cells = pixels.reshape(rows, IMAGE_SIZE_PX // rows, cols, IMAGE_SIZE_PX // cols, 3).mean(axis=(1, 3)).reshape(-1, 3)
    weights = np.arange(3 * teacher.channels).reshape(3, teacher.channels) % 7 - 2.5 + len(teacher.weights)
    patches = cells @ weights / 64.0
    prefix = np.repeat(patches.mean(axis=0, keepdims=True), teacher.prefix_tokens, axis=0)
    return np.concatenate([prefix, patches]).astype(np.float16)


@cache
def code_of(teacher: TeacherSpec) -> Code:
    """Return a code for a teacher, fitted to crops of other photographs."""
    pixels = (pixels_of(f"calibration {row}", row, 1) for row in range(CALIBRATION_ROWS))
    sample = CalibrationSample(
        tokens=np.stack([tokens_of(teacher, row) for row in pixels]),
        rows=np.arange(5000, 5000 + CALIBRATION_ROWS),
        prefix_tokens=teacher.prefix_tokens,
        patch_grid=teacher.patch_grid,
    )
    assert teacher.ratio is not None
    return fit_code(sample, ratio=teacher.ratio)


def record_of(dataset: DatasetSpec, row: int) -> dict[str, Any]:
    """Return the manifest row."""
    place = {
        "row": row,
        "dataset": dataset.name,
        "image_index": row // dataset.views,
        "path": image_path(dataset.name, row // dataset.views),
        "view": dataset.first_view + row % dataset.views,
    }
    if row in dataset.failed:
        return place | {"status": FAILED, "error": "decode: truncated file"}
    top, left = crop_of(row)
    return place | {
        "source_width": SOURCE_SIZE_PX[1],
        "source_height": SOURCE_SIZE_PX[0],
        "rotate_deg": 0,
        "crop_top": top,
        "crop_left": left,
        "crop_height": IMAGE_SIZE_PX,
        "crop_width": IMAGE_SIZE_PX,
        "flip": False,
        "status": OK,
    }


def manifest_of(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return manifest rows as a table; what a record lacks is null."""
    return pa.table({name: [record.get(name) for record in records] for name in SCHEMA.names}, schema=SCHEMA)


def image_path(dataset: str, image: int) -> str:
    return f"{dataset}/{image:03d}.png"


def image_list(dataset: DatasetSpec) -> pa.Table:
    count = dataset.images
    return pa.table(
        {
            "image_index": pa.array(range(count), pa.int64()),
            "path": [image_path(dataset.name, image) for image in range(count)],
            "bytes": pa.array([1000 + image for image in range(count)], pa.int64()),
        }
    )


def write_images(folder: Path, datasets: Sequence[DatasetSpec] = DATASETS) -> Path:
    """Write the source photographs below `folder`."""
    from PIL import Image

    for dataset in datasets:
        for image in range(dataset.images):
            path = folder / image_path(dataset.name, image)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(dataset.name, image)).save(path)
    return folder


def create_datasets(
    location: Path | str,
    datasets: Sequence[DatasetSpec] = DATASETS,
    *,
    shard_rows: int = SHARD_ROWS,
    jpeg: bool = False,
) -> store.Cache:
    """Create a cache and its datasets, without a shard; pixels are stored raw or as JPEG."""
    recipe: dict[str, Any] = {"image_size": IMAGE_SIZE_PX, "shard_rows": shard_rows, "flip": 0.0, "seed": 0}
    cache = store.create(location, recipe | ({"pixels": "jpeg"} if jpeg else {}))
    for spec in datasets:
        cache.create_dataset(
            spec.name,
            images=image_list(spec),
            group=spec.group,
            split=spec.split,
            mode="train",
            views=spec.views,
            first_view=spec.first_view,
            source={"kind": "folder", "pattern": ["**/*.png"]},
        )
    return cache


def write_pixels(cache: store.Cache, spec: DatasetSpec, shard: int) -> None:
    """Write one shard of pixels."""
    dataset = cache[spec.name]
    rows = dataset.shard_rows_of(shard)
    with dataset.write_shard(PIXELS, shard, provenance={"made_by": "tests"}) as writer:
        for row in rows:
            if row in spec.failed:
                writer.fail(str(record_of(spec, row)["error"]))
            else:
                writer.append(pixels_of(spec.name, row, spec.views))
        assert writer.finish(manifest_of([record_of(spec, row) for row in rows]))


def write_tokens(cache: store.Cache, spec: DatasetSpec, teacher: TeacherSpec, shard: int) -> None:
    """Write one shard of a teacher's tokens; the teacher's array is created if need be."""
    dataset = cache[spec.name]
    create_teacher(dataset, teacher)
    pixels = dataset.read_shard(PIXELS, shard)
    writing = dataset.write_shard(teacher.name, shard, provenance={"device": "tests"}, pixels_digest=pixels.digest)
    with writing as writer:
        for row, data, status in zip(dataset.shard_rows_of(shard), pixels.data, pixels.status, strict=True):
            if status != OK:
                writer.fail(NO_PIXELS)
            elif row in spec.failed_tokens.get(teacher.name, ()):
                writer.fail("overflow: channel 3 exceeds float16")
            else:
                writer.append(tokens_of(teacher, data))
        assert writer.finish()


def create_teacher(dataset: store.Dataset, teacher: TeacherSpec) -> None:
    dataset.create_teacher(
        teacher.name,
        identity=teacher.identity,
        groups=teacher.groups,
        patch_grid=teacher.patch_grid,
        prefix_tokens=teacher.prefix_tokens,
        channels=teacher.channels,
        code=None if teacher.ratio is None else code_of(teacher),
    )


def make_cache(
    location: Path | str,
    datasets: Sequence[DatasetSpec] = DATASETS,
    teachers: Sequence[TeacherSpec] = TEACHERS,
    *,
    shard_rows: int = SHARD_ROWS,
    seal: bool = True,
    jpeg: bool = False,
) -> store.Cache:
    """Make a complete cache: every shard of every array, sealed."""
    cache = create_datasets(location, datasets, shard_rows=shard_rows, jpeg=jpeg)
    for spec in datasets:
        for shard in range(cache[spec.name].shards):
            write_pixels(cache, spec, shard)
            for teacher in teachers:
                write_tokens(cache, spec, teacher, shard)
    if seal:
        store.seal(cache)
    return store.open(location)


def contents(root: Path, *, seals: bool = False) -> dict[str, bytes]:
    """Every file; the records of the seal, which may be deleted at any time, only if asked for."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and (seals or path.parent.name != "seal"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def same_rows(root: Path, whole: Path) -> bool:
    """Return whether every row that was ok is unchanged."""
    same = []
    for before in store.open(whole):
        after = store.open(root)[before.name]
        for array in ("pixels", *before.teachers):
            rows = before.valid_rows([array])
            same.append(np.array_equal(before.read(rows, [array])[array], after.read(rows, [array])[array]))
    return all(same)
