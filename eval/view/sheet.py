"""One view as a picture: rows with their maps, or thumbnails, or charts, on one sheet with captions."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eval.view.colours import painted
from eval.view.offline import ROWS, list_query, places_of, question_of
from store import errors
from store.inspection.token_images import levels

TILE_PX, THUMBNAIL_PX, GAP_PX = 224, 128, 12
TEXT_PX, LINE_PX, TITLE_PX = 12, 16, 28
CHART_PX = (460, 220)
COLUMNS, THUMBNAIL_COLUMNS = 6, 10
INK, PAPER, FAINT, MARK = "#1d1d1f", "#ffffff", "#6e6e73", "#e8590c"
MOST_CHARACTERS = 36

Ask = Callable[[str, dict[str, str]], Any]
Picture = Callable[[str, dict[str, str]], tuple[bytes, str]]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture of any size with lines of text below it."""

    image: Image.Image
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title, lines of text, and tiles of one size."""

    title: str
    lines: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    tile_px: tuple[int, int] = (TILE_PX, TILE_PX)
    columns: int = COLUMNS


def sheet_of(search: str, *, ask: Ask, picture: Picture) -> Image.Image:
    """Return a view as a picture.

    Args:
        search: the part of the page's address behind the question mark.
        ask: gives the answer of `api/NAME` to a query, worked out to its end.
        picture: gives file and media type of a picture's address and query.

    Raises:
        errors.InvalidInput: no such page, or no row is open.
    """
    state = dict(parse_qsl(search.removeprefix("?")))
    pages = {"overview": _overview, "grid": _grid, "row": _row, "find": _find, "statistics": _statistics}
    name = state.get("page", "overview")
    if name not in pages:
        raise errors.InvalidInput(f"page: expected one of {', '.join(pages)}, found '{name[:40]}'")
    return _drawn(list(pages[name](state, ask, picture)))


def _row(state: Mapping[str, str], ask: Ask, picture: Picture) -> Iterator[Section]:
    if not state.get("dataset") or not state.get("row"):
        raise errors.InvalidInput("no row is open: give page=row&dataset=NAME&row=NUMBER")
    own = (state["dataset"], state["row"])
    places = list(dict.fromkeys([own, *((name, str(row)) for name, row in places_of(state.get("beside", "")))]))
    maps = _cosines(state, places, ask) if state.get("patches") and state.get("mode") == "cosine" else None
    shown = ",".join(f"{name}:{row}" for name, row in places)
    for dataset, row in places:
        answer = ask("api/row", {"dataset": dataset, "row": row})
        tiles = [_photograph(answer, picture)] if answer["has_photograph"] else []
        tiles.append(_picture(picture, "img/pixels", {"dataset": dataset, "row": row}, ("stored pixels",)))
        for array in answer["arrays"]:
            name = array["name"]
            if maps is not None:
                tiles.append(_map_tile(name, maps.get((name, dataset, row)), scale="magma"))
                continue
            query = {"dataset": dataset, "row": row, "array": name} | _mode(state, shown)
            try:
                tiles.append(_map_tile(name, ask("api/map", query)))
            except errors.CodistillError as error:
                tiles.append(_map_tile(name, {"note": str(error)}))
        title = f"{dataset} {row}"
        yield Section(title=title, lines=(f"{answer['image']}, view {answer['view']}",), tiles=tuple(tiles))


def _mode(state: Mapping[str, str], shown: str) -> dict[str, str]:
    mode = state.get("mode", "pca")
    query = {"mode": "pca" if mode == "cosine" else mode, "basis": state.get("basis", "row"), "shown": shown}
    return query | ({"run": state["run"]} if state.get("run") else {})


def _cosines(
    state: Mapping[str, str], places: Sequence[tuple[str, str]], ask: Ask
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return maps by array, dataset and row."""
    of = next(((name, str(row)) for name, row in places_of(state.get("of", ""))), places[0])
    others = ",".join(f"{dataset}:{row}" for dataset, row in places if (dataset, row) != of)
    query = {
        "dataset": of[0],
        "row": of[1],
        "array": state.get("source", ""),
        "patches": state["patches"],
        "with": others,
    }
    arrays = ask("api/cosines", query)["arrays"]
    scale = {"kind": "scalar", "low": 0.0, "high": 1.0, "unit": "cosine"}
    return {
        (name, one["dataset"], str(one["row"])): scale | one for name, found in arrays.items() for one in found["maps"]
    }


