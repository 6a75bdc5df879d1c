"""Open files: one budget for all storages of a process, whatever else in it uses up the descriptors."""

import gc
import os
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from store.storage.local import LocalStorage
from store.storage.open_files import DescriptorBudget, OpenFile, process_budget, process_limit
from tests.store.builders import make_dataset, write_pixels


@contextmanager
def descriptors_left(count: int) -> Iterator[list[int]]:
    """Use up the descriptors of this process but for `count`; yields those used up, which the block may close."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64 + len(os.listdir("/proc/self/fd")), hard))
    try:
        while True:
            try:
                used.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(used.pop())
        yield used
    finally:
        for descriptor in used:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        (tmp_path / str(number)).write_bytes(bytes([number]))
    return tmp_path


def content(file: OpenFile) -> int:
    buffer = bytearray(1)
    assert file.read_into([buffer], 0, 1) == 1
    return buffer[0]


def read(storage: LocalStorage, number: int) -> int:
    with storage.open_object(str(number)) as file:
        return content(file)


def open_below(folder: Path) -> set[str]:
    links = (f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd"))
    targets = [Path(os.readlink(link)) for link in links if os.path.lexists(link)]
    return {target.name for target in targets if target.parent == folder}


def test_storages_share_one_budget_that_closes_what_was_used_longest_ago(folder: Path) -> None:
    limit = 3
    budget = DescriptorBudget(lambda: limit)
    one, other = LocalStorage(folder, budget=budget), LocalStorage(folder, budget=budget)
    for storage, number in [(one, 0), (other, 1), (one, 2), (one, 0), (other, 3)]:
        assert read(storage, number) == number
    assert open_below(folder) == {"0", "2", "3"}  # 1, of the other storage, was used longest ago
    limit = 2
    assert read(one, 4) == 4
    assert open_below(folder) == {"3", "4"}
    del other, storage
    gc.collect()
    assert open_below(folder) == {"4"}
    assert read(one, 5) == 5  # what went with its storage counts no more
    assert open_below(folder) == {"4", "5"}


def test_a_file_stays_open_while_it_is_read(folder: Path) -> None:
    storage = LocalStorage(folder, budget=DescriptorBudget(lambda: 1))
    with storage.open_object("0") as first, storage.open_object("1") as second:
        assert read(storage, 2) == 2
        storage.delete("1")
        assert (content(first), content(second)) == (0, 1)
    assert open_below(folder) <= {"0"}
    with pytest.raises(FileNotFoundError):
        read(storage, 1)


def test_the_limit_follows_that_of_the_process() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert process_limit() == 100
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
        assert process_limit() == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process_budget() is process_budget()


def test_a_shortage_from_elsewhere_is_met_by_closing_unused_files(folder: Path) -> None:
    storage = LocalStorage(folder)
    calls: list[Callable[[], object]] = [
        lambda: [read(storage, number) for number in range(12)],
        lambda: storage.read("5"),
        lambda: storage.put_if_absent("new", b"new"),
        lambda: storage.read_last("new", 2),
        lambda: storage.arrow_file("new").close(),
        lambda: storage.move("new", "below/new"),
        lambda: list(storage.list_objects("below")),
        lambda: list(storage.list_directories("")),
        lambda: storage.sweep(),
        lambda: storage.delete_all("below"),
    ]
    for call in calls:
        for number in range(4):
            read(storage, number)
        with descriptors_left(0):
            call()
    assert not storage.exists("below")


def test_with_nothing_to_close_the_error_says_what_to_do(folder: Path) -> None:
    storage = LocalStorage(folder, budget=DescriptorBudget(lambda: 100))
    with storage.open_object("0") as file, descriptors_left(0):
        with pytest.raises(OSError, match=r"too many open files: this process may have \d+, .* ulimit -n \d+"):
            read(storage, 1)
        assert content(file) == 0
    assert read(storage, 1) == 1


def test_a_reader_waits_for_the_only_descriptor_that_another_reader_has(folder: Path) -> None:
    budget = DescriptorBudget(lambda: 100)
    storage = LocalStorage(folder, budget=budget)
    waits = threading.Event()
    results: list[int] = []
    wait = budget._changed.wait

    def announced(*args: Any) -> bool:
        waits.set()
        return wait(*args)

    budget._changed.wait = announced  # type: ignore[assignment,method-assign]

    def second_reader() -> None:
        try:
            results.append(read(storage, 1))
        finally:
            waits.set()

    with descriptors_left(1):
        with storage.open_object("0"):
            thread = threading.Thread(target=second_reader)
            thread.start()
            waits.wait()
            assert results == []
        thread.join()
    assert results == [1]


def test_many_readers_share_few_descriptors(folder: Path) -> None:
    storage = LocalStorage(folder, budget=DescriptorBudget(lambda: 100))
    wrong: list[object] = []

    def reader(seed: int) -> None:
        try:
            wrong.extend(n for n in ((seed * 7 + i * 5) % 12 for i in range(300)) if read(storage, n) != n)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(8)]
    with descriptors_left(2):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_fork_while_others_read_leaves_the_child_a_working_budget(folder: Path) -> None:
    storage = LocalStorage(folder)
    reading, finish = threading.Event(), threading.Event()

    def reader() -> None:
        with storage.open_object("0"):
            reading.set()
            finish.wait()

    thread = threading.Thread(target=reader)
    thread.start()
    reading.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads
        child = os.fork()
    if child == 0:
        ok = [read(storage, number) for number in range(12)] == list(range(12))
        with descriptors_left(0):  # file 0 is read by no thread of the child
            ok = ok and [read(storage, number) for number in range(12)] == list(range(12))
        os._exit(0 if ok else 1)
    status = os.waitpid(child, 0)[1]
    finish.set()
    thread.join()
    assert status == 0


CACHES_UNDER_A_LIMIT = """
import os, resource, sys
from pathlib import Path
import numpy as np
import store
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
datasets = [store.open(location)["bedlam"] for location in sys.argv[2:]]
for dataset in datasets * 2:
    rows = np.random.default_rng(0).permutation(dataset.rows)
    pixels = dataset.read(rows, ["pixels"])["pixels"]
    assert len(pixels) == dataset.rows
held = len(os.listdir("/proc/self/fd"))
assert held < limit * 3 // 4, held
"""


@pytest.mark.parametrize(("limit", "caches"), [(64, 1), (256, 12)])
def test_caches_of_many_shards_are_read_under_a_low_limit(tmp_path: Path, limit: int, caches: int) -> None:
    dataset = make_dataset(tmp_path / "cache", images=93, views=1, shard_rows=1)
    for shard in range(93):
        write_pixels(dataset, shard)
    locations = [tmp_path / "cache"]
    for number in range(1, caches):
        locations.append(tmp_path / f"cache{number}")
        locations[-1].symlink_to(tmp_path / "cache")
    command = [sys.executable, "-c", CACHES_UNDER_A_LIMIT, str(limit), *map(str, locations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
