"""A small sealed cache with failed rows, codes, a code of some patches, and two grids; and a client of its page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import store
from eval.view.opened import Opened
from eval.view.security import access_for
from eval.view.server import application
from tests.store import caches

ADDRESS = "http://localhost:8765"
TEACHERS = (*caches.TEACHERS, *caches.CODED_TEACHERS)  # grids of 2 x 2 and 4 x 4


class Page:
    """A page without a network: answers to addresses."""

    def __init__(self, opened: Opened, host: str = "127.0.0.1", **headers: str) -> None:
        self.opened, self.access = opened, access_for(host)
        self.client = TestClient(application(opened, self.access), base_url=ADDRESS, headers=headers)

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of an answer that must be one."""
        response = self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, path: str, code: int = 400, /, **query: Any) -> str:
        """Return the one line of an answer that must be refused."""
        response = self.client.get(path, params=query)
        assert response.status_code == code, response.text
        (name,) = response.json()
        assert name == "error"
        message = str(response.json()["error"])
        assert "\n" not in message
        assert "Traceback" not in message
        return message

    def finished(self, path: str, **query: Any) -> Any:
        """Return an answer that is worked at in the background, once it is ready."""
        self.get(path, **query)
        for job in list(self.opened.jobs._jobs.values()):
            job.done.wait()
        return self.get(path, **query)


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> store.Cache:
    return caches.make_cache(tmp_path_factory.mktemp("view") / "cache", teachers=TEACHERS)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return caches.write_images(tmp_path_factory.mktemp("view-images"))


@pytest.fixture
def page(viewed: store.Cache, photographs: Path) -> Page:
    return Page(Opened(cache=store.open(viewed.location), images={"": photographs}))


@pytest.fixture
def page_of() -> Callable[[store.Cache], Page]:
    return lambda cache: Page(Opened(cache=store.open(cache.location)))
