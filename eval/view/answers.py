"""What the page asks for, by address: each one function of the opened cache and the query of the request."""

from collections.abc import Callable
from typing import Any

from eval.view import cosines, images, maps, rows
from eval.view.find import MOST_FOUND, SCOPES, WHAT, find
from eval.view.opened import Opened, checked_row
from eval.view.overview import overview
from eval.view.parameters import Parameters
from eval.view.records import records
from eval.view.statistics import statistics_of
from eval.view.warm import warm_runs

LARGEST_PX, SMALLEST_PX = 4096, 8
MOST_BESIDE, MOST_SHOWN = 32, 512

Answer = Callable[[Opened, Parameters], Any]
PictureAnswer = Callable[[Opened, Parameters], images.Picture]


def _overview(opened: Opened, query: Parameters) -> Any:
    answer = overview(opened)
    warm_runs(opened)
    return answer


def _row(opened: Opened, query: Parameters) -> Any:
    return rows.row_of(opened, query.required("dataset"), query.number("row"))


def _map(opened: Opened, query: Parameters) -> Any:
    dataset = query.required("dataset")
    return maps.map_of(
        opened,
        dataset,
        query.number("row"),
        query.required("array"),
        mode=query.choice("mode", maps.MODES),
        basis=query.choice("basis", maps.BASES),
        shown=query.places("shown", most_items=MOST_SHOWN, dataset=dataset),
        run=query.text("run"),
    )


def _cosine(opened: Opened, query: Parameters) -> Any:
    where = (query.required("dataset"), query.number("row"), query.required("array"))
    beside = query.places("with", most_items=MOST_BESIDE)
    return {"maps": cosines.cosine_maps(opened, *where, patches=query.numbers("patches"), beside=beside)}


def _cosines(opened: Opened, query: Parameters) -> Any:
    where = (query.required("dataset"), query.number("row"), query.required("array"))
    beside = query.places("with", most_items=MOST_BESIDE)
    return {"arrays": cosines.in_every_array(opened, *where, patches=query.numbers("patches"), beside=beside)}


def _patch(opened: Opened, query: Parameters) -> Any:
    where = (query.required("dataset"), query.number("row"), query.required("array"))
    return maps.patch_values(opened, *where, query.number("patch"))


def _find(opened: Opened, query: Parameters) -> Any:
    return find(
        opened,
        query.required("dataset"),
        query.number("row"),
        query.required("array"),
        patches=query.numbers("patches"),
        what=query.choice("what", WHAT),
        scope=query.choice("scope", SCOPES),
        k=query.number("k", 60, least=1, most=MOST_FOUND),
    )


def _statistics(opened: Opened, query: Parameters) -> Any:
    return statistics_of(opened, query.required("dataset"), query.required("teacher"))


def _thumb(opened: Opened, query: Parameters) -> images.Picture:
    where = (query.required("dataset"), query.number("row"), query.required("array"))
    mode = query.choice("mode", ("pca", "norm", "outlier"))
    return images.png(maps.thumbnail(opened, *where, mode=mode))


def _pixels(opened: Opened, query: Parameters) -> images.Picture:
    return images.pixels(opened, query.required("dataset"), query.number("row"), size=_size(query))


def _photograph(opened: Opened, query: Parameters) -> images.Picture:
    dataset, row = query.required("dataset"), query.number("row")
    source = opened.dataset(dataset)
    (record,) = records(opened, source, [checked_row(source, row)])
    return images.photograph(opened, dataset, row, record, size=_size(query) or 1024)


def _size(query: Parameters) -> int | None:
    return query.number("size", least=SMALLEST_PX, most=LARGEST_PX) if query.text("size") else None


ANSWERS: dict[str, Answer] = {
    "overview": _overview,
    "rows": rows.page_of_rows,
    "row": _row,
    "map": _map,
    "cosine": _cosine,
    "cosines": _cosines,
    "patch": _patch,
    "find": _find,
    "statistics": _statistics,
}


PICTURES: dict[str, PictureAnswer] = {
    "api/thumb": _thumb,
    "img/pixels": _pixels,
    "img/photograph": _photograph,
}
