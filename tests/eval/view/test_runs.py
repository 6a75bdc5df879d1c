"""A run beside its teachers: its own tokens, its projections and its errors, as evaluation computes them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from backbones.images import normalise
from eval.fidelity.metrics import row_sums
from eval.runs.open_run import OpenRun
from eval.view.opened import Opened
from eval.view.runs import ShownRun
from store import errors
from store.inspection import token_images
from tests.eval.view.conftest import Page
from tests.eval.view.test_maps import cosines, floats, numbers


@pytest.fixture
def with_run(cache: store.Cache, run_directory: Path) -> Page:
    runs = {"first": ShownRun("first", run_directory)}
    return Page(Opened(cache=store.open(cache.location), runs=runs))


def projected(opened: OpenRun, cache: store.Cache, row: int, teacher: str) -> torch.Tensor:
    """Standardised patches (N, C) that the student predicts."""
    pixels = torch.from_numpy(cache["people"].read([row], ["pixels"])["pixels"])
    with torch.inference_mode():
        return opened.run.distiller(normalise(pixels))[teacher][1][0]


def test_a_student_and_its_projections_are_arrays_of_a_row(with_run: Page) -> None:
    row = with_run.get("/api/row", dataset="people", row=3)
    arrays = {array["name"]: array for array in row["arrays"]}
    assert list(arrays) == ["alpha", "beta", "student:first", "projection:first:alpha", "projection:first:beta"]
    assert arrays["projection:first:beta"]["channels"] == arrays["beta"]["channels"]
    student = with_run.opened.runs["first"].tokens(with_run.opened.dataset("people"), [3, 4], "")
    assert student.shape == (2, 1 + 16, arrays["student:first"]["channels"])
    for array in arrays:
        for mode in ("pca", "norm", "outlier"):
            assert with_run.get("/api/map", dataset="people", row=3, array=array, mode=mode)["grid"] == [4, 4]
    clicked = with_run.get("/api/cosines", dataset="people", row=3, array="alpha", patches=5)["arrays"]
    assert set(clicked) == set(arrays)
    values = student[0, 1:].astype(np.float32)
    (found,) = clicked["student:first"]["maps"]
    np.testing.assert_allclose(floats(found["data"]), cosines(values, values[5]), atol=2e-3)


def test_a_projection_has_the_colours_of_its_teacher(with_run: Page, cache: store.Cache) -> None:
    teacher = cache["people"].read([3], ["alpha"])["alpha"][0, 1:]
    projection = with_run.opened.runs["first"].tokens(with_run.opened.dataset("people"), [3], "alpha")[0, 1:]
    basis = token_images.pca_basis(teacher, clip_percent=1.0)
    query = {"dataset": "people", "row": 3, "array": "projection:first:alpha", "mode": "pca"}
    drawn = numbers(with_run.get("/api/map", **query, basis="row")["data"])
    np.testing.assert_allclose(
        drawn.reshape(4, 4, 3), token_images.pca_rgb(projection.reshape(4, 4, -1), basis), atol=1
    )


def test_errors_are_those_that_evaluation_measures(with_run: Page, opened: OpenRun, cache: store.Cache) -> None:
    answer = with_run.get("/api/map", dataset="people", row=3, array="alpha", mode="error")
    predicted = projected(opened, cache, 3, "alpha")
    target = opened.run.target_norms.stored("alpha").patch.apply(
        torch.from_numpy(cache["people"].read([3], ["alpha"])["alpha"][0, 1:].astype(np.float32))
    )
    expected = 1 - torch.nn.functional.cosine_similarity(predicted, target, dim=-1).numpy()
    np.testing.assert_allclose(floats(answer["data"]), expected, atol=5e-3)  # projections are kept as float16
    sums = row_sums(predicted[None], target[None])
    mean = 1 - sums["cosine"][0] / sums["tokens"][0]
    listed = with_run.finished("/api/rows", sort="error:first:alpha", order="desc", dataset="people")
    values = {row["row"]: row["sort_value"] for row in listed["rows"]}
    assert values[3] == pytest.approx(mean, abs=5e-3)
    assert list(values.values()) == sorted(values.values(), reverse=True)
    assert listed["total"] == cache["people"].rows


def test_a_projection_is_searched_for_among_its_teachers_tokens(with_run: Page) -> None:
    query = {"dataset": "people", "row": 3, "array": "projection:first:alpha", "patches": 5, "k": 3}
    found = with_run.finished("/api/find", **query)["results"]
    student = with_run.opened.runs["first"].tokens(with_run.opened.dataset("people"), [3], "alpha")[0, 1:]
    best = -1.0
    for dataset in with_run.opened.cache:
        tokens = dataset.read(range(dataset.rows), ["alpha"])["alpha"][:, 1:].astype(np.float32)
        best = max(best, float(cosines(tokens.reshape(-1, tokens.shape[-1]), student[5].astype(np.float32)).max()))
    assert found[0]["cosine"] == pytest.approx(best, abs=1e-3)


def test_a_run_that_does_not_fit_the_cache_is_told_and_not_drawn(viewed: store.Cache, run_directory: Path) -> None:
    page = Page(Opened(cache=viewed, runs={"first": ShownRun("first", run_directory)}))
    assert [array["name"] for array in page.get("/api/row", dataset="rooms", row=1)["arrays"]] == [
        "dino",
        "mast",
        "part",
        "vit",
    ]
    message = page.refused("/api/map", dataset="rooms", row=1, array="student:first")
    assert message == "run 'first' sees images of 56 px, 'rooms' has 28 px"
    assert "no teacher 'vit'" in page.refused("/api/map", 404, dataset="rooms", row=1, array="vit", mode="error")


@pytest.mark.parametrize(
    "text", ["[]", '{"teachers": 3, "image_size": 28}', '{"teachers": {"dino": {}}, "image_size": 28}']
)
def test_a_run_whose_description_is_another_files_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(errors.CodistillError, match=r"cache\.json"):
        ShownRun("night", tmp_path).check()


def test_the_order_by_the_error_of_a_damaged_run_says_so(
    cache: store.Cache, run_directory: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(run_directory, tmp_path / "run")
    for file in damaged.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    page = Page(Opened(cache=cache, runs={"night": ShownRun("night", damaged)}))
    teacher = ShownRun("night", damaged).teachers[0]
    page.client.get("/api/rows", params={"sort": f"error:night:{teacher}"})
    page.opened.jobs.wait()
    assert "damaged" in page.refused("/api/rows", sort=f"error:night:{teacher}")
