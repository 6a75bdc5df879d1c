"""One small cache and one short run on it, shared by the tests that only read them; the browser, if there is one."""

import shutil
from pathlib import Path

import pytest
import torch

from eval.runs.open_run import OpenRun, open_run
from store.cache.cache import Cache
from tests.eval.builders import build_cache, train_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NOT_RUN = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return build_cache(tmp_path_factory.mktemp("eval-cache") / "cache")


@pytest.fixture(scope="session")
def run_directory(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train_run(cache, tmp_path_factory.mktemp("eval-runs") / "first")


@pytest.fixture(scope="session")
def opened(run_directory: Path) -> OpenRun:
    return open_run(run_directory, device="cpu")


@pytest.fixture(scope="session")
def browser() -> str:
    path = _browser()
    assert path is not None
    return path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what needs a browser where there is none; `pytest_terminal_summary` says so."""
    if _browser() is not None:
        return
    waiting = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
    if waiting:
        config.stash[NOT_RUN] = [item.nodeid for item in waiting]
        items[:] = [item for item in items if item not in waiting]
        config.hook.pytest_deselected(items=waiting)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = config.stash.get(NOT_RUN, [])
    if missing:
        terminalreporter.section("NOT RUN: there is no browser here", yellow=True)
        for name in missing:
            terminalreporter.line(name)
        terminalreporter.line(f"looked for {', '.join(BROWSERS)}; for example: apt-get install chromium")


def _browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)
