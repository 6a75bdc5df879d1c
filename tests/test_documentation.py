"""Every number in the documentation that the code can compute is the one that it computes.

Tables of `extract plan` are compared in tests/extract/plan, the list of teachers in tests/extract/teachers. Measured
figures stand in docs/performance.md beside the command that reproduces them.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.fidelity import bootstrap, linear_map
from eval.heads.recipes import hph, mast3r
from extract import __main__ as extract_program
from extract.catalogue import Catalogue, ViewRecipe, load_catalogue, narrowed
from extract.job import failure_limit, progress
from extract.job.folder_sizes import MOST_SHARDS
from extract.plan.plan import DUNE_SAMPLES, Plan, count_images, make_plan
from extract.plan.repeats import MOST_REPEATS, repeats
from extract.plan.stored_forms import stored_form
from extract.teachers.options import STUDENT_PATCH_PX
from extract.views import decode
from extract.views.stored_bytes import JPEG_BYTES_PER_PX
from store.common.text import human_bytes
from store.format import schema
from store.format.calibration_draw import FEWEST_IMAGES, TOKENS_A_CHANNEL
from store.format.code_fit import RATIOS
from store.storage import object_store
from train.recipe.config import IMAGENET_IMAGES
from train.recipe.named import find

DEFAULT_SHARD_ROWS = 256
ROOT = Path(__file__).parent.parent
PACKAGES = ("backbones", "codistill", "demo", "eval", "extract", "store", "train")


def pages(name: str) -> str:
    return " ".join((ROOT / name).read_text().split())


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CODISTILL_DATA", raising=False)
        patch.delenv("CODISTILL_WEIGHTS", raising=False)
        return load_catalogue(ROOT / "extract" / "catalogues" / "dune.toml")


def planned(catalogue: Catalogue, **narrowing: object) -> Plan:
    chosen = narrowed(catalogue, **{"split": "train", **narrowing})  # type: ignore[arg-type]
    return make_plan(chosen, counts=count_images(catalogue, cache=None, count_files=False))


def repeats_of(plan: Plan) -> str:
    *others, last = [f"{group.times:.1f}" for group in sorted(repeats(plan), key=lambda group: group.group)]
    return f"{', '.join(others)} and {last}"


def test_the_cost_of_the_papers_data(shipped: Catalogue) -> None:
    readme, extraction = pages("README.md"), pages("docs/extraction.md")
    one_view, as_shipped = planned(shipped, views=1), planned(shipped)
    images = sum(dataset.images for dataset in one_view.datasets)
    tokens = stored_form(one_view, None).tokens
    assert tokens is not None
    sizes = f"DUNE's {len(one_view.datasets)} datasets, {images / 1e6:.1f} M images"
    assert sizes in readme
    assert f"cost {tokens / 1e12:.0f} TB of tokens at {shipped.recipe.image_size} px in float16 with one view" in readme
    views = "/".join(str(count) for count in sorted({d.views for d in shipped.dataset if d.split == "train"}))
    assert f"{views} views is what the shipped catalogue stores" in readme
    (ratio,) = {teacher.ratio for teacher in shipped.teacher}
    assert f"It takes {ratio:g}x with JPEG pixels: **{human_bytes(as_shipped.bytes_total)}, one 8 TB drive**" in readme
    assert as_shipped.bytes_total < 8e12
    names = [dataset.name for dataset in shipped.dataset if dataset.split == "train"]
    without = planned(shipped, datasets=[name for name in names if name != "in19k"])
    alone = planned(shipped, teachers=["dinov2"])
    assert f"without ImageNet-19K the table above comes to {human_bytes(without.bytes_total)}" in extraction
    assert f"and DINO-v2 alone, with its pixels, to {human_bytes(alone.bytes_total)}" in extraction
    assert f"budget of {DUNE_SAMPLES / 1e6:.0f} M training images" in extraction
    assert f"a row is seen {repeats_of(one_view)} times (dinov2, mast3r, multihmr) with one view each" in extraction
    assert f"and {repeats_of(as_shipped)} times with the views of the catalogue" in extraction
    assert f"more than about {MOST_REPEATS:.0f} times" in extraction
    assert f"estimate of {JPEG_BYTES_PER_PX} bytes a pixel" in extraction


def test_the_shipped_catalogue_tells_its_sizes(shipped: Catalogue) -> None:
    comments = " ".join((ROOT / "extract/catalogues/dune.toml").read_text().replace("#", " ").split())
    train, held_out = planned(shipped), planned(shipped, split="val")
    rows = train.arrays[0].rows["train"]
    plain = stored_form(train, None).bytes_with_raw
    assert plain is not None
    assert f"{rows / 1e6:.1f} M training rows instead of" in comments
    assert f"That makes {train.bytes_total / 1e12:.1f} TB of training data" in comments
    assert f"with raw pixels it would be {plain / 1e12:.0f} TB" in comments
    for ratio, sentence in ((8, "With {} TB at hand take ratio = 8"), (32, "ratio = 32 takes {} TB")):
        size = stored_form(train, ratio).bytes_with_jpeg
        assert size is not None
        assert sentence.format(f"{size / 1e12:.1f}") in comments
    assert f"take {held_out.bytes_total / 1e12:.1f} TB more" in comments
    shard_rows = shipped.recipe.shard_rows
    files = max(dataset.shards for dataset in train.datasets)
    size = train.arrays[1].row_bytes["train"]
    assert size is not None
    assert files < MOST_SHARDS
    assert f"{files:,} files of {shard_rows * size / 1e6:.0f} MB in the largest folder" in comments
    decoded = f"{shard_rows * shipped.recipe.image_size**2 * 3 / 1e6:.0f} MB"
    assert f"holds {decoded} of decoded pixels" in comments
    assert f"in float16, take {held_out.bytes_total / 1e12:.2f} TB more" in pages("README.md")
    extraction = pages("docs/extraction.md")
    assert f"{decoded} for the {shard_rows} rows of the shipped catalogue" in extraction
    assert f"suffer above {MOST_SHARDS:,} in one folder" in extraction
    tokens = sum(array.bytes_total for array in held_out.arrays[1:])
    assert f"stay in float16: {human_bytes(tokens)} of tokens for {held_out.rows:,} rows" in extraction


def test_sizes_and_limits_of_extraction(shipped: Catalogue) -> None:
    page = pages("docs/extraction.md")
    assert ViewRecipe().shard_rows == DEFAULT_SHARD_ROWS
    pixels = shipped.recipe.image_size**2 * 3
    megapixels = decode.MAX_PIXELS // 1_000_000
    token_bytes = 64 * (shipped.recipe.image_size // STUDENT_PATCH_PX) ** 2 * 1024 * 2
    for sentence in (
        f"`too large` (over {megapixels} megapixels)",
        f"(up to {decode.MAX_PIXELS * 3 / 1e6:.0f} MB each by the size limit",
        f"{human_bytes(pixels)} each at {shipped.recipe.image_size} px",
        f"{DEFAULT_SHARD_ROWS * pixels / 1e6:.0f} MB of pixels",
        f"({token_bytes // 1_000_000} MB for 64 rows of ViT-L",
        f"(and of at least {failure_limit.FEWEST_ROWS}) has failed",
        f"a line every {progress.LINE_SECONDS:.0f} seconds in a log file",
        f"a multiple of the student's patch ({STUDENT_PATCH_PX})",
        f"shard_rows = {DEFAULT_SHARD_ROWS}",
    ):
        assert sentence in page


def test_the_sample_of_a_calibration() -> None:
    page = pages("docs/extraction.md")
    rows = inspect.signature(extract_program.calibrate).parameters["rows"].default
    for sentence in (
        f"The sample is {FEWEST_IMAGES:,} images, or as many as make {TOKENS_A_CHANNEL} tokens a channel",
        f"The dry run takes {rows:,} images straight from the sources",
        f"at {', '.join(f'{ratio:g}' for ratio in RATIOS[:-1])} and {RATIOS[-1]:g}x; needs no cache",
    ):
        assert sentence in page
    assert extract_program.PAPERS_BUDGET == DUNE_SAMPLES


def test_recipes_of_training() -> None:
    page = pages("docs/training.md")
    base, second, demo = find("dune-base-336"), find("dune-base-448"), find("demo")
    epochs = base.schedule.epochs
    for sentence in (
        f"ViT-B/{base.student.patch_size} with {base.student.registers} registers, three transformer projectors",
        f"batch {base.data.batch}, {epochs:.0f} x {IMAGENET_IMAGES:,} images",
        f"learning rate {second.optim.lr:.0e}, half the images".replace("e-0", "e-"),
        f"ViT-Tiny at {demo.student.image_size} px",
        f"loss weights {base.loss.cosine} and {base.loss.smooth_l1}",
        f"{base.student.registers} registers (`--student.registers 0`)",
    ):
        assert sentence in page
    assert second.schedule.epochs == epochs / 2


def test_recipes_of_heads() -> None:
    page = pages("docs/heads.md")
    pairs, people = mast3r.dune_448(), hph.dune_672()
    longest = max(width for width, _ in pairs.resolutions)
    for sentence in (
        f"`dune-448` ({pairs.steps * pairs.batch / 1e6:.1f} M pairs at a long side of {longest} px)",
        f"`laptop` (four narrow blocks, {mast3r.laptop().resolutions[0][0]} px, {mast3r.laptop().steps} steps)",
        f"decay {pairs.optim.weight_decay}, rates from 1e-4 to 1e-6 set every step, {pairs.batch} pairs a step",
        f"{100 * pairs.optim.warmup:.0f} % of the steps rise",
        f"A step's parts (`--part`, {pairs.part} pairs)",
        f"up to `--features-gb {pairs.features_gb:.0f}`",
        f"(the paper's {people.steps:,} steps of {people.batch} images at {people.img_size} px, rate 4e-5)",
    ):
        assert sentence in page
    assert (pairs.optim.lr, pairs.optim.minimum_lr, people.lr) == (1e-4, 1e-6, 4e-5)


def test_methods_of_evaluation_and_storage() -> None:
    resamples = inspect.signature(bootstrap.replicates).parameters["count"].default
    assert f"intervals of {resamples} bootstrap resamples" in pages("docs/evaluation.md")
    assert linear_map.FOLDS == 4
    assert "apart for four folds of photographs" in pages("docs/evaluation.md")
    storing = pages("docs/object-stores.md")
    assert f"(up to {object_store.CALL_BYTES // 2**20} MB), {object_store.READ_THREADS} are in flight" in storing
    assert f"`format` in the root attributes is {schema.FORMAT}." in pages("docs/format.md")


def lengths_of_functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function, signature and docstring left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_contributing_states_limits_that_hold() -> None:
    stated = re.search(r"under (\d+) lines, a function under (\d+)", pages("CONTRIBUTING.md"))
    assert stated
    file_limit, function_limit = map(int, stated.groups())
    longer = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            name = str(path.relative_to(ROOT))
            longer += [name] if source.count("\n") >= file_limit else []
            longer += [f"{name}:{f}" for f, lines in lengths_of_functions(source) if lines > function_limit]
    assert longer == ["train/loop.py:train"]  # one readable story
