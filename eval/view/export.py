"""One view written into a file: HTML that works offline, or a picture."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.view import images
from eval.view.answers import ANSWERS, PICTURES
from eval.view.jobs import READY
from eval.view.offline import offline_page
from eval.view.opened import Opened
from eval.view.page_file import STATIC
from eval.view.parameters import Parameters
from eval.view.sheet import sheet_of
from store import errors
from store.common import atomic

HTML, PNG = ".html", ".png"


def export_view(opened: Opened, state: str, out: Path) -> None:
    """Write a view into a file.

    Args:
        opened: what is shown.
        state: the part of the page's address behind the question mark.
        out: file to write: .html works offline, .png is a picture.

    Raises:
        errors.InvalidInput: another suffix, or a state that shows nothing.
        errors.MissingFile: the folder does not exist.
    """
    suffix = out.suffix.lower()
    if suffix not in (HTML, PNG):
        raise errors.InvalidInput(f"--export '{out}': its name must end in {HTML} or {PNG}")
    if not out.parent.is_dir():
        raise errors.MissingFile(f"--export '{out}': folder '{out.parent}' does not exist")
    data = html_of(opened, state).encode() if suffix == HTML else png_of(opened, state)
    with atomic.replacing(out) as partial:
        partial.write_bytes(data)


def html_of(opened: Opened, state: str, *, static: Path = STATIC) -> str:
    """Return a view as one HTML file that works offline; waits for what is worked at in the background.

    Args:
        opened: what is shown.
        state: the part of the page's address behind the question mark.
        static: folder of the page's own files.
    """
    return offline_page(state, ask=_ask(opened), picture=_picture(opened), static=static)


def png_of(opened: Opened, state: str) -> bytes:
    """Return a view as a picture; waits for what is worked at in the background."""
    file = io.BytesIO()
    sheet_of(state, ask=_ask(opened), picture=_picture(opened)).save(file, "PNG")
    return file.getvalue()


def _ask(opened: Opened) -> Callable[[str, dict[str, str]], Any]:
    def ask(path: str, query: dict[str, str]) -> Any:
        answer = ANSWERS[path.removeprefix("api/")]
        first = answer(opened, Parameters(query))
        if first.get("state", READY) == READY:
            return first
        opened.jobs.wait()
        return answer(opened, Parameters(query))

    return ask


def _picture(opened: Opened) -> Callable[[str, dict[str, str]], images.Picture]:
    return lambda path, query: PICTURES[path](opened, Parameters(query))
