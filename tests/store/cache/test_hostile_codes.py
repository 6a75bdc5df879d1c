"""Whatever codes and what lies beside them claim, a cache answers with an error of ours, in bounded memory."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

import store
from store.cache.sealed_tables import small_array_bytes
from store.format import trailer
from store.format.code_schema import code_arrays, distortion_tables
from store.format.layout import checksum
from tests.store import caches
from tests.store.cache.test_hostile_metadata import (
    VALUES,
    Victim,
    blob_mutations,
    blob_of,
    paths_in,
    signed,
    with_value,
)
from tests.store.cache.test_hostile_metadata import bounded_memory as bounded_memory
from tests.store.cache.test_hostile_metadata import cache as cache

VALUES_A_PLACE = 2
CODES = "features.zarr/flowers/part/codes"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "cache"
    caches.make_cache(root, caches.DATASETS[:1], [caches.CODED_IN_PART])
    return root


def test_values_of_the_document(cache: Victim) -> None:
    chance, failures, name = random.Random(4), [], f"{CODES}/zarr.json"
    document = json.loads(cache.contents[name])
    inside = document["attributes"]["codistill"]
    for path in paths_in(inside):
        for value in chance.sample(VALUES, VALUES_A_PLACE):
            changed = with_value(document, ("attributes", "codistill", *path), value)
            failures += cache.check({name: signed(changed)}, f"{path} = {value!r}")
    for key, value in (("groups", {"prefix": [], "patch": [[8, 131072]]}), ("subset", None)):
        changed = with_value(document, ("attributes", "codistill", "code", key), value)
        failures += cache.check({name: signed(changed)}, f"{key} = {value}")
    assert failures == []


def test_values_of_the_trailer(cache: Victim) -> None:
    chance, failures, name = random.Random(5), [], f"{CODES}/c.0.0"
    layout = store.open(cache.root)["flowers"].array("part").layout
    assert layout is not None
    data, slots, index_bytes = cache.contents[name], layout.slots_bytes(0), layout.index_bytes
    blob = data[slots : -index_bytes - trailer.ENDING.size]
    changes = list(blob_mutations(blob, chance))
    length = int.from_bytes(blob[:8], "little")
    header, body = json.loads(blob[8 : 8 + length]), blob[8 + length :]
    for tensor in ("distortion", "cosine", "floor"):
        start, stop = header[tensor]["data_offsets"]
        noise = chance.randbytes(stop - start)
        changes.append((f"{tensor} of random bytes", blob[: 8 + length + start] + noise + body[stop:]))
        without = {key: value for key, value in header.items() if key != tensor}
        changes.append((f"without {tensor}", blob_of(without, body)))
    for what, changed in changes:
        ending = trailer.ENDING.pack(len(changed), checksum(changed))
        failures += cache.check({name: data[:slots] + changed + ending + data[-index_bytes:]}, what)
    assert failures == []


def test_values_of_small_arrays(cache: Victim) -> None:
    flowers = store.open(cache.root)["flowers"]
    spec = flowers.teacher("part").code
    assert spec is not None
    arrays = code_arrays("flowers", "part", spec) | distortion_tables("flowers", "part", channels=8)
    generator, failures = np.random.default_rng(6), []
    for name, array in arrays.items():
        noise = np.frombuffer(generator.bytes(array.stored_bytes - 4), array.dtype).reshape(array.shape)
        infinite = np.full(array.shape, np.inf if array.dtype.kind == "f" else -1, array.dtype)
        for what, values in (("noise", noise), ("largest", infinite)):
            failures += cache.check({array.key: small_array_bytes(values)}, f"{name}: {what}")
        failures += cache.check({array.key: b""}, f"{name}: empty")
    assert failures == []
