"""The page in a real browser, driven as a person would: no error on its console, nothing against its own policy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

import store
from eval.view.opened import Opened
from eval.view.security import Access, access_for
from tests.eval.view.browsing import Student, click_patch, complete, maps, opened, served, stack, state
from tests.store import caches
from tests.store.caches import DatasetSpec

HOSTILE = "<img src=x onerror=document.title='owned'>"
DATASETS = (
    DatasetSpec("flowers", "generic", images=120, views=2, failed={3}, failed_tokens={"dino": {9}}),
    DatasetSpec("rooms", "scenes", images=8, split="val", first_view=3),
)
TEACHERS = (caches.TEACHERS[0], caches.CODED)  # dino, 2 x 2, and vit, 4 x 4
TRUE_ROWS = 20_700_000
NO_LIMIT_MS = 3_600_000  # a loaded machine decides nothing; pytest's own limit ends what hangs


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A small cache whose second image has a hostile name."""
    folder = tmp_path_factory.mktemp("browser")
    plain = caches.image_path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caches, "image_path", lambda name, image: f"{HOSTILE}.png" if image == 1 else plain(name, image))
        cache = caches.make_cache(folder / "cache", DATASETS, TEACHERS, shard_rows=64)
    images = caches.write_images(folder / "images", (DatasetSpec("flowers", "generic", images=1),))
    opened = Opened(cache=store.open(cache.location), runs={"night": Student()}, images={"": images})  # type: ignore[dict-item]
    yield opened
    opened.jobs.stop()


@pytest.fixture(scope="module")
def address(shown: Opened) -> Iterator[str]:
    with served(shown, access_for("127.0.0.1")) as address:
        yield address


@pytest.fixture
def guarded(shown: Opened) -> Iterator[str]:
    """The address of a server that asks for a token, with it."""
    with served(shown, Access(hosts=frozenset({"localhost"}), token="of the link")) as address:
        yield f"{address}?token=of+the+link"


@pytest.fixture(scope="module")
def chromium(browser: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def complaints() -> list[str]:
    """What pages complain of; a test takes out what it expects."""
    return []


@pytest.fixture
def window(chromium: Browser, complaints: list[str]) -> Iterator[BrowserContext]:
    """A window of 1300 px; whatever its pages complain of, unexpected, fails the test."""
    context = chromium.new_context(viewport={"width": 1300, "height": 900}, color_scheme="light")

    def listen(page: Page) -> None:
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))

    context.on("page", listen)
    context.set_default_timeout(NO_LIMIT_MS)
    expect.set_options(timeout=NO_LIMIT_MS)
    yield context
    context.close()
    assert complaints == []


def test_overview_leads_to_rows_that_failed_and_to_a_filtered_list(
    window: BrowserContext, address: str, complaints: list[str]
) -> None:
    page = opened(window, address)
    expect(page.locator("main")).to_contain_text("2 datasets with 248 rows")
    expect(page.locator(".failure")).to_contain_text(["decode", "overflow"])
    page.locator(".failure", has_text="overflow").get_by_text("show them in the grid").click()
    expect(page.locator(".cell")).to_have_count(1)
    expect(page.locator(".cell .badge")).to_have_text("dino failed")
    assert state(page) == {"page": "grid", "from": "flowers", "status": "dino:failed", "reason": state(page)["reason"]}
    page.locator("select[name=status]").select_option("")
    expect(page.locator(".status")).to_have_text("240 rows")
    page.get_by_label("Filter rows").fill("view == 1 and crop_top > 5")
    page.get_by_label("Filter rows").press("Enter")
    complete(page)
    listed = page.locator(".cell").evaluate_all("(cells) => cells.map((cell) => cell.dataset.row)")
    assert [int(row) % 2 for row in listed] == [1] * len(listed) != []
    page.locator("select[name=sort]").select_option("crop_left")
    complete(page)
    page.get_by_label("ascending; change to descending").click()
    complete(page)
    values = page.locator(".cell .caption span:last-child").all_inner_texts()
    numbers = [int(text.removeprefix("crop_left ")) for text in values]
    assert numbers == sorted(numbers, reverse=True)
    page.get_by_label("Language of the filter").select_option("SQL")
    page.get_by_label("Filter rows").fill("path like '%/11_.png' and view = 0")
    page.get_by_label("Filter rows").press("Enter")
    expect(page.locator(".status")).to_have_text("10 rows")
    page.get_by_role("button", name="Random sample").click()
    complete(page)
    drawn = page.locator(".cell").evaluate_all("(cells) => cells.map((cell) => cell.dataset.row)")
    page.reload()
    complete(page)
    assert page.locator(".cell").evaluate_all("(cells) => cells.map((cell) => cell.dataset.row)") == drawn
    page.get_by_label("Filter rows").fill("no_such_column == 1")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no_such_column")
    assert "status of 400" in complaints.pop()


