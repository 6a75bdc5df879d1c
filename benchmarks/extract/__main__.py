"""Compare the extraction stages with the bare work inside them, on this machine.

    python -m benchmarks.extract                              # ViT-L teacher with random weights, 336 px
    python -m benchmarks.extract --scale small                # seconds; a test runs it
    python -m benchmarks.extract --rows 1024 --batch-size 64 --dtype float16     # on a GPU

Comparisons, each of the same rows in the same process:

- views, photometric "none": the stage against decoding and resizing alone (Pillow, one torchvision resize) with as many
  threads; photometric "dune": the stage against rendering the same views without storing them.
- features: the stage (reading, checking, rounding, checksums, statistics, writing, syncing) against the bare forward of
  the same teacher over the same pixels in the same batches.
- teachers: each of DUNE's three against timm's bare network of the same size (`benchmarks.extract.teachers`).
- processes: rows/s of both stages with two worker processes of one thread against one such (`--processes`), after each
  process has loaded what it needs.

Each stage reports the GB/s that it wrote; on a GPU the features stage also reports utilisation.
"""

import io
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import tyro
from PIL import Image
from safetensors.torch import save_file

import store
from backbones.device import resolve_device, torch_threads
from backbones.vit import DinoVisionTransformer
from benchmarks.extract.gpu import utilisation
from benchmarks.extract.teachers import overheads
from extract.catalogue import Catalogue, DatasetEntry, TeacherEntry, ViewRecipe
from extract.job import job
from extract.job.executor import Executor, ThreadExecutor
from extract.job.failure_limit import FailureLimit
from extract.job.selection import Job, check
from extract.job.summary import StageReport
from extract.job.worker import Settings, Worker
from extract.sources import open_source
from extract.teachers.loading import load_teacher
from extract.views.parameters import ViewParameters, sample_view
from extract.views.render import resized
from store import errors
from store.format.schema import PIXELS

Result = TypeVar("Result")
VIEWS_PER_ROW = 32  # views are much faster than a teacher, so more of them are measured
JPEG_QUALITY = 90
DIFFERENT_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes: views in px, teacher (embed_dim, depth, num_heads), generated images (width, height), rows of a shard."""

    image_size: int
    teacher: tuple[int, int, int]
    source: tuple[int, int]
    shard_rows: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall time and CPU time in seconds; CPU time stays comparable on a machine that others use."""

    wall_s: float
    processor_s: float


SCALES = {
    "full": Scale(image_size=336, teacher=(1024, 24, 16), source=(640, 480), shard_rows=256),
    "small": Scale(image_size=56, teacher=(64, 2, 1), source=(96, 64), shard_rows=4),
}


