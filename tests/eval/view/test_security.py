"""What strangers may not do: ask from another site, read files, write, exhaust the machine."""

from pathlib import Path

import duckdb
import pytest
from starlette.testclient import TestClient

import store
from eval.view import queries, server
from eval.view.listen import address, bound_socket
from eval.view.opened import Opened
from eval.view.security import access_for
from store import errors
from tests.eval.view.conftest import ADDRESS, Page
from tests.store import caches


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "LOCALHOST:80"])
def test_this_machine_may_ask_by_its_names(page: Page, host: str) -> None:
    assert page.client.get("/api/overview", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8765", "192.168.0.7", "", "127.0.0.1.evil"])
def test_a_name_that_was_rebound_to_this_machine_may_not(page: Page, host: str) -> None:
    response = page.client.get("/api/overview", headers={"host": host})
    assert (response.status_code, list(response.json())) == (403, ["error"])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_other_web_sites_are_refused(page: Page, headers: dict[str, str]) -> None:
    for path in ("/api/overview", "/img/pixels?dataset=flowers&row=0", "/static/app.js"):
        assert page.client.get(path, headers=headers).status_code == 403


def test_a_link_from_elsewhere_opens_the_page_and_no_data(page: Page) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.client.get("/", headers=headers).status_code == 200
    headers = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
    assert page.client.get("/api/overview", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(page: Page, method: str) -> None:
    assert page.client.request(method, "/api/overview").status_code == 405


def test_every_answer_says_what_a_browser_may_do_with_it(page: Page) -> None:
    for path in ("/", "/api/overview", "/api/nothing", "/img/pixels?dataset=flowers&row=0", "/static/index.html"):
        headers = page.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers


def test_a_server_for_others_asks_for_its_token(viewed: store.Cache) -> None:
    page = Page(Opened(cache=viewed), host="0.0.0.0")
    token = page.access.token
    assert len(token) >= 32
    assert access_for("0.0.0.0").token != token
    asked = [
        page.client.get("/api/overview", headers={"X-Codistill-Token": token}),
        page.client.get("/api/overview", params={"token": token}),
        page.client.get("/", params={"token": token}),
        page.client.get("/api/overview", params={"token": token}, headers={"host": "10.1.2.3:8765"}),
        page.client.get("/static/index.html"),  # holds no data
    ]
    assert [response.status_code for response in asked] == [200] * 5
    for wrong in ("", token[:-1], token + "x", "\N{BULLET}"):
        assert page.client.get("/api/overview", params={"token": wrong}).status_code == 401
    assert page.client.get("/", params={}).status_code == 401
    assert page.client.get("/img/pixels?dataset=flowers&row=0").status_code == 401
    headers = {"host": "evil.example", "X-Codistill-Token": token}
    assert page.client.get("/api/overview", headers=headers).status_code == 403


def test_the_address_for_people() -> None:
    listening = bound_socket("127.0.0.1", 0)
    with listening:
        port = listening.getsockname()[1]
        assert address(listening, "127.0.0.1", access_for("127.0.0.1")) == f"http://localhost:{port}/"
        other = access_for("127.0.0.2")  # of this machine, too, but localhost does not lead to it
        assert "127.0.0.2" in other.hosts
        assert address(listening, "127.0.0.2", other) == f"http://127.0.0.2:{port}/"
        access = access_for("example.org")
        assert address(listening, "example.org", access) == f"http://example.org:{port}/?token={access.token}"
        with bound_socket("127.0.0.1", port) as next_to_it:  # taken: one of the next
            assert port < next_to_it.getsockname()[1] < port + 20
    with pytest.raises(errors.InvalidInput, match="cannot be listened on"):
        bound_socket("no-such-host.invalid", 0)
    with pytest.raises(errors.InvalidInput, match="expected a port"):
        bound_socket("127.0.0.1", 70000)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/..%5cserver.py",
        "/static/",
        "/img/../api",
    ],
)
def test_no_path_leaves_the_folder_of_the_page(page: Page, path: str) -> None:
    response = page.client.get(path)
    assert response.status_code == 404
    assert "def " not in response.text