def _map_tile(name: str, answer: Mapping[str, Any] | None, *, scale: str = "viridis") -> Tile:
    """Return a map as a tile; without data, why there is none."""
    if answer is None or answer.get("data") is None:
        note = "no tokens" if answer is None else str(answer.get("note"))
        return Tile(image=Image.new("RGB", (8, 8), "#e5e5ea"), lines=(name, note))
    rows, cols = answer["grid"]
    data = base64.b64decode(answer["data"])
    if answer["kind"] == "rgb":
        colours = np.frombuffer(data, np.uint8).reshape(rows, cols, 3)
        return Tile(image=Image.fromarray(colours), lines=(name, answer.get("note") or "principal components"))
    values = np.frombuffer(data, "<f4").astype(np.float64).reshape(rows, cols)
    low, high = float(answer["low"]), float(answer["high"])
    colours = painted(np.where(np.isnan(values), np.nan, levels(values, low, high)), scale)
    ends = f"{answer['unit']} {low:.3g} to {high:.3g}"
    return Tile(image=Image.fromarray(colours), lines=(name, ends, *([answer["note"]] if answer.get("note") else [])))


def _photograph(answer: Mapping[str, Any], picture: Picture) -> Tile:
    query = {"dataset": answer["dataset"], "row": str(answer["row"]), "size": "640"}
    tile = _picture(picture, "img/photograph", query, ("photograph",))
    crop = answer["crop"]
    if crop is not None and crop["source_width"]:
        scale = tile.image.width / crop["source_width"]
        left, top = crop["left"] * scale, crop["top"] * scale
        box = (left, top, left + crop["width"] * scale, top + crop["height"] * scale)
        ImageDraw.Draw(tile.image).rectangle(box, outline=MARK, width=max(2, tile.image.width // 160))
    return tile


def _grid(state: Mapping[str, str], ask: Ask, picture: Picture) -> Iterator[Section]:
    answer = ask("api/rows", {name: str(value) for name, value in list_query(state, limit=ROWS).items() if value})
    tiles = []
    for row in answer["rows"]:
        where = {"dataset": row["dataset"], "row": str(row["row"])}
        bad = ", ".join(f"{array} {status}" for array, status in row["status"].items() if status != "ok")
        value = row["sort_value"]
        below = (
            f"{state['sort'].split(':')[-1]} {value:.4g}"
            if isinstance(value, float)
            else ""
            if value is None
            else str(value)
        )
        lines = (f"{row['dataset']} {row['row']}", bad or below or row["image"].rpartition("/")[2])
        tile = _picture(picture, "img/pixels", where | {"size": str(THUMBNAIL_PX)}, lines)
        tiles.append(_overlaid(tile, where, state.get("overlay", ""), picture))
    conditions = ", ".join(
        f"{key} {state[key]}" for key in ("from", "where", "sql", "status", "sort") if state.get(key)
    )
    title = f"{len(tiles)} of {answer['total']} rows" + (f": {conditions}" if conditions else "")
    yield _thumbnails(title, tiles)


def _overlaid(tile: Tile, where: dict[str, str], array: str, picture: Picture) -> Tile:
    if not array:
        return tile
    over = _picture(picture, "api/thumb", where | {"array": array, "mode": "pca"}, ())
    upon = over.image.convert("RGB").resize(tile.image.size, Image.Resampling.BICUBIC)
    return Tile(image=Image.blend(tile.image.convert("RGB"), upon, 0.6), lines=tile.lines)


def _find(state: Mapping[str, str], ask: Ask, picture: Picture) -> Iterator[Section]:
    question = question_of(state, ask)
    if question is None:
        raise errors.InvalidInput("nothing is searched for: give page=find&dataset=NAME&row=NUMBER&patches=NUMBER")
    answer = ask("api/find", question)
    tiles = []
    for found in answer["results"]:
        where = {"dataset": found["dataset"], "row": str(found["row"]), "size": str(THUMBNAIL_PX)}
        patch = "" if found["patch"] is None else f", patch {found['patch']}"
        lines = (f"{found['dataset']} {found['row']}{patch}", f"cosine {found['cosine']:.3f}")
        tiles.append(_picture(picture, "img/pixels", where, lines))
    like = f"patches {question['patches']} of" if question["patches"] else ""
    title = f"Most like {like} {question['dataset']} {question['row']} in the eyes of {question['array']}"
    yield _thumbnails(title, tiles, note=answer["note"])


def _thumbnails(title: str, tiles: Sequence[Tile], *, note: str | None = None) -> Section:
    size, lines = (THUMBNAIL_PX, THUMBNAIL_PX), (note,) if note else ()
    return Section(title=title, lines=lines, tiles=tuple(tiles), tile_px=size, columns=THUMBNAIL_COLUMNS)


def _overview(state: Mapping[str, str], ask: Ask, picture: Picture) -> Iterator[Section]:
    facts = ask("api/overview", {})
    yield Section(title=facts["cache"], lines=(facts["sentence"],))
    for dataset in facts["datasets"]:
        lines = []
        for array in dataset["arrays"]:
            counts = ", ".join(f"{count:,} {name}" for name, count in array["status"].items() if count)
            code = "" if array["ratio"] is None else f", {array['ratio']:g}x"
            lines.append(f"{array['name']}: {counts}{code}; {array['identity']}")
        yield Section(title=f"{dataset['name']}: {dataset['rows']:,} rows, {dataset['group']}", lines=tuple(lines))
    failures = [f"{f['dataset']}/{f['array']}: {f['count']:,} x {f['reason']}" for f in facts["failures"]]
    if failures:
        yield Section(title="Failures", lines=tuple(failures))


def _statistics(state: Mapping[str, str], ask: Ask, picture: Picture) -> Iterator[Section]:
    facts = ask("api/overview", {})
    names = [teacher["name"] for teacher in facts["teachers"]]
    teacher = state["array"] if state.get("array") in names else next(iter(names), "")
    having = [d["name"] for d in facts["datasets"] if any(array["name"] == teacher for array in d["arrays"])]
    if not having:
        raise errors.InvalidInput("no teacher has tokens here yet: extract some first")
    dataset = state["from"] if state.get("from") in having else having[0]
    answer = ask("api/statistics", {"dataset": dataset, "teacher": teacher})
    charts = [
        ("standard deviation by channel", answer["std"]),
        ("number of patches by norm", (answer["norms"] or {}).get("counts")),
        ("share of variance by principal component", (answer["spectrum"] or [])[:64]),
    ]
    tiles = tuple(_chart(title, [value or 0.0 for value in values]) for title, values in charts if values)
    numbers = {name: ", ".join(map(str, answer[name][:24])) or "none" for name in ("dead", "outliers")}
    lines = [f"{name} channels: {shown}" for name, shown in numbers.items()]
    lines += [f"distance of {one['dataset']}: {one['distance']:.3f}" for one in answer["drift"]]
    yield Section(title=f"{teacher} in {dataset}", lines=tuple(lines), tiles=tiles, tile_px=CHART_PX, columns=2)


def _chart(title: str, values: Sequence[float]) -> Tile:
    """Return bars of values over their places."""
    width, height = CHART_PX
    image = Image.new("RGB", CHART_PX, PAPER)
    draw, top = ImageDraw.Draw(image), max(values) or 1.0
    step = width / len(values)
    for place, value in enumerate(values):
        box = (place * step, height - 1 - (height - 4) * max(0.0, value) / top, (place + 1) * step, height - 1)
        draw.rectangle(box, fill="#3b528b")
    return Tile(image=image, lines=(title, f"{len(values)} values, largest {top:.4g}"))


def _picture(picture: Picture, path: str, query: dict[str, str], lines: tuple[str, ...]) -> Tile:
    """Return a picture as a tile; grey where there is none."""
    try:
        data, _ = picture(path, query)
    except errors.CodistillError as error:
        return Tile(image=Image.new("RGB", (8, 8), "#e5e5ea"), lines=(*lines[:1], str(error)))
    with Image.open(io.BytesIO(data)) as opened:
        return Tile(image=opened.convert("RGB"), lines=lines)


def _drawn(sections: Sequence[Section]) -> Image.Image:
    """Draw sections below each other."""
    width = 2 * GAP_PX + max(_width(section) for section in sections)
    heights = [_height(section) for section in sections]
    image = Image.new("RGB", (width, sum(heights) + GAP_PX), PAPER)
    top = GAP_PX
    for section, height in zip(sections, heights, strict=True):
        _draw_section(image, section, top)
        top += height
    return image


def _width(section: Section) -> int:
    columns = min(len(section.tiles), section.columns)
    return max(640, columns * (section.tile_px[0] + GAP_PX) - GAP_PX)


def _height(section: Section) -> int:
    rows = -(-len(section.tiles) // section.columns)
    return TITLE_PX + LINE_PX * len(section.lines) + rows * _line_height(section) + GAP_PX


def _line_height(section: Section) -> int:
    return section.tile_px[1] + LINE_PX * max((len(tile.lines) for tile in section.tiles), default=0) + GAP_PX


def _draw_section(image: Image.Image, section: Section, top: int) -> None:
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(TEXT_PX + 4), ImageFont.load_default(TEXT_PX)
    draw.text((GAP_PX, top), section.title[:160], fill=INK, font=font)
    top += TITLE_PX
    for line in section.lines:
        draw.text((GAP_PX, top), line[:180], fill=FAINT, font=small)
        top += LINE_PX
    width, height = section.tile_px
    for number, tile in enumerate(section.tiles):
        x = GAP_PX + number % section.columns * (width + GAP_PX)
        y = top + number // section.columns * _line_height(section)
        image.paste(_fitted(tile.image, width, height), (x, y))
        for place, text in enumerate(tile.lines):
            shown = (
                text
                if len(text) <= MOST_CHARACTERS * width // TILE_PX
                else text[: MOST_CHARACTERS * width // TILE_PX - 1] + "…"
            )
            draw.text((x, y + height + 1 + place * LINE_PX), shown, fill=FAINT if place else INK, font=small)


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return a picture within a box: maps of a few patches enlarged without smoothing."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
    fitted = Image.new("RGB", (width, height), PAPER)
    fitted.paste(image.resize(size, method), (0, 0))
    return fitted