def test_a_patch_chosen_in_one_map_is_compared_in_every_map(window: BrowserContext, address: str) -> None:
    page = opened(window, address, "?page=grid&from=flowers")
    page.locator('.cell[data-row="0"] .thumb').click()
    expect(page.locator("h1")).to_have_text("flowers 0")
    complete(page)
    tiles = page.locator("[data-tile]").evaluate_all("(tiles) => tiles.map((tile) => tile.dataset.tile)")
    assert tiles == ["photograph", "pixels", "dino", "vit", "student:night", "projection:night:vit"]
    assert page.locator('[data-tile="photograph"] .crop').get_attribute("width") == str(caches.IMAGE_SIZE_PX)
    before = maps(page)
    click_patch(page, "vit", 0.9, 0.1)  # of 4 x 4: number 3
    clicked = maps(page)
    assert all(clicked[name] != before[name] for name in before)
    assert (state(page)["patches"], state(page)["source"], state(page)["mode"]) == ("3", "vit", "cosine")
    click_patch(page, "dino", 0.1, 0.9)  # of 2 x 2: number 2
    assert (state(page)["patches"], state(page)["source"]) == ("2", "dino")
    outlined = page.locator('.shown:first-child [data-tile="vit"] .chosen').get_attribute("d")
    assert outlined is not None
    assert "M1 3" in outlined  # the centre of a quarter lies in line 3, column 1
    box = stack(page, "pixels").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5, steps=4)
    page.mouse.up()
    complete(page)
    assert state(page)["patches"] == "0,1"
    page.get_by_label("Put beside").fill("rooms:2")
    page.get_by_role("button", name="Add").click()
    complete(page)
    assert page.locator(".shown").count() == 2
    second = page.locator(".shown").nth(1).locator('[data-array="vit"]')
    drawn = second.evaluate("(canvas) => canvas.toDataURL()")
    click_patch(page, "vit", 0.6, 0.6)
    assert second.evaluate("(canvas) => canvas.toDataURL()") != drawn
    page.mouse.move(1, 1)  # values under the pointer are no state
    shared = opened(window, page.url)
    assert maps(shared) == maps(page)
    assert shared.locator("main").inner_text() == page.locator("main").inner_text()
    page.go_back()
    complete(page)
    assert state(page)["patches"] == "0,1"


def test_keys_step_through_rows_teachers_and_modes(window: BrowserContext, address: str) -> None:
    page = opened(window, address, "?page=row&dataset=flowers&row=7")
    smooth = maps(page)

    def press(key: str) -> dict[str, str]:
        page.keyboard.press(key)
        complete(page)
        return state(page)

    assert press("n")["row"] == "8"
    assert press("p")["row"] == "7"
    assert press("d")["draw"] == "nearest"
    assert all(drawn != smooth[name] for name, drawn in maps(page).items())
    assert [press("t").get("array") for _ in range(2)] == ["vit", "student:night"]
    assert [press("m").get("mode", "pca") for _ in range(4)] == ["norm", "outlier", "error", "pca"]
    assert press("b")["basis"] == "shown"
    stack(page, "vit").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    assert press("Enter")["patches"] == "7"  # from the centre, line 2 column 2
    expect(page.locator(".readout")).to_contain_text("norm")
    assert "patches" not in press("Escape")
    assert press("?")["row"] == "7"
    expect(page.get_by_role("dialog")).to_contain_text("next and previous row")
    press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert press("2")["page"] == "grid"
    page.locator('.cell[data-row="4"] a').focus()
    press("ArrowRight")
    page.keyboard.press("Enter")
    complete(page)
    assert (state(page)["row"], state(page)["index"]) == ("5", "5")