def test_links_in_the_folder_of_the_page_are_not_followed(viewed: store.Cache, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "link.txt").symlink_to(tmp_path / "secret.txt")
    app = server.application(Opened(cache=viewed), access_for("localhost"), static=tmp_path / "static")
    assert TestClient(app, base_url=ADDRESS).get("/static/link.txt").status_code == 404


@pytest.mark.parametrize("name", ["../secret", "..", "flowers/../..", "/etc", "flowers\0", "%2e%2e", "a" * 3000])
def test_no_name_leaves_the_cache(page: Page, name: str) -> None:
    for path in ("/api/row", "/img/pixels", "/api/rows"):
        page.refused(path, 404, dataset=name, row=0)
    page.refused("/api/map", 404, dataset="flowers", row=0, array=name)
    page.refused("/api/statistics", 404, dataset="flowers", teacher=name)


READS_AND_WRITES = [
    "(select count(*) from read_csv('{file}')) > 0",
    "(select count(*) from read_text('{file}')) > 0",
    "(select count(*) from read_blob('{file}')) > 0",
    "(select count(*) from read_parquet('{file}')) > 0",
    "(select count(*) from '{file}') > 0",
    "(select count(*) from glob('{folder}/*')) > 0",
    "true) ; copy (select 1) to '{folder}/new.csv'; select row from manifest where (true",
    "true); attach '{folder}/new.db'; select row from manifest where (true",
    "true); install httpfs; select row from manifest where (true",
    "true); set enable_external_access = true; select row from manifest where (true",
    "true); drop view manifest; select row from manifest where (true",
    "true); create table x as select 1; select row from manifest where (true",
    "true); pragma database_list; select row from manifest where (true",
    "(select count(*) from query('copy (select 1) to ''{folder}/new.csv''')) > 0",
    "(select count(*) from sniff_csv('{file}')) > 0",
    "(select count(*) from opened) > 0",  # a variable of this program
    "getenv('HOME') != ''",
    "1",
    "row +",
    "",
    "path",
    ")",
]


@pytest.mark.parametrize("condition", READS_AND_WRITES)
def test_sql_reads_and_writes_nothing_but_the_manifest(page: Page, tmp_path: Path, condition: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    sql = condition.format(file=tmp_path / "secret.csv", folder=tmp_path)
    if condition in ("1", ""):
        assert page.get("/api/rows", sql=sql)["total"] == 17
    else:
        assert "a,b" not in page.refused("/api/rows", sql=sql)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert page.get("/api/rows", sql="row = 2", dataset="rooms")["total"] == 1


@pytest.mark.parametrize(
    ("condition", "refused"),
    [
        ("false) union all select 9223372036854775807 where (true", "expected a condition such as"),
        ("true) union all select i from range(3000000000) t(i) where (true", "expected a condition such as"),
        ("true) from range(10) t(i) where (true", "expected a condition such as"),
        ("length(repeat(path, 50000000)) > 0", "'repeat' may not be used"),
        ("length(lpad(path, 400000000, 'x')) > 0", "'lpad' may not be used"),
        ("length(replace(replace(path, 'a', path), 'a', path)) > 0", "'replace' may not be used"),
        ("len(range(200000000)) > 0", "may not be used"),
        ("null::integer[100000] is null", "type 'array' may not be used"),
        ("(select count(*) from manifest a, manifest b, manifest c) > 0", "'join' may not be used"),
        ("exists(with recursive t as (select 1) select * from t)", "'with' may not be used"),
        ("exists(select * from p)", "table 'p' may not be used"),
    ],
)
def test_sql_cannot_fill_the_memory(page: Page, condition: str, refused: str) -> None:
    assert refused in page.refused("/api/rows", sql=condition, dataset="rooms")


def test_queries_write_nothing_where_the_page_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with queries._connection({}, seconds=60, memory="30MB") as connection, pytest.raises(duckdb.OutOfMemoryException):
        connection.execute("SELECT max(i) FROM (SELECT i FROM range(3000000) t(i) ORDER BY hash(i) LIMIT 2900000)")
    assert list(tmp_path.iterdir()) == []


def test_sql_has_what_conditions_need(page: Page) -> None:
    total = page.get(
        "/api/rows", sql="lower(dataset) like '%o%' and row in (0, 1, 2) and try_cast(row as double) + 1 > 0"
    )
    larger = page.get("/api/rows", dataset="flowers", sql="row >= (select max(m.row) from manifest m)")
    assert (total["total"], larger["total"]) == (6, 1)


def test_a_query_that_takes_too_long_ends(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "QUERY_SECONDS", 0.05)
    monkeypatch.setattr(queries, "check_condition", lambda connection, condition: None)
    endless = "(select count(*) from range(1000000) a, range(1000000) b, range(1000000) c) > row"
    assert "took too long" in page.refused("/api/rows", sql=endless)
    monkeypatch.undo()
    assert "at most 4000 characters" in page.refused("/api/rows", sql="row = 1 or " * 1000 + "true")


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/img/photograph", {"dataset": "flowers", "row": 10**6}, "row 1000000 is not in 'flowers'"),
        ("/api/map", {"dataset": "flowers", "row": 0, "array": "pixels"}, "no array 'pixels' in 'flowers'"),
    ],
)
def test_what_is_not_there_is_told(page: Page, path: str, query: dict[str, object], message: str) -> None:
    assert message in page.refused(path, 404, **query)


