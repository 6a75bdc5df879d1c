"""What the browser tests share: a run without a network, a server in a thread, and a person's hands and eyes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import uvicorn
from playwright.sync_api import BrowserContext, Locator, Page

from eval.view.listen import bound_socket
from eval.view.opened import Opened
from eval.view.security import Access
from eval.view.server import application
from eval.view.shapes import ArrayShape
from store.cache.dataset import Dataset

DRAWN = "(all) => Object.fromEntries(all.map((one) => [one.dataset.array, one.toDataURL()]))"


class Student:
    """A run without a network: its projection to a teacher is that teacher's mirrored tokens."""

    name, directory, teachers = "night", Path("runs/night"), ("vit",)

    def shape(self, dataset: Dataset, teacher: str) -> ArrayShape:
        return ArrayShape(grid=(4, 4), prefix_tokens=1, channels=8)

    def tokens(self, dataset: Dataset, rows: list[int], teacher: str) -> np.ndarray:
        return np.asarray(dataset.read(rows, ["vit"])["vit"])[:, ::-1]

    def load(self) -> None:
        """Nothing is to be loaded."""

    def error(self, opened: Opened, dataset: str, row: int, teacher: str) -> np.ndarray:
        return np.linspace(0, 0.1 + row, 16)


@contextmanager
def served(shown: Opened, access: Access) -> Iterator[str]:
    listening = bound_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(shown, access), log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://localhost:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def opened(window: BrowserContext, address: str, query: str = "") -> Page:
    page = window.new_page()
    page.goto(address + query)
    complete(page)
    return page


def complete(page: Page) -> None:
    """Return once the view is complete."""
    page.locator("body:not([data-busy])").wait_for()


def maps(page: Page) -> dict[str, str]:
    """Return the pixels of every map, by array."""
    return dict(page.locator("canvas.map").evaluate_all(DRAWN))


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def click_patch(page: Page, tile: str, x: float, y: float) -> None:
    """Click on a tile at a place from 0 to 1 of its sides."""
    box = stack(page, tile).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    complete(page)


def stack(page: Page, tile: str) -> Locator:
    return page.locator(f'.shown:first-child [data-tile="{tile}"] .stack')
