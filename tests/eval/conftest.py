"""One small cache and one short run on it, shared by the tests that only read them."""

from pathlib import Path

import pytest
import torch

from eval.runs import OpenRun, open_run
from store.cache import Cache
from tests.eval.builders import build_cache, train_run


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
