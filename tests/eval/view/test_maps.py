"""Maps, cosines and hover values: against the tokens read directly."""

import base64
from typing import Any

import numpy as np
import pytest

import store
from store.inspection import token_images
from tests.eval.view.conftest import Page


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def patches(cache: store.Cache, dataset: str, row: int, teacher: str) -> np.ndarray:
    """Patch tokens (N, C), float32."""
    info = cache[dataset].teacher(teacher)
    tokens = cache[dataset].read([row], [teacher])[teacher][0, info.prefix_tokens :]
    return np.asarray(tokens, np.float32)


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(vectors @ query / lengths)


def test_principal_components_of_a_row_are_those_of_store_show(page: Page) -> None:
    answer = page.get("/api/map", dataset="flowers", row=4, array="vit", mode="pca")
    tokens = patches(page.opened.cache, "flowers", 4, "vit")
    expected = token_images.pca_rgb(tokens.reshape(4, 4, -1), token_images.pca_basis(tokens, clip_percent=1.0))
    assert (answer["grid"], answer["kind"], answer["missing"]) == ([4, 4], "rgb", None)
    np.testing.assert_allclose(numbers(answer["data"]).reshape(4, 4, 3), expected, atol=1)


def test_shown_rows_and_the_dataset_share_a_basis(page: Page) -> None:
    def colours(row: int, **query: Any) -> list[int]:
        return list(numbers(page.get("/api/map", dataset="rooms", row=row, array="vit", **query)["data"]))

    cache = page.opened.cache
    together = np.concatenate([patches(cache, "rooms", row, "vit") for row in (1, 2, 5)])
    basis = token_images.pca_basis(together, clip_percent=1.0)
    expected = token_images.pca_rgb(patches(cache, "rooms", 2, "vit").reshape(4, 4, -1), basis)
    shown = colours(2, basis="shown", shown="1,2,5")
    np.testing.assert_allclose(np.reshape(shown, (4, 4, 3)), expected, atol=1)
    assert colours(2, basis="shown", shown="rooms:1,rooms:2,5") == shown
    two = [patches(cache, *place, "vit") for place in (("flowers", 4), ("rooms", 2))]
    expected = token_images.pca_rgb(
        two[1].reshape(4, 4, -1), token_images.pca_basis(np.concatenate(two), clip_percent=1.0)
    )
    across = colours(2, basis="shown", shown="rooms:2,flowers:4")
    np.testing.assert_allclose(np.reshape(across, (4, 4, 3)), expected, atol=1)
    assert colours(2, basis="dataset") != shown
    assert colours(2, basis="dataset") == colours(2, basis="dataset", shown="1")
    everything = np.concatenate([patches(cache, "rooms", row, "vit") for row in range(7)])
    whole = token_images.pca_basis(everything, clip_percent=1.0)
    expected = token_images.pca_rgb(patches(cache, "rooms", 2, "vit").reshape(4, 4, -1), whole)
    np.testing.assert_allclose(np.reshape(colours(2, basis="dataset"), (4, 4, 3)), expected, atol=2)


def test_norms_and_outliers(page: Page) -> None:
    tokens = patches(page.opened.cache, "rooms", 3, "vit")
    norms = np.linalg.norm(tokens, axis=1)
    answer = page.get("/api/map", dataset="rooms", row=3, array="vit", mode="norm")
    np.testing.assert_allclose(floats(answer["data"]), norms, rtol=1e-5)
    assert (answer["low"], answer["high"]) == pytest.approx((norms.min(), norms.max()))
    everything = [np.linalg.norm(patches(page.opened.cache, "rooms", row, "vit"), axis=1) for row in range(7)]
    median = np.median(everything)
    deviation = 1.4826 * np.median(np.abs(np.array(everything) - median))
    answer = page.get("/api/map", dataset="rooms", row=3, array="vit", mode="outlier")
    np.testing.assert_allclose(floats(answer["data"]), (norms - median) / deviation, rtol=1e-4, atol=1e-5)


def test_patches_that_a_code_does_not_store_are_marked(page: Page) -> None:
    missing = np.isnan(patches(page.opened.cache, "flowers", 4, "part")[:, 0])
    assert 0 < missing.sum() < 16
    colours = page.get("/api/map", dataset="flowers", row=4, array="part")
    np.testing.assert_array_equal(numbers(colours["missing"]).astype(bool), missing)
    assert (numbers(colours["data"]).reshape(16, 3)[missing] == 0).all()
    norms = page.get("/api/map", dataset="flowers", row=4, array="part", mode="norm")
    np.testing.assert_array_equal(np.isnan(floats(norms["data"])), missing)
    absent = int(np.flatnonzero(missing)[0])
    assert page.get("/api/patch", dataset="flowers", row=4, array="part", patch=absent)["norm"] is None
    (of_absent,) = page.get("/api/cosine", dataset="flowers", row=4, array="part", patches=absent)["maps"]
    assert np.isnan(floats(of_absent["data"])).all()
    answer = page.get("/api/cosine", dataset="flowers", row=4, array="part", patches="0,1,2,3,4,5")
    np.testing.assert_array_equal(np.isnan(floats(answer["maps"][0]["data"])), missing)


