"""Searching and statistics: against all tokens compared directly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from eval.view import find, index
from tests.eval.view.conftest import Page
from tests.eval.view.test_maps import patches
from tests.store import caches

ALL_ROWS = {"flowers": [0, 1, 2, 4, 5, 6, 7, 8, 9], "rooms": list(range(7))}


def units(cache: store.Cache, dataset: str, row: int, teacher: str) -> np.ndarray:
    values = patches(cache, dataset, row, teacher)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def nearest_patches(cache: store.Cache, teacher: str, query: np.ndarray, datasets: list[str]) -> list[tuple[Any, ...]]:
    """Every stored patch with its cosine, best first."""
    found = []
    for dataset in datasets:
        for row in ALL_ROWS[dataset]:
            cosines = units(cache, dataset, row, teacher) @ query
            found += [(dataset, row, patch, c) for patch, c in enumerate(cosines.tolist()) if not np.isnan(c)]
    return sorted(found, key=lambda entry: -entry[3])


@pytest.mark.parametrize(("scope", "datasets"), [("sample", ["flowers", "rooms"]), ("dataset", ["flowers"])])
@pytest.mark.parametrize("teacher", ["vit", "part"])
def test_nearest_patches_are_those_of_a_direct_comparison(
    page: Page, scope: str, datasets: list[str], teacher: str
) -> None:
    cache = page.opened.cache
    own = units(cache, "flowers", 4, teacher)
    patch = int(np.flatnonzero(~np.isnan(own[:, 0]))[2])
    answer = page.finished("/api/find", dataset="flowers", row=4, array=teacher, patches=patch, scope=scope, k=10)
    expected = [e for e in nearest_patches(cache, teacher, own[patch], datasets) if e[:3] != ("flowers", 4, patch)]
    assert (answer["state"], answer["note"]) == ("ready", None)
    assert [found["cosine"] for found in answer["results"]] == pytest.approx([e[3] for e in expected[:10]], abs=1e-5)
    for found in answer["results"]:
        true = units(cache, found["dataset"], found["row"], teacher)[found["patch"]] @ own[patch]
        assert found["cosine"] == pytest.approx(float(true), abs=1e-5)


def test_nearest_rows_are_those_with_the_nearest_patch(page: Page) -> None:
    cache = page.opened.cache
    query = units(cache, "rooms", 2, "vit")[5]
    best: dict[tuple[str, int], tuple[Any, ...]] = {}
    for entry in nearest_patches(cache, "vit", query, ["flowers", "rooms"]):
        best.setdefault(entry[:2], entry)
    expected = [entry for place, entry in best.items() if place != ("rooms", 2)]
    answer = page.finished("/api/find", dataset="rooms", row=2, array="vit", patches=5, what="rows", scope="all", k=6)
    found = [(one["dataset"], one["row"]) for one in answer["results"]]
    assert len(set(found)) == 6
    assert [one["cosine"] for one in answer["results"]] == pytest.approx([e[3] for e in expected[:6]], abs=1e-5)


def test_rows_like_a_whole_row_are_found_by_the_mean_of_their_patches(page: Page) -> None:
    cache = page.opened.cache
    means = {
        (name, row): units(cache, name, row, "vit").mean(axis=0) for name, rows in ALL_ROWS.items() for row in rows
    }
    means = {place: mean / np.linalg.norm(mean) for place, mean in means.items()}
    query = means.pop(("rooms", 2))
    expected = sorted((float(mean @ query) for mean in means.values()), reverse=True)
    answer = page.finished("/api/find", dataset="rooms", row=2, array="vit", what="rows", k=5)
    assert [one["cosine"] for one in answer["results"]] == pytest.approx(expected[:5], abs=1e-5)
    assert answer["results"][0]["patch"] is None


def test_an_index_on_few_directions_finds_what_a_direct_comparison_does() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((600, 200)).astype(np.float32) * np.arange(1, 201, dtype=np.float32) ** -1.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for count in (2**20, 2**21, index.MOST_VECTORS):
        made = index.empty_index(["a"], vectors, vectors=count)
        for row in range(6):
            made.add(0, row, np.arange(100), vectors[100 * row :][:100])
        made.finish()
        found = {row * 100 + patch for _, row, patch in made.search(vectors[123], 40)}
        true = set(np.argsort(-(vectors @ vectors[123]))[:10].tolist())
        assert true <= found
    assert made.size_bytes == 600 * (32 + index.ENTRY_BYTES)


def test_large_datasets_are_searched_by_some_patches_of_each_row(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "MOST_VECTORS", 50)  # 16 rows of 16 patches
    answer = page.finished("/api/find", dataset="rooms", row=2, array="vit", patches=5, scope="all")
    assert answer["note"] == "3 of 16 patches of each row"
    assert len(answer["results"]) in (47, 48)


def test_statistics_of_channels_are_those_sealed(page: Page) -> None:
    answer = page.finished("/api/statistics", dataset="rooms", teacher="vit")
    moments = page.opened.cache["rooms"].statistics("vit").patch
    np.testing.assert_allclose(answer["std"], moments.std)
    np.testing.assert_allclose(answer["mean"], moments.mean)
    tokens = np.concatenate([patches(page.opened.cache, "rooms", row, "vit") for row in range(7)]).astype(np.float64)
    counts, edges = np.histogram(np.linalg.norm(tokens, axis=1), bins=64)
    assert answer["sample"] == {"rows": 7, "patches": 112}
    assert answer["norms"]["counts"] == counts.tolist()
    np.testing.assert_allclose(answer["norms"]["edges"], edges)
    spectrum = np.linalg.svd(tokens - tokens.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(answer["spectrum"], spectrum / spectrum.sum(), atol=1e-9)
    other = page.opened.cache["flowers"].statistics("vit").patch
    squared = ((other.mean - moments.mean) ** 2 + (other.std - moments.std) ** 2) / moments.var
    (drift,) = answer["drift"]
    assert (drift["dataset"], drift["distance"]) == ("flowers", pytest.approx(np.sqrt(squared.mean())))


def test_dead_and_outlying_channels_are_named() -> None:
    from eval.view.statistics import _unusual

    std = np.array([1.0, 1.1, 0.0, 0.9, 1.0, 1.0, 1e-4])
    mean = np.array([0.0, 0.1, 0.0, 30.0, 0.0, -1.0, 0.0])
    assert _unusual(mean, std) == {"dead": [2, 6], "outliers": [3]}


def test_what_fails_in_the_background_is_told_and_can_be_asked_again(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store.errors import Damaged

    def broken(*_: Any, **__: Any) -> None:
        raise Damaged("shard 1 is damaged")

    query = {"dataset": "rooms", "row": 2, "array": "vit", "patches": 5}
    with monkeypatch.context() as patched:
        patched.setattr(find, "empty_index", broken)
        page.get("/api/find", **query)
        for job in page.opened.jobs._jobs.values():
            job.done.wait()
        assert page.refused("/api/find", **query) == "shard 1 is damaged"
    assert page.finished("/api/find", **query)["state"] == "ready"


def test_an_index_of_a_cache_that_grows_tells_of_what_came_later(
    tmp_path: Path, page_of: Callable[[store.Cache], Page]
) -> None:
    cache = caches.create_datasets(tmp_path / "cache")
    spec, (dino, _) = caches.DATASETS[0], caches.TEACHERS
    for shard in (0, 1):
        caches.write_pixels(cache, spec, shard)
    caches.write_tokens(cache, spec, dino, 0)
    page = page_of(cache)
    query = {"dataset": "flowers", "row": 0, "array": "dino", "patches": 1, "scope": "dataset"}
    few = "shards have no seal: at most 32 of each dataset are searched"
    first = page.finished("/api/find", **query)
    assert (first["note"], len(first["results"])) == (f"1 {few}", 3 * 4 - 1)
    caches.write_tokens(cache, spec, dino, 1)
    second = page.finished("/api/find", **query)
    assert (second["note"], len(second["results"])) == (f"2 {few}", 7 * 4 - 1)  # twice as many: built again
    caches.write_pixels(cache, spec, 2)
    caches.write_tokens(cache, spec, dino, 2)
    third = page.finished("/api/find", **query)
    assert third["note"] == f"3 {few}, 1 of them came after the index was built"
    store.seal(cache)
    page.get("/api/overview")
    assert page.finished("/api/find", **query)["note"] is None
