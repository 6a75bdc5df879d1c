"""One view of the page as a file that works offline: what the page would ask the server for, worked out beforehand."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from eval.view.page_file import one_file
from store.errors import CodistillError, InvalidInput

PAGES = ("overview", "grid", "row", "find", "statistics")
MODES = ("pca", "norm", "outlier", "error")
PIXELS, THUMB, PHOTOGRAPH = "img/pixels", "api/thumb", "img/photograph"
THUMBNAIL_PX = {"s": "128", "m": "192", "l": "320"}  # as in thumbs.js
QUERY_PX, PHOTOGRAPH_PX = "320", "640"
ROWS = 120
MOST_BYTES = 200 * 2**20

Query = Mapping[str, Any]
Ask = Callable[[str, dict[str, str]], Any]
Picture = Callable[[str, dict[str, str]], tuple[bytes, str]]


def offline_page(search: str, *, ask: Ask, picture: Picture, static: Path) -> str:
    """Return a view as one HTML file.

    Args:
        search: the part of the page's address behind the question mark.
        ask: gives the answer of `api/NAME` to a query, worked out to its end.
        picture: gives file and media type of a picture's address and query.
        static: folder of the page's own files.

    Raises:
        InvalidInput: no such page, or more than a file should hold.
        errors.CodistillError: what is to be shown cannot be.
    """
    state = dict(parse_qsl(search.removeprefix("?")))
    for key in ("token", "at", "index"):  # secret; and places in a list that the file does not have
        state.pop(key, None)
    content = _Content(ask, picture)
    content.take(state)
    data = {"search": f"?{urlencode(state)}", "answers": content.answers, "pictures": content.pictures}
    return one_file(data, static)


class _Content:
    """The answers and pictures of a view, as the page asks for them (the modules of the same names)."""

    def __init__(self, ask: Ask, picture: Picture) -> None:
        self._ask, self._picture = ask, picture
        self.answers: dict[str, Any] = {}
        self.pictures: dict[str, str] = {}
        self._bytes = 0

    def take(self, state: Query) -> None:
        page = state.get("page", PAGES[0])
        if page not in PAGES:
            raise InvalidInput(f"page: expected one of {', '.join(PAGES)}, found '{page[:40]}'")
        facts = self.ask("api/overview")
        if page == "overview":
            self.thumbnails([(f["dataset"], row) for f in facts["failures"] for row in f["rows"]], THUMBNAIL_PX["s"])
        elif page == "statistics":
            self.statistics(state, facts)
        elif page == "grid":
            self.grid(state)
        elif state.get("dataset") and state.get("row"):
            getattr(self, page)(state, facts)

    def ask(self, path: str, **query: Any) -> Any:
        """Keep an answer; a refusal is kept as what the page shows in its place."""
        key, asked = _address(path, query)
        if key not in self.answers:
            self.answers[key] = self._ask(path, asked)
            self._count(len(json.dumps(self.answers[key])))
        return self.answers[key]

    def try_ask(self, path: str, **query: Any) -> None:
        """Keep an answer, or the reason why there is none."""
        try:
            self.ask(path, **query)
        except CodistillError as error:
            self.answers[_address(path, query)[0]] = {"error": " ".join(str(error).split())}

    def picture(self, path: str, **query: Any) -> None:
        """Keep a picture if there is one."""
        key, asked = _address(path, query)
        if key in self.pictures:
            return
        try:
            data, media_type = self._picture(path, asked)
        except (CodistillError, OSError):
            return
        self._count(len(data))
        self.pictures[key] = f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    def thumbnails(self, places: list[tuple[str, int]], size: str) -> None:
        for dataset, row in places:
            self.picture(PIXELS, dataset=dataset, row=row, size=size)

    def grid(self, state: Query) -> None:
        answer = self.ask("api/rows", **list_query(state, limit=ROWS))
        answer["total"] = len(answer["rows"])  # of which the file has all
        places = [(row["dataset"], row["row"]) for row in answer["rows"]]
        self.thumbnails(places, _thumbnail_px(state))
        for dataset, row in places if state.get("overlay") else ():
            self.picture(THUMB, dataset=dataset, row=row, array=state["overlay"], mode="pca")

    def row(self, state: Query, facts: Any) -> None:
        own = (state["dataset"], _row_of(state))
        places = list(dict.fromkeys([own, *places_of(state.get("beside", ""))]))
        rows = [self.ask("api/row", dataset=dataset, row=row) for dataset, row in places]
        for (dataset, row), answer in zip(places, rows, strict=True):
            self.picture(PIXELS, dataset=dataset, row=row)
            if answer["has_photograph"]:
                self.picture(PHOTOGRAPH, dataset=dataset, row=row, size=PHOTOGRAPH_PX)
            shown = ",".join(f"{name}:{other}" for name, other in places)
            for array in answer["arrays"]:
                for query in _maps(state, facts, shown):
                    self.try_ask("api/map", dataset=dataset, row=row, array=array["name"], **query)
        if state.get("patches"):
            of = next(iter(places_of(state.get("of", ""))), own)
            others = ",".join(f"{dataset}:{row}" for dataset, row in places if (dataset, row) != of)
            asked = {"array": state.get("source"), "patches": state["patches"], "with": others}
            self.try_ask("api/cosines", dataset=of[0], row=of[1], **asked)

    def find(self, state: Query, facts: Any) -> None:
        question = question_of(state, lambda path, query: self.ask(path, **query))
        dataset, row = searched_of(state)
        self.ask("api/row", dataset=dataset, row=row)
        self.picture(PIXELS, dataset=dataset, row=row, size=QUERY_PX)
        if question is None:
            return
        results = self.ask("api/find", **question)["results"]
        for name, number in {found["dataset"]: found["row"] for found in results}.items():
            self.ask("api/row", dataset=name, row=number)
        places = [(found["dataset"], found["row"]) for found in results]
        self.thumbnails(places, _thumbnail_px(state))

    def statistics(self, state: Query, facts: Any) -> None:
        teachers = [teacher["name"] for teacher in facts["teachers"]]
        teacher = state.get("array") if state.get("array") in teachers else next(iter(teachers), None)
        named = [d["name"] for d in facts["datasets"] if any(array["name"] == teacher for array in d["arrays"])]
        if named:
            dataset = state.get("from") if state.get("from") in named else named[0]
            self.ask("api/statistics", dataset=dataset, teacher=teacher)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise InvalidInput(f"this view has more than {MOST_BYTES // 2**20} MiB. Export one with fewer rows")


def _maps(state: Query, facts: Any, shown: str) -> Iterator[dict[str, str]]:
    """Yield the questions for a map in each mode, so that the file can switch between them."""
    for basis in ("row", "shown", "dataset"):
        yield {"mode": "pca", "basis": basis, "shown": shown if basis == "shown" else ""}
    yield from ({"mode": mode} for mode in ("norm", "outlier"))
    if facts["runs"]:
        yield {"mode": "error", "run": state.get("run") or facts["runs"][0]["name"]}


def list_query(state: Query, *, limit: int) -> dict[str, Any]:
    """Return the question for the first rows of a state's list."""
    names = ("where", "sql", "group", "status", "reason", "view", "sort", "sample", "seed")
    query = {"dataset": state.get("from"), **{name: state.get(name) for name in names}}
    return {**query, "order": state.get("order", "asc") if state.get("sort") else "", "offset": 0, "limit": limit}


