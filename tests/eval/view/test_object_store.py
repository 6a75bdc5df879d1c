"""The page of a cache in an object store answers as that of the same cache in a folder."""

import base64
from collections.abc import Iterator

import pytest

import store
from eval.view.opened import Opened
from tests.eval.view.conftest import TEACHERS, Page
from tests.store import caches, s3_server


@pytest.fixture(scope="module")
def remote() -> Iterator[store.Cache]:
    with s3_server.serve() as server, pytest.MonkeyPatch.context() as patch:
        s3_server.make_bucket(server.upstream)
        for name, value in s3_server.environment(server).items():
            patch.setenv(name, value)
        yield caches.make_cache(f"s3://{s3_server.BUCKET}/some/cache", teachers=TEACHERS)


ASKED = [
    ("/api/rows", {"sql": "view = 1 or view = 3", "sort": "crop_top"}),
    ("/api/rows", {"where": "crop_left > 5", "status": "ok"}),
    ("/api/row", {"dataset": "flowers", "row": "9"}),
    ("/api/map", {"dataset": "rooms", "row": "2", "array": "part", "basis": "dataset"}),
    ("/api/cosines", {"dataset": "rooms", "row": "2", "array": "vit", "patches": "5", "with": "flowers:1"}),
    ("/api/find", {"dataset": "rooms", "row": "2", "array": "vit", "patches": "5"}),
    ("/api/statistics", {"dataset": "rooms", "teacher": "dino"}),
]


def test_it_answers_as_a_folder_does(remote: store.Cache, page: Page) -> None:
    far = Page(Opened(cache=remote, images=page.opened.images))
    for path, query in ASKED:
        assert far.finished(path, **query) == page.finished(path, **query), path
    pictures = [p.client.get("/img/pixels?dataset=rooms&row=2").content for p in (far, page)]
    assert base64.b64encode(pictures[0]) == base64.b64encode(pictures[1])
    here, there = (p.get("/api/overview")["datasets"] for p in (page, far))
    assert [d["arrays"] for d in here] == [d["arrays"] for d in there]