def main(
    scale: Literal["full", "small"] = "full",
    rows: int = 64,
    images: Path | None = None,
    device: str = "auto",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    batch_size: int = 8,
    threads: int | None = None,
    teachers: bool = True,
    processes: bool = False,
    out: Path = Path("benchmarks/results/extract.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        scale: full for the paper's sizes, small for a test.
        rows: number of rows of features; 32 times as many views are made.
        images: folder of photographs; None generates JPEGs.
        device: auto, cpu or cuda.
        dtype: dtype of the teacher.
        batch_size: rows that go through the teacher together.
        threads: decoding threads; None for one per CPU.
        teachers: also compare each of DUNE's three with timm's bare network; takes some ten minutes on a CPU.
        processes: also compare one and two worker processes.
        out: JSON file to write.
    """
    folder = Path(tempfile.mkdtemp(prefix="codistill-benchmark-"))
    try:
        catalogue = make_catalogue(folder, SCALES[scale], rows=rows, images=images, dtype=dtype)
        settings = Settings(
            location="",
            catalogue=catalogue,
            device=resolve_device(device),
            batch_size=batch_size,
            threads=threads,
        )
        report = {"scale": scale, **machine(settings), "views": views(folder, settings)}
        report["features"] = features(folder, settings)
        if teachers:
            report["teachers"] = overheads(scale, device=settings.device, dtype=dtype, batch_size=batch_size)
        if processes:
            report["processes"] = scaling(folder, settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return report


def make_catalogue(folder: Path, scale: Scale, *, rows: int, images: Path | None, dtype: str) -> Catalogue:
    """Return a catalogue of datasets "many" (for views) and "few" (for features), and a teacher with random weights."""
    root = images or generate(folder / "images", scale, VIEWS_PER_ROW * rows)
    probe = DatasetEntry(name="probe", group="any", root=root)
    paths = open_source(probe).enumerate().paths
    entries = []
    for name, wanted in (("many", VIEWS_PER_ROW * rows), ("few", rows)):
        chosen = folder / f"{name}.txt"
        chosen.write_text("\n".join(paths[:wanted]), encoding="utf-8")
        values = {"name": name, "group": "any", "root": root, "list": chosen, "views": -(-wanted // len(paths))}
        entries.append(DatasetEntry.model_validate(values))
    teacher = {"name": "teacher", "model": "dinov2", "weights": weights(folder, scale), "dtype": dtype}
    return Catalogue(
        recipe=ViewRecipe(image_size=scale.image_size, shard_rows=min(scale.shard_rows, -(-rows // 4))),
        dataset=tuple(entries),
        teacher=(TeacherEntry.model_validate(teacher),),
    )


def generate(folder: Path, scale: Scale, count: int) -> Path:
    """Write JPEGs of smooth noise, about as large as photographs of that size: a few images under many names."""
    folder.mkdir()
    width, height = scale.source
    contents = []
    for number in range(min(count, DIFFERENT_IMAGES)):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        noisy = smooth + 0.06 * torch.randn(3, height, width, generator=generator)
        pixels = (noisy.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        contents.append(buffer.getvalue())
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])
    return folder


def weights(folder: Path, scale: Scale) -> Path:
    """Write the random weights of a DINOv2 of this size to a file."""
    width, depth, heads = scale.teacher
    torch.manual_seed(0)
    network = DinoVisionTransformer(embed_dim=width, depth=depth, num_heads=heads, register_tokens=4, layer_scale=1.0)
    path = folder / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return path


def views(folder: Path, settings: Settings) -> dict[str, Any]:
    """Compare the views stage with the same work without everything around it."""
    bare_work = {"none": bare_decode_and_resize, "dune": bare_rendering}
    return {name: views_of_recipe(folder, settings, name, bare) for name, bare in bare_work.items()}


def views_of_recipe(
    folder: Path, settings: Settings, photometric: str, bare: Callable[[Worker], Callable[[int], None]]
) -> dict[str, Any]:
    """Compare the views stage with the bare work for one kind of recipe."""
    shard_rows = min(SCALES["full"].shard_rows, settings.catalogue.recipe.shard_rows * VIEWS_PER_ROW)
    values = {"photometric": photometric, "shard_rows": shard_rows}
    recipe = settings.catalogue.recipe.model_copy(update=values)
    own_settings = with_recipe(settings, recipe, folder / f"views-{photometric}")
    with ThreadExecutor(own_settings) as executor:
        run_stages(own_settings, executor, datasets=["many"], stages=["index"])
        stage, reports = cost_of(lambda: run_stages(own_settings, executor, datasets=["many"], stages=["views"]))
    worker = Worker(own_settings, ThreadPoolExecutor(1))
    work, images = bare(worker), range(worker.cache["many"].images)
    with torch_threads(1), ThreadPoolExecutor(own_settings.processors) as pool:
        bare_cost, _ = cost_of(lambda: list(pool.map(work, images)))
    return compared(reports[0], stage=stage, bare=bare_cost)


def bare_decode_and_resize(worker: Worker) -> Callable[[int], None]:
    """Read, decode with Pillow, and resize each view's rectangle, without checks, records or storage."""
    maker, size = worker.view_maker("many"), worker.settings.catalogue.recipe.image_size

    def work(image: int) -> None:
        path = maker.images["path"][image].as_py()
        content = (maker.entry.root / path).read_bytes()
        pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        whole = torch.from_numpy(pixels).permute(2, 0, 1)
        for view in range(maker.entry.views):
            height, width = pixels.shape[:2]
            box = sample_view(maker.recipe, dataset="many", path=path, view=view, width=width, height=height)
            resized(cropped(whole, box), height=size, width=size)

    return work


def cropped(whole: torch.Tensor, box: ViewParameters) -> torch.Tensor:
    """Return the view's rectangle of an image (3, H, W)."""
    return whole[:, box.top : box.top + box.height, box.left : box.left + box.width]


def bare_rendering(worker: Worker) -> Callable[[int], None]:
    """Render the views without storing them."""
    maker = worker.view_maker("many")

    def work(image: int) -> None:
        maker.make(image, range(image * maker.entry.views, (image + 1) * maker.entry.views))

    return work


def features(folder: Path, settings: Settings) -> dict[str, Any]:
    """Compare the features stage with the bare forward."""
    own_settings = replace(settings, location=str(folder / "features"))
    with ThreadExecutor(own_settings) as executor:
        run_stages(own_settings, executor, datasets=["few"], stages=["index", "views"])
        executor.prepare_teacher("teacher", ["few"])
        bare = bare_forward(own_settings)
        with utilisation(own_settings.device) as gpu:
            stage, reports = cost_of(lambda: run_stages(own_settings, executor, datasets=["few"], stages=["features"]))
    return compared(reports[0], stage=stage, bare=bare) | {"gpu_utilisation": gpu.mean}


def bare_forward(settings: Settings) -> Cost:
    """Measure the teacher alone, its pixels already on the device, in the batches of the stage."""
    teacher = load_teacher(settings.catalogue.teacher[0], device=settings.device)
    dataset = store.open(settings.location)["few"]
    batch = settings.batch_size or 1
    shards = [torch.from_numpy(dataset.read_shard(PIXELS, k).data).to(settings.device) for k in range(dataset.shards)]
    batches = [part for shard in shards for part in torch.split(shard, batch)]
    teacher(batches[0])

    def forward() -> None:
        for pixels in batches:
            teacher(pixels)
        if settings.device.startswith("cuda"):
            torch.cuda.synchronize()

    return cost_of(forward)[0]


def scaling(folder: Path, settings: Settings) -> dict[str, Any]:
    """Measure rows/s of both stages with one and with two worker processes of one thread each."""
    from extract.job.dask_executor import DaskExecutor

    rates: dict[str, Any] = {}
    for workers in (1, 2):
        own_settings = replace(settings, location=str(folder / f"workers-{workers}"), threads=1)
        with DaskExecutor(own_settings, scheduler=None, workers=workers) as executor:
            # Run all once, so that every process has imported, opened and loaded what it needs; then measure.
            run_stages(own_settings, executor, datasets=["few"], stages=["index", "views", "features"])
            run_stages(own_settings, executor, datasets=["many"], stages=["index"])
            timed = [
                *run_stages(own_settings, executor, datasets=["many"], stages=["views"]),
                *run_stages(own_settings, executor, datasets=["few"], stages=["features"], recompute=True),
            ]
        rates[str(workers)] = {report.stage: report.rows_per_second for report in timed}
    ratios = {stage: rates["2"][stage] / rates["1"][stage] for stage in rates["1"]}
    return {"rows_per_second": rates, "two_over_one": ratios}


def run_stages(
    settings: Settings, executor: Executor, *, datasets: list[str], stages: list[str], recompute: bool = False
) -> list[StageReport]:
    """Run stages of a job and return their reports; `recompute` first deletes what they make."""
    asked = Job(
        catalogue=settings.catalogue,
        cache=settings.location,
        datasets=datasets,
        stages=stages,
        limit=FailureLimit(share=1.0),
    )
    selection = check(asked)
    if recompute:
        job.delete(selection)
    with io.StringIO() as quiet:
        report = job.run(selection, job.open_for(selection), executor, stream=quiet)
    if report.problem is not None:
        raise errors.JobFailed(report.problem)
    return list(report.stages)


def with_recipe(settings: Settings, recipe: ViewRecipe, location: Path) -> Settings:
    """Return the settings of the same job with another recipe in another cache."""
    catalogue = settings.catalogue.model_copy(update={"recipe": recipe})
    return replace(settings, catalogue=catalogue, location=str(location))


def cost_of(work: Callable[[], Result]) -> tuple[Cost, Result]:
    """Call `work`; return its cost and its result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return Cost(wall_s=time.perf_counter() - started, processor_s=time.process_time() - used), result


def compared(report: StageReport, *, stage: Cost, bare: Cost) -> dict[str, Any]:
    """Figures of a stage beside those of the bare work."""
    return {
        "rows": report.rows,
        "stage_s": stage.wall_s,
        "bare_s": bare.wall_s,
        "stage_over_bare": stage.wall_s / bare.wall_s,
        "processor_over_bare": stage.processor_s / bare.processor_s,
        "rows_per_second": report.rows / stage.wall_s,
        "written_gb_per_second": report.stored_bytes / stage.wall_s / 1e9,
    }


def machine(settings: Settings) -> dict[str, Any]:
    """Description of this machine."""
    cuda = settings.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    versions = {"torch": torch.__version__, "batch_size": settings.batch_size}
    return {"device": name, "threads": settings.processors, **versions}


if __name__ == "__main__":
    tyro.cli(main)