def searched_of(state: Query) -> tuple[str, int]:
    """Return the row that is searched for."""
    return next(iter(places_of(state.get("of", ""))), (state["dataset"], _row_of(state)))


def question_of(state: Query, ask: Ask) -> dict[str, str] | None:
    """Return the question of a search; None if no row, no patch or no array is chosen that could be searched for."""
    if not places_of(state.get("of", "")) and not (state.get("dataset") and state.get("row")):
        return None
    dataset, row = searched_of(state)
    answer = ask("api/row", {"dataset": dataset, "row": str(row)})
    grids = {array["name"]: array["grid"] for array in answer["arrays"]}
    array = next((name for name in (state.get("array"), state.get("source"), *grids) if name in grids), None)
    what, source = state.get("what", "patches"), grids.get(state.get("source", ""))
    numbers = [int(number) for number in state.get("patches", "").split(",") if _is_number(number)]
    patches = list(dict.fromkeys(_on_grid(n, source, grids[array]) for n in numbers)) if source and array else []
    if array is None or (what == "patches" and not patches):
        return None
    asked: dict[str, str] = {"patches": ",".join(map(str, patches)), "what": what}
    rest = {"scope": state.get("scope", "sample"), "k": state.get("k", "60")}
    return {"dataset": dataset, "row": str(row), "array": array, **asked, **rest}


def _address(path: str, query: Query) -> tuple[str, dict[str, str]]:
    """Return the one spelling that api.js has of a request, and its query: keys in order, empty values left out."""
    asked = {name: str(value) for name, value in sorted(query.items()) if value not in ("", None)}
    encoded = urlencode(asked, safe="*").replace("~", "%7E")  # as a browser's URLSearchParams
    return (f"{path}?{encoded}" if asked else path), asked


def _row_of(state: Query) -> int:
    if not _is_number(state["row"]):
        raise InvalidInput(f"row: expected a whole number, found '{state['row'][:40]}'")
    return int(state["row"])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 16


def _thumbnail_px(state: Query) -> str:
    return THUMBNAIL_PX.get(state.get("size", ""), THUMBNAIL_PX["m"])


def places_of(text: str) -> list[tuple[str, int]]:
    """Return "a:1,b:2" as pairs."""
    parts = [part.rpartition(":") for part in text.split(",")]
    return [(dataset, int(row)) for dataset, colon, row in parts if colon and _is_number(row)]


def _on_grid(patch: int, source: list[int], grid: list[int]) -> int:
    """Return the patch of a grid in which the centre of a patch of another lies."""
    line, column = divmod(patch, source[1])
    return (2 * line + 1) * grid[0] // (2 * source[0]) * grid[1] + (2 * column + 1) * grid[1] // (2 * source[1])