def test_a_fault_of_ours_is_one_line_with_the_headers_of_all_answers(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(server.export, "png_of", fail)
    response = page.client.get("/export", params={"kind": "png"})
    assert (response.status_code, response.json()) == (500, {"error": "KeyError: 'gone'"})
    assert "content-security-policy" in response.headers
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/api/rows", {"limit": 10**6}, "limit: expected a number from 0 to 512"),
        ("/api/rows", {"offset": "1e9"}, "offset: expected a whole number"),
        ("/api/rows", {"sample": 10**9}, "sample: expected a number"),
        ("/api/rows", {"sort": 'row" desc; drop table x'}, "sort: no column"),
        ("/api/rows", {"status": "fine"}, "status: expected ok"),
        ("/api/rows", {"where": "__import__('os')"}, "is not understood"),
        ("/api/rows", {"where": "colour == 1"}, "unknown column 'colour'"),
        ("/api/rows", {"where": "row < 9223372036854775808"}, "more than 64 bits"),
        ("/api/rows", {"where": "view < 1" + "+1" * 1900}, "too many parts in one another"),
        ("/export", {"state": "page=row&dataset=flowers&row=x"}, "row: expected a whole number, found 'x'"),
        ("/api/rows", {"view": "first"}, "view: expected a number"),
        ("/api/map", {"dataset": "flowers", "row": "9" * 40, "array": "vit"}, "row: expected a whole number"),
        ("/api/map", {"dataset": "flowers", "row": "\N{ARABIC-INDIC DIGIT ONE}", "array": "vit"}, "a whole number"),
        ("/api/cosine", {"dataset": "flowers", "row": 0, "array": "vit", "patches": ",".join(["1"] * 5000)}, "at most"),
        ("/api/find", {"dataset": "flowers", "row": 0, "array": "vit", "patches": 1, "k": 10**9}, "k: expected"),
        ("/img/pixels", {"dataset": "flowers", "row": 0, "size": 10**9}, "size: expected a number"),
    ],
)
def test_huge_and_strange_parameters_are_refused(page: Page, path: str, query: dict[str, object], message: str) -> None:
    assert message in page.refused(path, **query)


def test_pages_beyond_the_end_are_empty(page: Page) -> None:
    assert page.get("/api/rows", offset=10**12)["rows"] == []
    assert page.get("/api/rows", offset=10**12, sort="row")["rows"] == []


def test_looking_changes_nothing(tmp_path: Path) -> None:
    cache = caches.make_cache(tmp_path / "cache")
    before = caches.contents(tmp_path, seals=True)
    page = Page(Opened(cache=cache))
    page.get("/api/overview")
    page.finished("/api/find", dataset="rooms", row=1, array="dino", patches=0)
    page.finished("/api/statistics", dataset="rooms", teacher="dino")
    page.get("/api/rows", sql="view = 1", sort="crop_top")
    assert caches.contents(tmp_path, seals=True) == before
