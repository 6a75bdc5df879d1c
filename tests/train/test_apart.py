"""Training without teachers: none is imported, and cached targets give the losses that live ones give."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.teachers import Teacher
from tests.extract.teachers.builders import golden_teacher
from tests.train.builders import Seer, build_cache, tiny
from train.data.loader import Loader
from train.data.open_caches import describe, open_mixture
from train.distributed import Ranks
from train.objective.target_statistics import set_exact
from train.run import load
from train.step import Stepper

ROOT = Path(__file__).parents[2]
STEPS = 40

# torchvision and Pillow come with timm, which the student is built of.
ABSENT = ["extract", "eval", "dask", "distributed", "sklearn", "skimage", "zarr", "obstore", "numba"]
ALONE = """
import sys
from pathlib import Path

sys.modules |= dict.fromkeys(sys.argv[3].split(","))  # None: importing it fails
from train.__main__ import main
sys.exit(main(["run", "tiny", "--cache", sys.argv[1], "--out", sys.argv[2], "--schedule.steps", "2",
               "--data.subset", "row >= 0", "--targets.statistics", "subset"]))  # computes moments
"""


def test_a_machine_without_teachers_trains(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    arguments = [str(tmp_path / "cache"), str(tmp_path / "run"), ",".join(ABSENT)]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "trained 2 steps" in done.stdout
    assert load.load(tmp_path / "run").step == 2


def tokens(teacher: Teacher, pixels: torch.Tensor) -> torch.Tensor:
    """Prefix and patches (B, P + N, C) in float32."""
    with torch.no_grad():
        return torch.cat(teacher(pixels), dim=1).float()


def test_cached_targets_teach_as_live_teachers_do(tmp_path: Path) -> None:
    """DUNE's three kinds of teacher, same student, rows, pixels and statistics, no dropping: same loss to 1e-3."""
    teachers = {name: golden_teacher(name, tmp_path) for name in ("dinov2", "mast3r", "multihmr")}

    def see(name: str, pixels: np.ndarray) -> np.ndarray:
        return tokens(teachers[name], torch.from_numpy(pixels)).numpy().astype(np.float16)

    seers = {
        name: Seer(prefix=teacher.prefix_tokens, channels=teacher.channels, groups=("people",), see=partial(see, name))
        for name, teacher in teachers.items()
    }
    build_cache(tmp_path / "cache", datasets={"faces": ("people", "train", 12)}, teachers=seers, size_px=56)
    recipe = tiny(schedule__steps=STEPS, data__batch=4, optim__lr=0.3, sharing__drop_probability=0.0)
    mixture = open_mixture(recipe, [str(tmp_path / "cache")])
    losses = {}
    for kind in ("cached", "live"):
        distiller, norms = load.build_initial(recipe, describe(mixture))
        set_exact(norms, mixture, over_subset=False)
        ranks = Ranks(rank=0, world=1, device=torch.device("cpu"))
        stepper = Stepper(recipe=recipe, mixture=mixture, distiller=distiller.train(), norms=norms, ranks=ranks)
        with Loader(
            sources=mixture.sources,
            teachers=mixture.teachers,
            image_size=mixture.image_size,
            plan=stepper.plan,
            steps=range(STEPS),
            batch=4,
            device=ranks.device,
        ) as loader:
            losses[kind] = []
            for batch in loader:
                if kind == "live":
                    seen = {name: tokens(teacher, batch.pixels) for name, teacher in teachers.items()}
                    batch = replace(batch, tokens=seen)
                losses[kind].append(stepper.step(batch).record()["loss"])
    assert losses["live"] != losses["cached"]
    assert losses["cached"] == pytest.approx(losses["live"], rel=1e-3)
    assert min(losses["cached"]) < 0.9 * losses["cached"][0]
