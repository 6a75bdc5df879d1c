"""Training from a cache against training with live teachers: step time, data wait, and equality of their losses.

    python -m benchmarks.train                         # ViT-B, three projectors, three random ViT-L, 336 px
    python -m benchmarks.train --scale small           # takes seconds; the tests run it
    python -m benchmarks.train --batch 64 --steps 20   # on a GPU

Four ways are measured in one process, in turn on the same rows: `bare` (forward, loss, backward, clipping, AdamW on one
batch that stays in memory), `cached` (the trainer: reading, masks, checks, log records), `codes at 16x` (the same from
codes, which the trainer decodes), `live` (the trainer, with the targets of every batch computed by the teachers in
bfloat16, as DUNE does). Then cached and live run again in float32 without teacher dropping, to compare their losses
step by step.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from backbones.images import normalise
from benchmarks.machine import describe as describe_machine
from benchmarks.train_data import SCALES, Scale, build_cache, coded_caches, make_teachers, tokens_of
from extract.teachers.base import Teacher
from store.format.schema import PIXELS
from train.data.buffers import row_bytes
from train.data.loader import Batch, Loader
from train.data.mixture import Mixture, cached_forms
from train.data.open_caches import describe, open_mixture
from train.distributed import Ranks
from train.objective.losses import teacher_loss
from train.objective.target_statistics import set_exact
from train.optim import adamw, clip_per_tensor
from train.recipe.config import Loss, Recipe, overridden
from train.recipe.named import find
from train.run import load
from train.step import Stepper, arithmetic

WARMUP_STEPS = 2
ROUNDS = 5  # the bare loop and the trainer take turns


def main(
    scale: Literal["full", "small"] = "full",
    batch: int | None = None,
    steps: int = 6,
    parity_steps: int = 4,
    device: str = "auto",
    teacher_dtype: str = "float32",
    ratios: tuple[float, ...] = (16.0,),
    cache: Path | None = None,
    out: Path = Path("benchmarks/results/train.json"),
) -> dict[str, Any]:
    """Measure and report.

    Args:
        scale: full has the paper's sizes, small those of a test.
        batch: images per step; None takes 2 on a CPU and 64 on a GPU at full scale.
        steps: number of steps measured in each round, after two of warm-up.
        parity_steps: number of steps whose losses are compared; 0 compares none.
        device: auto, cpu or cuda.
        teacher_dtype: precision of the teachers that compute the stored tokens and those that losses are compared with.
        ratios: codes to train from too; each takes a cache, encoded at about 10 MB of float16 a second and thread.
        cache: directory for the cache, which stays, with those of codes beside it; None uses a temporary directory.
        out: JSON file to write.
    """
    chosen_device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    sizes = SCALES[scale]
    images = batch or (64 if chosen_device.type == "cuda" and scale == "full" else sizes.batch)
    folder = Path(tempfile.mkdtemp(prefix="codistill-benchmark-")) if cache is None else cache.parent
    location = cache or folder / "float16"
    try:
        teachers = make_teachers(sizes, dtype=teacher_dtype, device=chosen_device)
        if not (location / "features.zarr").exists():
            rows = images * max(4, min(WARMUP_STEPS + steps, 256 // images))
            build_cache(location, teachers, sizes, rows=rows, batch=images)
        report = measure(
            location,
            teachers,
            sizes,
            images=images,
            steps=steps,
            parity_steps=parity_steps,
            coded=coded_caches(location, ratios),
            device=chosen_device,
        )
    finally:
        if cache is None:
            shutil.rmtree(folder, ignore_errors=True)
    report = {
        "scale": scale,
        "sizes": asdict(sizes),
        "teacher_dtype": teacher_dtype,
        **machine(chosen_device),
        **report,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(as_markdown(report))
    return report


def measure(
    location: Path,
    teachers: dict[str, Teacher],
    sizes: Scale,
    *,
    images: int,
    steps: int,
    parity_steps: int,
    coded: Mapping[float, Path],
    device: torch.device,
) -> dict[str, Any]:
    """Time the ways of training, then compare the losses of cached and live."""
    total = WARMUP_STEPS + steps
    timing = _recipe(sizes, images=images, steps=max(total, 2), values={"optim.precision": "bf16"})
    mixture = open_mixture(timing, [str(location)])
    cached = {"cached": mixture} | {
        f"codes at {ratio:g}x": open_mixture(timing, [str(place)]) for ratio, place in coded.items()
    }
    report: dict[str, Any] = {
        "batch": images,
        "steps": steps,
        "ways": list(cached),
        "row_bytes": {name: _row_bytes(of_way) for name, of_way in cached.items()},
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ("bare", *cached)}
    for _ in range(ROUNDS):  # in turn, so that other load on the machine falls on all
        rounds["bare"].append(time_bare(timing, mixture, device=device, steps=steps))
        for name, of_way in cached.items():
            rounds[name].append(time_trainer(timing, of_way, device=device, steps=steps))
    report |= {name: _median(of_way) for name, of_way in rounds.items()} | {"rounds": rounds}
    report["over_cached"] = {name: _median_ratio(rounds[name], rounds["cached"]) for name in list(cached)[1:]}
    fast = make_teachers(sizes, dtype="bfloat16", device=device)
    report["live"] = time_trainer(timing, mixture, device=device, steps=steps, teachers=fast)
    del fast
    report["overhead_over_bare"] = _median_ratio(rounds["cached"], rounds["bare"]) - 1
    report["live_over_cached"] = report["live"]["step_s"] / report["cached"]["step_s"]
    if parity_steps:
        values = {"optim.precision": "fp32", "sharing.drop_probability": 0.0, "optim.lr": 3e-4 * 256 / images}
        parity = _recipe(sizes, images=images, steps=max(parity_steps, 2), values=values)
        cached_losses = losses_of(parity, mixture, device=device, steps=parity_steps)
        live_losses = losses_of(parity, mixture, device=device, steps=parity_steps, teachers=teachers)
        worst = max(abs(a - b) / abs(b) for a, b in zip(cached_losses, live_losses, strict=True))
        report["parity"] = {"cached": cached_losses, "live": live_losses, "largest_relative_difference": worst}
    return report


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the round with the median time."""
    return sorted(rounds, key=lambda one: one["step_s"])[len(rounds) // 2]


def _median_ratio(rounds: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Return the median ratio of the times of neighbouring rounds, which had the same load."""
    return sorted(one["step_s"] / other["step_s"] for one, other in zip(rounds, others, strict=True))[ROUNDS // 2]


def _row_bytes(mixture: Mixture) -> int:
    """Return the bytes of a row as it is read: pixels, and the tokens or codes of all teachers."""
    forms = cached_forms(mixture.sources, mixture.teachers)
    return row_bytes(mixture.teachers, image_size=mixture.image_size, forms=forms)


def _recipe(sizes: Scale, *, images: int, steps: int, values: dict[str, Any]) -> Recipe:
    fixed = {"data.batch": images, "schedule.steps": steps, "schedule.warmup": 0.0, "machine.prefetch": 2}
    return overridden(find(sizes.recipe), {**fixed, **values}, subject="benchmark")


def trainer(recipe: Recipe, mixture: Mixture, device: torch.device) -> Stepper:
    """Build the trainer as `train.loop` does."""
    distiller, norms = load.build_initial(recipe, describe(mixture))
    set_exact(norms, mixture, over_subset=False)
    ranks = Ranks(rank=0, world=1, device=device)
    return Stepper(
        recipe=recipe, mixture=mixture, distiller=distiller.to(device).train(), norms=norms.to(device), ranks=ranks
    )


def loader_of(stepper: Stepper, recipe: Recipe, mixture: Mixture, *, steps: int, live: bool) -> Loader:
    """Build the loader of pixels and tokens; of pixels alone if teachers run live."""
    sources = [replace(source, reads=()) for source in mixture.sources] if live else mixture.sources
    return Loader(
        sources=sources,
        teachers={} if live else mixture.teachers,
        image_size=mixture.image_size,
        plan=stepper.plan,
        steps=range(steps),
        batch=recipe.data.batch,
        device=stepper.ranks.device,
        readers=recipe.machine.readers,
        prefetch=recipe.machine.prefetch,
        raw=True,
    )


def with_live_targets(batches: Loader, teachers: dict[str, Teacher]) -> Iterator[Batch]:
    """Yield batches whose targets the teachers compute when they are needed, as DUNE does."""
    for batch in batches:
        tokens = {name: tokens_of(teacher, batch.pixels) for name, teacher in teachers.items()}
        yield replace(batch, tokens=tokens, read=np.ones((len(teachers), len(batch.rows)), dtype=np.bool_))


def time_trainer(
    recipe: Recipe,
    mixture: Mixture,
    *,
    device: torch.device,
    steps: int,
    teachers: dict[str, Teacher] | None = None,
) -> dict[str, float]:
    """Measure the trainer: seconds per step, and the share of them that it waited for data."""
    stepper = trainer(recipe, mixture, device)
    with loader_of(stepper, recipe, mixture, steps=WARMUP_STEPS + steps, live=teachers is not None) as loader:
        batches = with_live_targets(loader, teachers) if teachers else iter(loader)
        begun = waited = 0.0
        pending = None
        for batch in batches:
            result = stepper.step(batch)
            if pending is not None:
                pending.record()
            pending = result
            if batch.step == WARMUP_STEPS - 1:
                begun, waited = _now(device), loader.waited_s
        took = _now(device) - begun
        waited = loader.waited_s - waited
    return {"step_s": took / steps, "images_per_s": recipe.data.batch * steps / took, "data_wait": waited / took}


def time_bare(recipe: Recipe, mixture: Mixture, *, device: torch.device, steps: int) -> dict[str, float]:
    """Measure the same arithmetic on one batch in memory, without reading, masks, checks and log."""
    distiller, norms = load.build_initial(recipe, describe(mixture))
    set_exact(norms, mixture, over_subset=False)
    distiller.to(device).train()
    norms.to(device)
    source = mixture.sources[0]
    read = source.dataset.read(source.rows_at(np.arange(recipe.data.batch)), [PIXELS, *mixture.teachers])
    data = {name: torch.from_numpy(values).to(device) for name, values in read.items()}
    optimizer = adamw(distiller, lr=1e-4)
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    weights = Loss()

    def step() -> None:
        with arithmetic(recipe, data[PIXELS]):
            predicted = distiller(normalise(data[PIXELS]))
        losses = [
            teacher_loss(predicted[name], data[name], norm=norms.stored(name), weights=weights).per_image
            for name in mixture.teachers
        ]
        torch.autograd.backward(torch.stack(losses).mean())
        clip_per_tensor(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"step_s": _per_call(step, steps, device)}


def _per_call(step: Callable[[], None], steps: int, device: torch.device) -> float:
    for _ in range(WARMUP_STEPS):
        step()
    begun = _now(device)
    for _ in range(steps):
        step()
    return (_now(device) - begun) / steps


def losses_of(
    recipe: Recipe,
    mixture: Mixture,
    *,
    device: torch.device,
    steps: int,
    teachers: dict[str, Teacher] | None = None,
) -> list[float]:
    """Return the loss of each of the first steps."""
    stepper = trainer(recipe, mixture, device)
    with loader_of(stepper, recipe, mixture, steps=steps, live=teachers is not None) as loader:
        batches = with_live_targets(loader, teachers) if teachers else iter(loader)
        return [float(stepper.step(batch).record()["loss"]) for batch in batches]


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine and the device."""
    description = describe_machine(["torch", "timm", "codistill"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{description['cores']} CPU cores"
    return {"device": name, "threads": torch.get_num_threads(), "machine": description}


def as_markdown(report: dict[str, Any]) -> str:
    """Return the report as a table in Markdown."""
    torch_version = report["machine"]["versions"]["torch"]
    lines = [
        f"{report['device']}, {report['threads']} threads, torch {torch_version}; scale {report['scale']}, batch "
        f"{report['batch']}, {report['steps']} steps after {WARMUP_STEPS}",
        "",
        "| | MB a row | seconds per step | images/s | data wait |",
        "|---|---:|---:|---:|---:|",
        f"| bare loop | | {report['bare']['step_s']:.3f} | {report['batch'] / report['bare']['step_s']:.2f} | |",
    ]
    for name in (*report["ways"], "live"):
        way, size = report[name], report["row_bytes"].get(name)
        speed = f"{way['step_s']:.3f} | {way['images_per_s']:.2f} | {100 * way['data_wait']:.2f} %"
        lines.append(f"| {name} | {'' if size is None else f'{size / 1e6:.2f}'} | {speed} |")
    lines += [
        "",
        *(f"{name} / cached = {ratio:.2f}, in time a step" for name, ratio in report["over_cached"].items()),
        f"live / cached = {report['live_over_cached']:.2f}; trainer over bare loop = "
        f"{100 * report['overhead_over_bare']:+.1f} %",
    ]
    if "parity" in report:
        worst = report["parity"]["largest_relative_difference"]
        lines.append(f"losses of cached and live: largest relative difference {worst:.1e} over the first steps")
    return "\n".join(lines)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    tyro.cli(main)
