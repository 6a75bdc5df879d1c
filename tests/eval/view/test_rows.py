"""The overview, pages of rows under conditions and in orders, single rows: against the manifest read directly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import store
from eval.view import overview, selection
from eval.view.opened import Opened
from store.format.schema import OK
from store.inspection.health import sentence
from store.inspection.info import inspect
from tests.eval.view.conftest import Page
from tests.store import caches


def manifest(cache: store.Cache, *names: str) -> list[dict[str, object]]:
    return [row for name in names for row in cache[name].manifest().to_pylist()]


def places(answer: dict[str, list[dict[str, object]]]) -> list[tuple[object, object]]:
    return [(row["dataset"], row["row"]) for row in answer["rows"]]


def test_the_overview_counts_what_there_is(page: Page) -> None:
    answer = page.get("/api/overview")
    flowers, rooms = answer["datasets"]
    assert (flowers["name"], flowers["split"], flowers["rows"], rooms["first_view"]) == ("flowers", "train", 10, 3)
    arrays = {array["name"]: array for array in flowers["arrays"]}
    assert arrays["dino"]["status"] == {"ok": 8, "failed": 2, "missing": 0, "unsealed": 0}
    sealed = page.opened.cache["flowers"].distortion("vit")
    assert (arrays["vit"]["ratio"], arrays["dino"]["ratio"]) == (4.0, None)
    assert arrays["vit"]["noise"] == pytest.approx(sealed.noise("patch"))
    assert arrays["vit"]["identity"] == "vit, weights w"
    assert answer["sentence"] == sentence(inspect(page.opened.cache))
    failures = {(f["dataset"], f["array"], f["reason"]): f for f in answer["failures"]}
    assert failures["flowers", "pixels", "decode"]["rows"] == [3]
    assert (failures["flowers", "dino", "overflow"]["count"], len(failures)) == (1, 2)  # not those without pixels
    assert [(t["name"], t["patch_grid"]) for t in answer["teachers"]][:2] == [("dino", [2, 2]), ("mast", [2, 2])]


def test_rows_come_in_pages_without_reading_a_manifest(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "manifests_of", None)
    first, last = page.get("/api/rows", limit=8), page.get("/api/rows", offset=8, limit=8)
    assert first["total"] == 17
    assert places(first) == [("flowers", row) for row in range(8)]
    assert places(last) == [("flowers", 8), ("flowers", 9), *(("rooms", row) for row in range(6))]
    assert first["rows"][3]["status"] == dict.fromkeys(["pixels", "dino", "mast", "part", "vit"], "failed")
    assert (first["rows"][5]["image"], first["rows"][5]["view"]) == ("flowers/002.png", 1)
    assert places(page.get("/api/rows", group="scenes", view=3)) == [("rooms", row) for row in range(7)]
    assert places(page.get("/api/rows", dataset="flowers", view=1)) == [("flowers", row) for row in (1, 3, 5, 7, 9)]


@pytest.mark.parametrize(
    "query",
    [
        {"where": "view == 1 and crop_top > 3"},
        {"sql": "view = 1 and crop_top > 3"},
        {"sql": "crop_top > 3 -- a comment", "where": "view == 1"},
        {"sql": "crop_top > 3", "view": 1},
    ],
)
def test_conditions_select_the_rows_that_the_manifest_does(page: Page, query: dict[str, str]) -> None:
    rows = manifest(page.opened.cache, "flowers", "rooms")
    expected = [(r["dataset"], r["row"]) for r in rows if r["view"] == 1 and (r["crop_top"] or 0) > 3]  # type: ignore[operator]
    answer = page.get("/api/rows", **query)
    assert len(expected) == 3
    assert (places(answer), answer["total"]) == (expected, 3)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_rows_are_sorted_by_a_column_with_empty_values_last(page: Page, order: str) -> None:
    rows = manifest(page.opened.cache, "flowers", "rooms")
    known = [row for row in rows if row["crop_left"] is not None]
    known.sort(key=lambda row: row["crop_left"], reverse=order == "desc")  # type: ignore[arg-type, return-value]
    expected = [row["crop_left"] for row in known] + [None]
    answer = page.get("/api/rows", sort="crop_left", order=order)
    assert [row["sort_value"] for row in answer["rows"]] == expected
    assert places(answer)[-1] == ("flowers", 3)
    assert places(page.get("/api/rows", sort="crop_left", order=order, offset=5, limit=4)) == places(answer)[5:9]
    only_ok = page.get("/api/rows", sort="crop_left", order=order, status="dino:ok", dataset="flowers")
    assert sorted(places(only_ok)) == [("flowers", row) for row in (0, 1, 2, 4, 5, 6, 7, 8)]


def test_an_order_is_whole_beyond_its_first_rows(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = places(page.get("/api/rows", sort="crop_top"))
    monkeypatch.setattr(selection, "FIRST_ROWS", 4)
    page.opened.memory = type(page.opened.memory)(2**20)
    assert places(page.get("/api/rows", sort="crop_top", limit=4)) == whole[:4]
    assert places(page.get("/api/rows", sort="crop_top", offset=3, limit=10)) == whole[3:13]


def test_samples_are_the_same_for_a_seed_and_without_repeats(page: Page) -> None:
    one, again = (places(page.get("/api/rows", sample=12, seed=3)) for _ in range(2))
    assert one == again
    assert len(set(one)) == 12
    assert one != places(page.get("/api/rows", sample=12, seed=4))
    pages = [places(page.get("/api/rows", sample=12, seed=3, offset=at, limit=5)) for at in (0, 5, 10)]
    assert [place for part in pages for place in part] == one
    ordered = page.get("/api/rows", sample=12, seed=3, sort="crop_top")
    assert sorted(places(ordered)) == sorted(one)


def test_rows_are_selected_by_status_and_reason(page: Page) -> None:
    assert places(page.get("/api/rows", status="failed")) == [("flowers", 3), ("flowers", 9)]
    assert places(page.get("/api/rows", status="dino:failed", reason="overflow")) == [("flowers", 9)]
    assert places(page.get("/api/rows", reason="overflow")) == [("flowers", 9)]
    assert page.get("/api/rows", status="missing")["total"] == 0
    assert page.get("/api/rows", status="dino:missing", dataset="rooms")["total"] == 0
    assert "no array 'dinno' (did you mean 'dino'?); available: dino, " in page.refused(
        "/api/rows", 404, status="dinno:ok"
    )
    assert "found status 'dino:ok'" in page.refused("/api/rows", status="dino:ok", reason="overflow")
    assert page.get("/api/rows", status="ok", dataset="flowers")["total"] == 8


def test_rows_are_sorted_by_the_norm_of_their_tokens(page: Page) -> None:
    answer = page.finished("/api/rows", sort="norm:dino", order="desc", dataset="rooms")
    dataset = page.opened.cache["rooms"]
    tokens = dataset.read(range(7), ["dino"])["dino"][:, 1:].astype(np.float64)
    means = np.linalg.norm(tokens, axis=-1).mean(axis=1)
    assert [row["row"] for row in answer["rows"]] == np.argsort(-means, kind="stable").tolist()
    assert answer["rows"][0]["sort_value"] == pytest.approx(means.max())
    assert (answer["state"], answer["note"]) == ("ready", None)
    assert page.finished("/api/rows", sort="norm:dino", dataset="flowers")["total"] == 8  # failed rows have none
    assert "no array 'dinno' in 'rooms'" in page.refused("/api/rows", 404, sort="norm:dinno")


def test_a_row_tells_all_that_is_recorded_of_it(page: Page) -> None:
    row = page.get("/api/row", dataset="flowers", row=9)
    (expected,) = page.opened.cache["flowers"].manifest(filter=pa.compute.field("row") == 9).to_pylist()
    assert row["columns"] == expected
    assert (row["image"], row["view"], row["previous"], row["next"]) == ("flowers/004.png", 1, 8, None)
    assert row["status"]["dino"] == "failed"
    assert row["reasons"] == {"dino": "overflow: channel 3 exceeds float16"}
    top, left = caches.crop_of(9)
    assert {key: row["crop"][key] for key in ("top", "left", "width", "source_width")} == {
        "top": top,
        "left": left,
        "width": 28,
        "source_width": 60,
    }
    shapes = {array["name"]: (array["grid"], array["prefix_tokens"], array["channels"]) for array in row["arrays"]}
    assert shapes == {"dino": ([2, 2], 1, 6), "mast": ([2, 2], 0, 4), "vit": ([4, 4], 1, 8), "part": ([4, 4], 0, 8)}


def test_a_cache_that_is_being_made_is_shown_as_far_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, page_of: Callable[[store.Cache], Page]
) -> None:
    cache = caches.create_datasets(tmp_path_factory.mktemp("half") / "cache")
    spec, (dino, _) = caches.DATASETS[0], caches.TEACHERS
    caches.write_pixels(cache, spec, 0)
    caches.write_pixels(cache, spec, 2)
    caches.write_tokens(cache, spec, dino, 0)
    page = page_of(cache)
    answer = page.get("/api/rows", dataset="flowers")
    states = [(row["status"]["pixels"], row["status"]["dino"]) for row in answer["rows"]]
    assert states == [*[("ok", "ok")] * 3, ("failed",) * 2, *[("missing",) * 2] * 4, *[("ok", "missing")] * 2]
    assert answer["rows"][6]["image"] == "flowers/003.png"  # from the image list
    assert page.get("/api/row", dataset="flowers", row=6)["columns"] == {}
    assert places(page.get("/api/rows", sql="crop_top >= 0")) == [("flowers", row) for row in (0, 1, 2, 8, 9)]
    assert places(page.get("/api/rows", where="crop_top >= 8")) == [("flowers", 8), ("flowers", 9)]
    assert page.get("/api/rows", status="dino:ok")["total"] == 3
    assert page.get("/api/map", dataset="flowers", row=1, array="dino", basis="dataset")["grid"] == [2, 2]
    assert "not made" in page.get("/api/row", dataset="rooms", row=1)["reasons"]["pixels"]
    known = page.get("/api/overview")
    assert known["datasets"][0]["arrays"][0]["status"] == {"ok": 5, "failed": 1, "missing": 4, "unsealed": 0}
    assert known["sentence"].startswith("Not all is well")
    store.seal(cache)
    caches.write_pixels(cache, spec, 1)
    assert page_of(cache).get("/api/rows", dataset="flowers", sql="crop_top >= 0")["total"] == 9


def test_a_dataset_of_several_parts_is_one(
    tmp_path_factory: pytest.TempPathFactory, page_of: Callable[[store.Cache], Page]
) -> None:
    cache = caches.make_cache(tmp_path_factory.mktemp("parts") / "cache", caches.DATASETS[:1])
    spec = caches.DatasetSpec("flowers--part-0001", "generic", images=3, views=2, failed={1})
    part = cache.create_part("flowers", images=caches.image_list(spec))
    assert part.name == spec.name
    for shard in range(part.shards):
        caches.write_pixels(cache, spec, shard)
        caches.write_tokens(cache, spec, caches.TEACHERS[0], shard)
    page = page_of(cache)
    for _ in range(2):
        pixels = page.get("/api/overview")["datasets"][0]["arrays"][0]
        assert pixels["status"] == {"ok": 14, "failed": 2, "missing": 0, "unsealed": 0}
        answer = page.get("/api/rows", dataset="flowers")
        assert answer["total"] == 16
        assert [row["status"]["dino"] for row in answer["rows"]][9:] == ["failed", "ok", "failed", *["ok"] * 4]
        assert answer["rows"][12]["image"] == "flowers--part-0001/001.png"
        assert answer["rows"][12]["status"]["mast"] == "missing"
        assert places(page.get("/api/rows", sql="row in (8, 12) and dataset = 'flowers'")) == [
            ("flowers", 8),
            ("flowers", 12),
        ]
        assert places(page.get("/api/rows", where="row > 8 and crop_top >= 1")) == [
            ("flowers", row) for row in (9, 12, 13, 14, 15)
        ]
        assert len(page.get("/api/rows", sort="crop_top")["rows"]) == 16
        assert page.get("/api/row", dataset="flowers", row=12)["columns"]["row"] == 12
        whole = page.opened.cache["flowers"]
        cosines = page.get("/api/cosine", dataset="flowers", row=13, array="dino", patches="0")
        assert len(cosines["maps"]) == 1
        assert (whole.status_of("dino", [13]) == OK).all()
        store.seal(cache)
        page = page_of(cache)


def test_images_that_are_added_while_the_page_is_served_are_there_when_it_is_loaded_again(
    tmp_path: Path, page_of: Callable[[store.Cache], Page]
) -> None:
    cache = caches.make_cache(tmp_path / "cache", caches.DATASETS[:1], caches.TEACHERS[:1])
    page = page_of(cache)

    def total(**query: str) -> int:
        return int(page.get("/api/rows", dataset="flowers", **query)["total"])

    assert (page.get("/api/overview")["datasets"][0]["rows"], total(status="dino:ok")) == (10, 8)
    spec = caches.DatasetSpec("flowers--part-0001", "generic", images=3, views=2, failed={1})
    part = cache.create_part("flowers", images=caches.image_list(spec))
    assert page.get("/api/overview")["datasets"][0]["rows"] == 16
    assert (total(), total(status="dino:ok"), total(status="missing")) == (16, 8, 6)
    for shard in range(part.shards):
        caches.write_pixels(cache, spec, shard)
        caches.write_tokens(cache, spec, caches.TEACHERS[0], shard)
    page.get("/api/overview")
    assert (total(status="dino:ok"), total(status="missing")) == (13, 0)
    store.seal(cache)
    page.get("/api/overview")
    assert (total(status="dino:ok"), total(where="row > 9")) == (13, 6)


def test_a_cache_without_datasets_has_an_empty_list_in_every_order(tmp_path: Path) -> None:
    page = Page(Opened(cache=store.create(tmp_path, {"image_size": 28, "shard_rows": 4, "flip": 0.0, "seed": 0})))
    assert page.get("/api/overview")["sentence"].startswith("Empty")
    for query in ({}, {"sort": "path"}, {"sort": "norm:dino"}, {"sample": 5}, {"sql": "view = 0"}, {"status": "ok"}):
        assert (page.get("/api/rows", **query)["total"], page.get("/api/rows", **query)["rows"]) == (0, [])


def test_a_large_cache_is_told_from_its_seals_at_once_and_counted_later(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page.get("/api/overview")
    monkeypatch.setattr(overview, "FEW_SHARDS", 0)
    quick = page.get("/api/overview")
    assert quick["state"] == "counting"
    assert "being counted" in quick["sentence"]
    for before, after in zip(quick["datasets"], whole["datasets"], strict=True):
        assert [array["status"] for array in before["arrays"]] == [array["status"] for array in after["arrays"]]
    counts = {(f["dataset"], f["array"], f["reason"]): f["count"] for f in quick["failures"]}
    assert counts == {(f["dataset"], f["array"], f["reason"]): f["count"] for f in whole["failures"]}
    assert page.finished("/api/overview") == whole


def test_rows_that_have_no_value_in_a_measured_order_are_told(
    tmp_path: Path, page_of: Callable[[store.Cache], Page]
) -> None:
    """A cache whose rows all failed: every page answers, and says so."""
    failed = caches.DatasetSpec("flowers", "generic", images=3, views=2, failed=set(range(6)))
    page = page_of(caches.make_cache(tmp_path / "cache", (failed,), caches.TEACHERS[:1]))
    assert "6 rows failed in flowers/pixels" in page.get("/api/overview")["sentence"]
    assert page.get("/api/rows", sort="crop_top")["total"] == 6
    answer = page.finished("/api/rows", sort="norm:dino")
    assert (answer["total"], answer["of"]) == (0, 6)
    assert answer["note"] == "6 more have no such tokens (failed, missing or damaged)"
    assert page.get("/api/row", dataset="flowers", row=0)["status"] == {"pixels": "failed", "dino": "failed"}
    assert "rows 0 are not ok" in page.refused("/api/map", 404, dataset="flowers", row=0, array="dino")
    for path, query in (("/api/find", {"row": 0, "array": "dino"}), ("/api/statistics", {"teacher": "dino"})):
        page.get(path, dataset="flowers", **query)
        page.opened.jobs.wait()
        assert "is ok: all failed, or it is not extracted yet" in page.refused(path, dataset="flowers", **query)
