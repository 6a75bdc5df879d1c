"""The page's server: addresses, each answered by one function on the opened cache; errors as one line of JSON."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from eval.view import cosines, images, maps, rows
from eval.view.find import MOST_FOUND, SCOPES, WHAT, find
from eval.view.opened import Opened
from eval.view.overview import overview
from eval.view.parameters import Parameters
from eval.view.records import records
from eval.view.security import Access, Guard
from eval.view.statistics import statistics_of
from eval.view.warm import warm
from store import errors

STATIC = Path(__file__).parent / "static"
LARGEST_PX, SMALLEST_PX = 4096, 8
MOST_BESIDE, MOST_SHOWN = 32, 512
NOT_FOUND = (errors.MissingName, errors.MissingFile, errors.MissingShard, errors.RowsNotOk, errors.NotSealed)
UNCHANGING = {"cache-control": "private, max-age=600"}

Answer = Callable[[Opened, Parameters], Any]


def application(opened: Opened, access: Access, *, static: Path = STATIC) -> Guard:
    """Return the ASGI application of a page.

    Args:
        opened: what is shown.
        access: what requests must bring.
        static: folder of the page's own files.
    """
    routes = [
        Route("/", _page(static), methods=["GET"]),
        *(Route(f"/api/{name}", _json(opened, answer), methods=["GET"]) for name, answer in ANSWERS.items()),
        *(Route(f"/{path}", _picture(opened, answer), methods=["GET"]) for path, answer in PICTURES.items()),
        Mount("/static", StaticFiles(directory=static, check_dir=False, follow_symlink=False)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _not_found}), access)  # type: ignore[dict-item]


def _overview(opened: Opened, query: Parameters) -> Any:
    answer = overview(opened)
    if not opened.warmed:
        opened.warmed = True
        warm(opened)
    return answer


def _row(opened: Opened, query: Parameters) -> Any:
    return rows.row_of(opened, query.required("dataset"), query.number("row"))


def _map(opened: Opened, query: Parameters) -> Any:
    return maps.map_of(
        opened,
        query.required("dataset"),
        query.number("row"),
        query.required("array"),
        mode=query.choice("mode", maps.MODES),
        basis=query.choice("basis", maps.BASES),
        shown=query.numbers("shown", most_items=MOST_SHOWN),
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
    (record,) = records(opened, opened.dataset(dataset), [row])
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


PICTURES: dict[str, Callable[[Opened, Parameters], images.Picture]] = {
    "api/thumb": _thumb,
    "img/pixels": _pixels,
    "img/photograph": _photograph,
}


def _page(static: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        file = static / "index.html"
        if not file.is_file():
            return JSONResponse({"error": f"the page's files are not in '{static}'. Install codistill again"}, 404)
        return FileResponse(file, media_type="text/html")

    return answer


def _json(opened: Opened, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        start = time.perf_counter()
        response = await _answered(lambda: JSONResponse(answer(opened, Parameters(request.query_params))))
        response.headers["server-timing"] = f"total;dur={(time.perf_counter() - start) * 1000:.1f}"
        return response

    return respond


def _picture(
    opened: Opened, answer: Callable[[Opened, Parameters], images.Picture]
) -> Callable[[Request], Awaitable[Response]]:
    def picture(request: Request) -> Response:
        data, media_type = answer(opened, Parameters(request.query_params))
        return Response(data, media_type=media_type, headers=UNCHANGING)

    async def respond(request: Request) -> Response:
        return await _answered(lambda: picture(request))

    return respond


async def _answered(make: Callable[[], Response]) -> Response:
    """Return an answer made in a thread, or the error as one line: 404 for what is not there, 400 for the rest."""
    try:
        return await run_in_threadpool(make)
    except NOT_FOUND as error:
        return JSONResponse({"error": _one_line(error)}, status_code=404)
    except (errors.CodistillError, OSError, pa.ArrowException, ValueError) as error:
        return JSONResponse({"error": _one_line(error)}, status_code=400)


async def _not_found(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
