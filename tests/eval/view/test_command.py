"""The command: what it imports, how it starts, what it refuses, and the files it exports."""

import io
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import store
from codistill.__main__ import main
from eval.view.export import export_view, png_of
from eval.view.opened import Opened
from store import errors
from tests.eval.view.conftest import Page

ROOT = Path(__file__).parents[3]
LOOKS = """
import sys, urllib.request
import eval.view.listen as listen
from store.cache.cache import open as open_cache
from eval.view.opened import Opened
from starlette.testclient import TestClient
from eval.view.security import access_for
from eval.view.server import application
client = TestClient(application(Opened(cache=open_cache(sys.argv[1])), access_for("localhost")), base_url="http://localhost")
for path in sys.argv[2:]:
    assert client.get(path).status_code == 200, path
print(*[m for m in "torch timm extract train matplotlib".split() if m in sys.modules])
"""


def test_without_a_run_the_page_imports_the_store_alone(viewed: store.Cache) -> None:
    row = "dataset=rooms&row=1"
    paths = [
        "/api/overview",
        "/api/rows?sql=view+%3D+3&sort=crop_top",
        "/api/rows?where=view+%3D%3D+3",
        f"/api/row?{row}",
    ]
    paths += [
        f"/api/map?{row}&array=vit&basis=dataset",
        f"/api/cosines?{row}&array=vit&patches=1",
        f"/img/pixels?{row}",
    ]
    paths += [f"/api/find?{row}&array=vit&patches=1", "/api/statistics?dataset=rooms&teacher=vit"]
    command = [sys.executable, "-c", LOOKS, viewed.location, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_it_serves_until_it_is_interrupted(viewed: store.Cache) -> None:
    command = [sys.executable, "-m", "codistill", "view", viewed.location, "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.search(r"http://localhost:\d+/", line)
    assert address is not None, line
    with urllib.request.urlopen(f"{address[0]}api/overview") as answer:
        assert answer.status == 200
        assert "server" not in {name.lower() for name in answer.headers}
    server.send_signal(2)
    _, messages = server.communicate()
    assert (server.returncode, messages) == (0, "")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("view", "codistill view"),
        ("view nowhere", "no cache at nowhere"),
        ("view {cache} --prot 1", "unknown option '--prot' (did you mean '--port'?)"),
        ("view {cache} --port -1", "--port: expected a number from 0 on"),
        ("view {cache} --run nowhere", "--run 'nowhere' is not a run: no such directory"),
        ("view {cache} --images room={here}", "no dataset 'room' (did you mean 'rooms'?)"),
        ("view {cache} --images rooms=nowhere", "--images 'rooms=nowhere': no such folder"),
        ("view {cache} --host no-such-host.invalid", "cannot be listened on"),
        ("view {cache} --export {here}/x.pdf", "its name must end in .html or .png"),
        ("view {cache} --export {here}/x.png --state page=row", "no row is open"),
        ("view {cache} --export {here}/x.html --state page=nothing", "page: expected one of overview"),
    ],
)
def test_bad_input_is_one_line(
    viewed: store.Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str, message: str
) -> None:
    arguments = typed.format(cache=viewed.location, here=tmp_path).split()
    if len(arguments) == 1:
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().out
        return
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


STATES = [
    "?page=overview",
    "page=grid&sql=view+%3D+3&sort=crop_top&overlay=vit",
    "page=row&dataset=flowers&row=4&beside=rooms:2,flowers:3",
    "page=row&dataset=flowers&row=4&beside=rooms:2&mode=cosine&patches=5,6&source=vit",
    "page=find&dataset=flowers&row=4&patches=5&source=vit&what=rows",
    "page=statistics&array=vit&from=rooms",
]


@pytest.mark.parametrize("state", STATES)
def test_a_view_is_written_as_one_file(page: Page, tmp_path: Path, state: str) -> None:
    export_view(page.opened, state, tmp_path / "view.html")
    text = (tmp_path / "view.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]', text)
    export_view(page.opened, state, tmp_path / "view.png")
    with Image.open(tmp_path / "view.png") as image:
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 8
    response = page.client.get("/export", params={"state": state, "kind": "png"})
    assert response.content == (tmp_path / "view.png").read_bytes()
    assert response.headers["content-disposition"].startswith("attachment")
    assert page.client.get("/export", params={"state": state}).text == text


def test_a_picture_has_the_colours_of_the_page(page: Page) -> None:
    with Image.open(io.BytesIO(png_of(page.opened, "page=row&dataset=rooms&row=2&mode=norm"))) as image:
        colours = {tuple(colour) for colour in np.asarray(image).reshape(-1, 3).tolist()}
    assert {(0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)} <= colours  # the ends of viridis


def test_a_file_goes_into_a_folder_that_is_there(viewed: store.Cache, tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match="does not exist"):
        export_view(Opened(cache=viewed), "page=overview", tmp_path / "no" / "view.png")
