"""One flipped bit in any file of a sealed cache is found, no reader takes it for good, and a repair undoes it."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import store
from store import errors
from store.cache import seal_record
from store.format import schema
from store.verify.repair import repair
from store.verify.verify import verify
from tests.store import bit_flips, caches, fake_recomputer
from tests.store.caches import DATASETS, TEACHERS
from tests.store.damage import flip

FLIPS_OF_A_KIND = 8
REPAIRS_OF_A_KIND = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cache; every test leaves it as it was."""
    root = tmp_path_factory.mktemp("flips") / "cache"
    caches.make_cache(root, DATASETS[:1], TEACHERS[:1], shard_rows=8)
    return root


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "features.zarr/zarr.json": partial(schema.parse_group, "g"),
    "features.zarr/flowers/zarr.json": partial(schema.parse_group, "g"),
    "features.zarr/flowers/pixels/zarr.json": partial(schema.parse_array, "a"),
    "features.zarr/flowers/dino/tokens/zarr.json": partial(schema.parse_array, "a"),
    "seal/flowers.dino.safetensors": partial(seal_record.decode_record, where="r"),
}


@pytest.mark.parametrize("key", PARSERS)
def test_every_flipped_bit_of_a_document_or_record_is_an_error(root: Path, key: str) -> None:
    data = bytearray((root / key).read_bytes())
    PARSERS[key](bytes(data))
    accepted = []
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        try:
            PARSERS[key](bytes(data))
            accepted.append(bit)
        except errors.CodistillError:
            pass
        data[bit // 8] ^= 1 << bit % 8
    assert accepted == []


def test_flipped_bits_in_all_files_are_found_and_never_read_as_good(root: Path) -> None:
    generator, expected = random.Random(12), bit_flips.contents_for_readers(root)
    assert verify(root).ok
    missed, accepted = [], []
    for kind, paths in bit_flips.files_by_kind(root).items():
        for number in range(FLIPS_OF_A_KIND):
            path, mask = generator.choice(paths), 1 << generator.randrange(8)
            offset = generator.randrange(path.stat().st_size)
            flip(path, offset, mask)
            if verify(root, quick=number % 2 == 1 and kind not in ("pixels", "tokens")).ok:
                missed.append((kind, offset, mask))
            if bit_flips.read(root, expected) == "other values":
                accepted.append((kind, offset, mask))
            flip(path, offset, mask)
    assert (missed, accepted) == ([], [])
    assert verify(root).ok


def test_a_repair_undoes_a_flipped_bit_in_all_files_but_image_lists(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_recomputer.install(tmp_path / "site", monkeypatch)
    generator, before = random.Random(7), caches.contents(root, seals=True)
    for kind, paths in bit_flips.files_by_kind(root).items():
        for _ in range(REPAIRS_OF_A_KIND if kind != "images" else 0):
            path = generator.choice(paths)
            flip(path, generator.randrange(path.stat().st_size), 1 << generator.randrange(8))
            repair(root, verify(root))
            after = caches.contents(root, seals=True)
            assert sorted(key for key in before | after if after.get(key) != before.get(key)) == [], kind
    assert not any(array.changed for array in store.seal(root).arrays)


def test_a_seal_does_not_take_over_documents_that_changed(root: Path) -> None:
    path = root / "features.zarr/flowers/dino/tokens/zarr.json"
    data, before = path.read_bytes(), caches.contents(root, seals=True)
    document = schema.parse_array("features.zarr/flowers/dino/tokens", data).document
    document["attributes"]["codistill"]["groups"] = ["scenes"]
    del document["attributes"][schema.CHECKSUM_ATTRIBUTE]
    path.write_bytes(schema.signed(document))
    with pytest.raises(errors.Damaged, match=r"tokens/zarr\.json' is not the document that was sealed"):
        store.seal(root)
    path.write_bytes(data)
    assert caches.contents(root, seals=True) == before
