"""S3 through a network that fails: right bytes or a clear error, nothing partial, one winner, no credentials seen."""

import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import store
from store import errors
from store.__main__ import main
from store.format import schema
from store.storage.object_client import Address, Retries
from store.storage.object_errors import failure_of
from store.storage.object_store import ObjectStorage
from store.storage.zarr_adapter import StorageStore
from tests.store.builders import (
    fill,
    image_list,
    make_dataset,
    manifest_rows,
    pixels_of,
    read_rows,
    tokens_of,
    write_pixels,
    write_tokens,
)
from tests.store.s3_server import KEY_ID, S3, SECRET, TOKEN

SECRETS = (KEY_ID, SECRET, SECRET.replace("/", "%2F"), TOKEN, "Signature=")
HASTY = Retries(requests=1, pause=timedelta(milliseconds=1), rounds=2)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", ["slow_down", "reset", "cut", "short", "lost"])
def test_reads_survive(s3: S3, kind: str) -> None:
    fill(make_dataset(s3.location))
    dataset = store.open(s3.location)["bedlam"]
    s3.server.forget()
    s3.server.fail(kind, "GET", "pixels/c.0", times=2)
    for key in ("tokens/c.1", "list-type", "zarr.json", "tokens/c.2"):
        s3.server.fail(kind, "GET", key)
    rows = [8, 1, 5, 1]
    batch = dataset.read(rows, ["pixels", "t"], verify=False)  # the bytes must be right, not only found out to be wrong
    np.testing.assert_array_equal(batch["pixels"], [pixels_of(row) for row in rows])
    np.testing.assert_array_equal(batch["t"], [tokens_of(row) for row in rows])
    assert dataset.present("pixels") == {0, 1, 2}
    assert store.seal(s3.location).complete
    shards = [request for request in s3.server.requests if request.method == "GET" and "/c." in request.path]
    assert all("range" in request.headers for request in shards)


def test_shards_are_read_at_the_same_time_and_neighbours_together(s3: S3) -> None:
    dataset = make_dataset(s3.location)
    fill(dataset)
    store.seal(s3.location)
    dataset.read([0], ["t"])
    s3.server.forget()
    s3.server.fail("meet", "GET", "tokens/c.", times=3)
    rows = range(10)
    np.testing.assert_array_equal(dataset.read(rows, ["t"])["t"], [tokens_of(row) for row in rows])
    assert s3.server.count("GET", "tokens/c.") == 3


@pytest.mark.parametrize("kind", ["slow_down", "reset", "lost", "conflict"])
def test_writes_survive_and_know_that_they_won(s3: S3, kind: str) -> None:
    dataset = make_dataset(s3.location)
    fault = s3.server.fail(kind, "PUT", "pixels/c.0")
    assert write_pixels(dataset, 0)
    assert fault.times == 0
    assert not write_pixels(dataset, 0)
    np.testing.assert_array_equal(dataset.read_shard("pixels", 0).data, [pixels_of(row) for row in range(4)])
    s3.server.fail(kind, "PUT", "pixels_status/c.0")
    assert store.seal(s3.location).arrays[0].ok == 4


def test_an_answer_that_is_never_whole_is_an_error(s3: S3) -> None:
    storage = ObjectStorage(Address.parse(s3.location), retries=HASTY)
    storage.replace("a", bytes(100))
    s3.server.fail("short", "GET", "/a", times=99)
    with pytest.raises(errors.StorageFailed, match=r"reading 'a' failed: the answer was cut short.*Run the same"):
        storage.read_last("a", 60)
    s3.server.fail("slow_down", "HEAD", "/a", times=99)
    with pytest.raises(errors.StorageFailed, match="HTTP 503"):
        storage.exists("a")
    with pytest.raises(errors.StorageFailed, match="no bucket 'nowhere'"):
        store.create("s3://nowhere/cache", {"image_size": 1, "shard_rows": 1})
    with pytest.raises(errors.MissingCache):
        store.open("s3://nowhere/cache")


def test_of_two_writers_exactly_one_wins(s3: S3) -> None:
    dataset = make_dataset(s3.location)
    barrier = threading.Barrier(2)
    won: dict[str, bool] = {}

    def work(name: str) -> None:
        rows = dataset.shard_rows_of(0)
        with dataset.write_shard("pixels", 0, provenance={"writer": name}) as writer:
            for row in rows:
                writer.append(pixels_of(row))
            barrier.wait()
            won[name] = writer.finish(manifest_rows(dataset, rows))

    s3.server.fail("lost", "PUT", "pixels/c.0")  # whoever is first does not hear of it
    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won.values()) == [False, True]
    assert won[dataset.read_trailer("pixels", 0).provenance["writer"]]


CRASHING = """
import sys, numpy, store
from tests.store.builders import manifest_rows
dataset = store.open(sys.argv[1])["large"]
with dataset.write_shard("pixels", 0, provenance={}) as writer:
    for row in range(dataset.rows):
        writer.append(numpy.full((1024, 1024, 3), row, numpy.uint8))
    writer.finish(manifest_rows(dataset, range(dataset.rows)))
"""


