"""Pictures of rows: stored pixels without loss, thumbnails, source photographs, maps as small pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import store
from eval.view.opened import Opened
from tests.eval.view.conftest import Page
from tests.eval.view.test_maps import numbers
from tests.store import caches


def picture(page: Page, path: str, **query: Any) -> tuple[np.ndarray, str]:
    response = page.client.get(path, params=query)
    assert response.status_code == 200, response.text
    with Image.open(io.BytesIO(response.content)) as image:
        return np.asarray(image), response.headers["content-type"]


@pytest.mark.parametrize("jpeg", [False, True])
def test_pixels_are_those_stored(jpeg: bool, tmp_path: Path) -> None:
    cache = caches.make_cache(tmp_path / "cache", caches.DATASETS[:1], (), jpeg=jpeg)
    page = Page(Opened(cache=cache))
    shown, kind = picture(page, "/img/pixels", dataset="flowers", row=4)
    np.testing.assert_array_equal(shown, cache["flowers"].read([4], ["pixels"])["pixels"][0])
    assert kind == "image/png"
    small, kind = picture(page, "/img/pixels", dataset="flowers", row=4, size=14)
    assert (small.shape, kind) == ((14, 14, 3), "image/jpeg")
    whole, kind = picture(page, "/img/pixels", dataset="flowers", row=4, size=100)
    np.testing.assert_array_equal(whole, shown)
    assert "not ok" in page.refused("/img/pixels", 404, dataset="flowers", row=3)
    assert "size: expected a number from" in page.refused("/img/pixels", dataset="flowers", row=4, size=10**6)


def test_photographs_are_shown_where_they_are_at_hand(page: Page, viewed: store.Cache, tmp_path: Path) -> None:
    assert page.get("/api/row", dataset="flowers", row=4)["has_photograph"] is True
    assert page.get("/api/row", dataset="flowers", row=3)["has_photograph"] is False  # it failed: no crop
    shown, _ = picture(page, "/img/photograph", dataset="flowers", row=4, size=60)
    difference = shown.astype(float) - caches.photograph("flowers", 2)
    assert shown.shape == (40, 60, 3)
    assert np.abs(difference).mean() < 12  # JPEG of a pattern
    assert "no crop" in page.refused("/img/photograph", 404, dataset="flowers", row=3)
    without = Page(Opened(cache=viewed))
    assert "--images" in without.refused("/img/photograph", 404, dataset="flowers", row=4)
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "002.png").symlink_to(tmp_path.parent)
    outside = Page(Opened(cache=viewed, images={"flowers": tmp_path}))
    assert outside.get("/api/row", dataset="flowers", row=4)["has_photograph"] is False
    assert "outside the root" in outside.refused("/img/photograph", 404, dataset="flowers", row=4)


def test_thumbnails_of_maps_have_a_pixel_a_patch(page: Page) -> None:
    shown, kind = picture(page, "/api/thumb", dataset="rooms", row=2, array="vit", mode="pca")
    expected = numbers(page.get("/api/map", dataset="rooms", row=2, array="vit", basis="dataset")["data"])
    assert kind == "image/png"
    np.testing.assert_array_equal(shown[:, :, :3], expected.reshape(4, 4, 3))
    partly, _ = picture(page, "/api/thumb", dataset="rooms", row=2, array="part", mode="norm")
    missing = np.isnan(page.opened.cache["rooms"].read([2], ["part"])["part"][0, :, 0])
    np.testing.assert_array_equal(partly[:, :, 3].reshape(-1) == 0, missing)
