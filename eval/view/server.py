"""The page's server: addresses, each answered by one function on the opened cache; errors as one line of JSON."""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyarrow as pa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from eval.view import export, images
from eval.view.answers import ANSWERS, PICTURES, Answer, PictureAnswer
from eval.view.opened import Opened
from eval.view.page_file import STATIC
from eval.view.parameters import Parameters
from eval.view.security import Access, Guard
from store import errors

NOT_FOUND = (errors.MissingName, errors.MissingFile, errors.MissingShard, errors.RowsNotOk, errors.NotSealed)
UNCHANGING = {"cache-control": "private, max-age=600"}


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
        Route("/export", _export(opened, static), methods=["GET"]),
        Mount("/static", StaticFiles(directory=static, check_dir=False, follow_symlink=False)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _not_found}), access)  # type: ignore[dict-item]


def _export(opened: Opened, static: Path) -> Callable[[Request], Awaitable[Response]]:
    def file(request: Request) -> Response:
        query = Parameters(request.query_params)
        kind, state = query.choice("kind", ("html", "png")), query.text("state")
        headers = {"content-disposition": f'attachment; filename="codistill-view.{kind}"'}
        if kind == "png":
            return Response(export.png_of(opened, state), media_type=images.PNG, headers=headers)
        return Response(export.html_of(opened, state, static=static), media_type="text/html", headers=headers)

    async def respond(request: Request) -> Response:
        return await _answered(lambda: file(request))

    return respond


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


def _picture(opened: Opened, answer: PictureAnswer) -> Callable[[Request], Awaitable[Response]]:
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
    except Exception as error:  # a fault of ours: told where it happened, without ending the page
        logging.getLogger(__name__).exception("a request failed")
        return JSONResponse({"error": f"{type(error).__name__}: {_one_line(error)}"}, status_code=500)


async def _not_found(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