def test_previous_and_next_follow_the_list_that_a_row_was_opened_from(window: BrowserContext, address: str) -> None:
    page = opened(window, address, "?page=grid&from=flowers&sort=error:night:vit&order=desc")
    expect(page.locator(".status")).to_contain_text("rows; a sample of")
    complete(page)
    worst = [int(row) for row in page.locator(".cell").evaluate_all("(all) => all.map((cell) => cell.dataset.row)")]
    assert worst == sorted(worst, reverse=True)  # that student's error grows with the number of the row
    page.locator(".cell a").nth(1).click()
    expect(page.locator(".steps")).to_contain_text("2 of")
    page.get_by_text("Next").click()
    complete(page)
    assert state(page)["row"] == str(worst[2])
    page.go_back()
    page.go_back()
    page.get_by_role("button", name="Measure all 240 rows").click()
    expect(page.locator(".status")).to_have_text("240 rows")
    assert page.locator(".cell").first.get_attribute("data-row") == "239"


def test_nearest_patches_are_found_and_opened(window: BrowserContext, address: str) -> None:
    page = opened(window, address, "?page=row&dataset=flowers&row=4")
    click_patch(page, "vit", 0.4, 0.4)
    page.get_by_text("Find patches like it").click()
    complete(page)
    cosines = [
        float(text.removeprefix("cosine ")) for text in page.locator(".caption span:last-child").all_inner_texts()
    ]
    assert len(cosines) == 60
    assert cosines == sorted(cosines, reverse=True)
    assert page.locator(".cell .marks .chosen").count() == 60
    page.locator(".plus").first.click()
    page.locator(".cell a").nth(1).click()
    complete(page)
    assert state(page)["mode"] == "cosine"
    assert page.locator(".shown").count() == 2
    page.go_back()
    complete(page)
    page.get_by_role("button", name="Rows", exact=True).click()
    complete(page)
    assert state(page)["what"] == "rows"
    assert page.locator(".cell").count() > 0


def test_statistics_show_a_teachers_channels_norms_and_spectrum(window: BrowserContext, address: str) -> None:
    page = opened(window, address, "?page=statistics&array=vit")
    expect(page.locator("figcaption")).to_contain_text(["Spread", "Norms", "Spectrum", "Distance"])
    assert page.locator("circle").count() == 8
    page.locator("select[name=array]").select_option("dino")
    complete(page)
    assert page.locator("circle").count() == 6


def test_names_of_files_are_text(window: BrowserContext, address: str, complaints: list[str]) -> None:
    page = opened(window, address, "?page=grid&from=flowers")
    expect(page.locator('.cell[data-row="2"] .caption')).to_contain_text(HOSTILE)
    page.locator('.cell[data-row="2"] a').click()
    complete(page)
    expect(page.locator(".path")).to_contain_text(HOSTILE)
    page.get_by_text("What the manifest records").click()
    expect(page.locator("dl")).to_contain_text(HOSTILE)
    assert page.locator('img[src="x"]').count() == 0
    assert page.title() == "flowers 2 \N{MIDDLE DOT} codistill view"
    page.goto(f"{address}?page=row&dataset={HOSTILE}&row=1")
    expect(page.get_by_role("alert")).to_contain_text(HOSTILE)
    assert "status of 404" in complaints.pop()


def test_a_token_goes_with_every_request(window: BrowserContext, guarded: str, tmp_path: Path) -> None:
    page = opened(window, guarded, "&page=row&dataset=flowers&row=4&patches=5&source=vit&mode=cosine")
    assert len(set(maps(page).values())) > 1
    broken = "(all) => all.filter((one) => !one.complete || one.naturalWidth === 0).length"
    assert page.locator("main img").evaluate_all(broken) == 0
    page.get_by_text("all rows").click()
    complete(page)
    assert state(page)["token"] == "of the link"
    with page.expect_download() as download:
        page.get_by_text("Export").click()
        page.get_by_text("HTML file").click()
    assert "of the link" not in download.value.path().read_text()