def test_a_writer_killed_while_uploading_leaves_nothing(s3: S3) -> None:
    cache = store.create(s3.location, {"image_size": 1024, "shard_rows": 6})
    dataset = cache.create_dataset("large", images=image_list(6), group="people", split="train", mode="center", views=1)
    before = s3.keys()
    stalled = s3.server.fail("stall", "PUT", "pixels/c.0")
    with subprocess.Popen([sys.executable, "-c", CRASHING, s3.location], cwd=ROOT) as process:
        ended = threading.Thread(target=lambda: (process.wait(), stalled.reached.set()))
        ended.start()
        stalled.reached.wait()
        assert process.poll() is None  # it is in the middle, not at an early end
        assert dataset.present("pixels") == frozenset()
        process.send_signal(signal.SIGKILL)
    ended.join()
    stalled.release.set()
    stalled.answered.wait()
    assert dataset.present("pixels") == frozenset()
    assert s3.keys() == before

    subprocess.run([sys.executable, "-c", CRASHING, s3.location], cwd=ROOT, check=True)
    assert s3.keys() == sorted([*before, "some/cache/features.zarr/large/pixels/c.0.0.0.0"])
    assert dataset.read_shard("pixels", 0).data[:, 0, 0, 0].tolist() == list(range(6))


USES: dict[str, tuple[str, Callable[[store.Dataset, ObjectStorage], object]]] = {
    "read": ("GET", lambda dataset, _: dataset.read([1], ["pixels"])),
    "trailer": ("GET", lambda dataset, _: dataset.read_trailer("t", 1)),
    "list": ("GET", lambda dataset, _: dataset.present("t")),
    "zarr": ("GET", lambda _, storage: read_rows(storage, THEIRS, [0])),
    "parquet": ("GET", lambda dataset, _: dataset.manifest()),
    "size": ("HEAD", lambda _, storage: storage.size("seal/bedlam.t.safetensors")),
    "write": ("PUT", lambda dataset, _: write_tokens(dataset, 0)),
    "replace": ("PUT", lambda _, storage: storage.replace("x", b"x")),
    "move": ("PUT", lambda _, storage: storage.move("x", "y")),
    "delete": ("POST", lambda _, storage: storage.delete("x")),
    "seal": ("GET", lambda dataset, _: store.seal(dataset.storage.location)),
}
THEIRS = schema.parse_array(
    "theirs",
    b'{"zarr_format": 3, "node_type": "array", "shape": [1], "data_type": "int8", "attributes": {}, "fill_value": 0,'
    b'"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}}, "codecs": [{"name": "bytes"}],'
    b'"chunk_key_encoding": {"name": "default"}}',
)


@pytest.mark.parametrize("use", USES)
def test_no_credentials_in_errors_or_logs(s3: S3, use: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fill(make_dataset(s3.location))
    store.seal(s3.location)
    storage = ObjectStorage(Address.parse(s3.location), retries=HASTY)
    storage.replace("theirs/zarr.json", schema.json_bytes(THEIRS.document))
    dataset = store.open(s3.location)["bedlam"]
    dataset.read([0], ["pixels", "t"])
    shown = repr([dataset, storage.client, StorageStore(storage, "theirs")])
    method, act = USES[use]
    s3.server.fail("forbidden", method, times=99)  # the answer quotes the request's signature, as S3's does
    with pytest.raises(errors.StorageFailed, match=r"HTTP 403.*Set AWS_ACCESS_KEY_ID") as failed:
        act(dataset, storage)
    assert_silent(all_texts(failed.value) + caplog.text + shown)


def all_texts(error: BaseException | None) -> str:
    """Return an error as it is printed and kept, with whatever it came from, suppressed or not."""
    if error is None:
        return ""
    shown = "".join(traceback.format_exception(error))
    return f"{shown}{error!r}{error.args}{all_texts(error.__context__)}{all_texts(error.__cause__)}"


def assert_silent(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


def test_commands_print_errors_in_one_line(s3: S3, capfd: pytest.CaptureFixture[str]) -> None:
    make_dataset(s3.location)
    assert main(["info", s3.location]) == 0
    s3.server.fail("forbidden", "GET", times=99)
    assert main(["info", s3.location]) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith(f"error: {s3.location}: reading 'features.zarr/zarr.json' failed: access denied")
    assert main(["info", f"s3://{KEY_ID}:{SECRET}@bucket/cache"]) == 2
    assert_silent(printed.out + printed.err + "".join(capfd.readouterr()))


def test_no_answer_and_no_account(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY_ID}:{TOKEN}@127.0.0.1:9")
    with pytest.raises(errors.InvalidInput, match=r"AWS_ENDPOINT_URL .not shown. is not a plain URL") as refused:
        store.open(s3.location)
    assert_silent(all_texts(refused.value))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage = ObjectStorage(Address.parse(s3.location), retries=HASTY)
    with pytest.raises(errors.StorageFailed, match="connection refused") as failed:
        storage.read("x")
    assert_silent(all_texts(failed.value))
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(errors.StorageFailed, match=r"no account in the environment.*AZURE_"):
        store.open("az://box/cache")


def test_only_listed_words_of_a_failure_are_told() -> None:
    class GenericError(Exception):
        """Named like the client's."""

    url = "https://account.blob.core.windows.net/box/x?sv=2026&sig=topsecret"
    failure = failure_of(GenericError(f"Error performing GET {url} - status code: 500: <Code>Busy</Code> topsecret"))
    assert (failure.text, failure.passing) == ("HTTP 500 Busy", True)
    assert failure_of(GenericError("topsecret")).text == "GenericError"
    assert not failure_of(GenericError("status code: 400 <Code>top secret</Code>")).passing