def test_a_click_is_followed_in_other_rows(page: Page) -> None:
    answer = page.get(
        "/api/cosine", dataset="flowers", row=4, array="vit", patches="3,7", **{"with": "rooms:2,flowers:3"}
    )
    own = patches(page.opened.cache, "flowers", 4, "vit")
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    query = unit[[3, 7]].mean(axis=0)
    here, there, failed = answer["maps"]
    np.testing.assert_allclose(floats(here["data"]), cosines(own, query), atol=1e-5)
    other = patches(page.opened.cache, "rooms", 2, "vit")
    np.testing.assert_allclose(floats(there["data"]), cosines(other, query), atol=1e-5)
    assert (there["dataset"], there["row"], there["grid"]) == ("rooms", 2, [4, 4])
    assert "not ok" in failed["note"]


def test_a_click_is_seen_in_every_teacher_on_its_own_grid(page: Page) -> None:
    answer = page.get("/api/cosines", dataset="flowers", row=4, array="vit", patches="14")["arrays"]
    assert set(answer) == {"dino", "mast", "vit", "part"}
    for teacher, patch in (("dino", 3), ("mast", 3), ("vit", 14)):  # row 3, column 2 of 4 x 4 lies in the last quarter
        own = patches(page.opened.cache, "flowers", 4, teacher)
        (found,) = answer[teacher]["maps"]
        np.testing.assert_allclose(floats(found["data"]), cosines(own, own[patch]), atol=1e-5)
    answer = page.get("/api/cosines", dataset="flowers", row=4, array="dino", patches="1")["arrays"]
    own = patches(page.opened.cache, "flowers", 4, "vit")
    np.testing.assert_allclose(floats(answer["vit"]["maps"][0]["data"]), cosines(own, own[7]), atol=1e-5)
    answer = page.get("/api/cosines", dataset="flowers", row=9, array="vit", patches="1")["arrays"]  # dino failed here
    assert answer["dino"]["maps"] == []
    assert "not ok" in answer["dino"]["note"]


def test_hovering_tells_the_norm_and_the_channels_that_stand_out(page: Page) -> None:
    answer = page.get("/api/patch", dataset="rooms", row=3, array="vit", patch=6)
    values = patches(page.opened.cache, "rooms", 3, "vit")[6]
    moments = page.opened.cache["rooms"].statistics("vit").patch
    scores = (values - moments.mean) / moments.std
    assert answer["norm"] == pytest.approx(np.linalg.norm(values))
    assert answer["place"] == [1, 2]
    first = answer["channels"][0]
    assert first["channel"] == int(np.abs(scores).argmax())
    assert first["deviations"] == pytest.approx(float(scores[first["channel"]]), rel=1e-5)


@pytest.mark.parametrize(
    ("path", "query", "status", "message"),
    [
        ("/api/map", {"dataset": "flowers", "row": 3, "array": "vit"}, 404, "not ok"),
        ("/api/map", {"dataset": "flowers", "row": 30, "array": "vit"}, 404, "row 30 is not in 'flowers'"),
        ("/api/map", {"dataset": "flower", "row": 0, "array": "vit"}, 404, "did you mean 'flowers'?"),
        ("/api/map", {"dataset": "flowers", "row": 0, "array": "vitt"}, 404, "did you mean 'vit'?"),
        ("/api/map", {"dataset": "flowers", "row": 0, "array": "vit", "mode": "x"}, 400, "mode: expected one of pca"),
        ("/api/map", {"dataset": "flowers", "row": 0, "array": "vit", "mode": "error"}, 400, "--run RUN"),
        ("/api/map", {"dataset": "flowers", "row": 0, "array": "student:x"}, 404, "no run 'x'"),
        ("/api/map", {"dataset": "flowers", "row": -1, "array": "vit"}, 400, "row: expected a whole number"),
        ("/api/map", {"row": 0, "array": "vit"}, 400, "dataset: missing"),
        ("/api/cosine", {"dataset": "flowers", "row": 0, "array": "vit", "patches": "16"}, 400, "from 0 to 15"),
        ("/api/cosine", {"dataset": "flowers", "row": 0, "array": "vit"}, 400, "found none"),
        (
            "/api/cosine",
            {"dataset": "flowers", "row": 0, "array": "vit", "patches": "1", "with": "x"},
            400,
            "DATASET:ROW",
        ),
        ("/api/nothing", {}, 404, "Not Found"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    page: Page, path: str, query: dict[str, object], status: int, message: str
) -> None:
    assert message in page.refused(path, status, **query)