def test_twenty_million_rows_scroll(window: BrowserContext, address: str) -> None:
    page = window.new_page()

    def rows(route: Any) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        first, limit = int(query["offset"][0]), int(query["limit"][0])
        listed = range(first, min(first + limit, TRUE_ROWS))
        row = {"dataset": "flowers", "image": "a.png", "view": 0, "status": {}, "sort_value": None}
        route.fulfill(json={"total": TRUE_ROWS, "rows": [row | {"row": number} for number in listed]})

    page.route("**/api/rows?*", rows)
    page.route("**/img/pixels?*", lambda route: route.fulfill(body=b"", content_type="image/png"))
    page.goto(f"{address}?page=grid")
    complete(page)
    expect(page.locator(".status")).to_have_text("20,700,000 rows")
    box = page.locator(".scroller")
    top = '() => Math.min(...[...document.querySelectorAll(".cell[data-row]")].map((cell) => Number(cell.dataset.row)))'
    box.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    expect(page.locator(f'.cell[data-row="{TRUE_ROWS - 1}"]')).to_be_visible()
    box.evaluate("(box) => { box.scrollTop = box.scrollHeight / 2; }")
    expect(page.locator(f'.cell[data-row="{TRUE_ROWS - 1}"]')).to_have_count(0)
    page.wait_for_url(lambda url: int(parse_qs(urlsplit(url).query).get("at", [str(TRUE_ROWS)])[0]) < TRUE_ROWS - 1000)
    middle = int(state(page)["at"])
    assert abs(middle - TRUE_ROWS / 2) < TRUE_ROWS / 100
    cell = page.locator(f'.cell[data-row="{middle + 8}"]')
    before = cell.bounding_box()
    box.evaluate(
        "(box) => { window.rest = new Promise((done) => box.addEventListener('scrollend', done, { once: true })); }"
    )
    page.mouse.move(600, 600)
    page.mouse.wheel(0, 100)  # a notch of the wheel moves as far as on any page
    page.evaluate("() => window.rest.then(() => null)")
    after = cell.bounding_box()
    assert before is not None
    assert after is not None
    assert abs(before["y"] - after["y"] - 100) <= 1
    assert page.locator(".cell").count() < 120
    shared = window.new_page()
    shared.route("**/api/rows?*", rows)
    shared.route("**/img/pixels?*", lambda route: route.fulfill(body=b"", content_type="image/png"))
    shared.goto(page.url)
    complete(shared)
    expect(shared.locator(f'.cell[data-row="{state(shared)["at"]}"]')).to_be_visible()
    assert shared.evaluate(top) > TRUE_ROWS / 3


def test_every_page_fits_a_narrow_window_in_dark_and_light(window: BrowserContext, address: str) -> None:
    page = window.new_page()
    page.set_viewport_size({"width": 600, "height": 900})
    page.emulate_media(color_scheme="dark")
    row = "dataset=flowers&row=4"
    for query in (
        "",
        "?page=grid",
        f"?page=row&{row}&beside=rooms:1",
        f"?page=find&{row}&what=rows",
        "?page=statistics",
    ):
        page.goto(address + query)
        complete(page)
        assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
            query
        )
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light").click()
    assert state(page)["theme"] == "light"
    assert page.evaluate(ground) != dark
    complete(page)


def test_an_exported_view_works_without_a_server(window: BrowserContext, address: str, tmp_path: Path) -> None:
    page = opened(window, address, "?page=row&dataset=flowers&row=4&beside=rooms:1&patches=5&source=vit&mode=cosine")
    page.get_by_text("Export").click()
    with page.expect_download() as download:
        page.get_by_text("HTML file").click()
    download.value.save_as(tmp_path / "row.html")
    exported = (
        "?",
        "?page=grid&overlay=vit",
        "?page=find&dataset=flowers&row=4&patches=5&source=vit",
        "?page=statistics",
    )
    for number, query in enumerate(exported):
        answer = window.request.get(f"{address}export", params={"state": query, "kind": "html"})
        (tmp_path / f"{number}.html").write_bytes(answer.body())
    offline = window.new_page()
    for file in sorted(tmp_path.iterdir(), reverse=True):
        offline.goto(file.as_uri())
        complete(offline)
        assert offline.locator("[role=alert]").count() == 0, file
        broken = "(all) => all.filter((one) => !one.complete || one.naturalWidth === 0).length"
        assert offline.locator("main img").evaluate_all(broken) == 0, file
        assert offline.locator("main img, main svg, main table").count() > 0, file
        if file.name == "row.html":
            assert maps(offline) == maps(page)
            offline.keyboard.press("d")
            complete(offline)
            nearest = "(all) => all.every((one) => one.dataset.drawing === 'nearest')"
            assert offline.locator("canvas.map").evaluate_all(nearest)
            offline.get_by_text("Error", exact=True).click()
            complete(offline)
            expect(offline.locator('.shown:first-child [data-tile="vit"]')).to_contain_text("1 - cosine")
