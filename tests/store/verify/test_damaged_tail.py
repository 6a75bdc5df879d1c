"""Correcting a byte by its checksum, and reading trailers from either end."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.format.layout import checksum
from store.verify.damaged_tail import corrected, read_tail
from store.verify.problems import Kind

INDEX_BYTES = 20


@given(st.binary(min_size=1, max_size=3000), st.data())
def test_one_wrong_byte_is_corrected(blob: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(blob) - 1))
    wrong = bytearray(blob)
    wrong[position] ^= data.draw(st.integers(1, 255))
    assert corrected(bytes(wrong), checksum(blob)) == blob


def test_two_wrong_bytes_far_apart_are_not_corrected() -> None:
    generator = random.Random(0)
    for _ in range(50):
        blob = generator.randbytes(1000)
        wrong = bytearray(blob)
        wrong[10] ^= generator.randrange(1, 256)
        wrong[900] ^= generator.randrange(1, 256)
        assert corrected(bytes(wrong), checksum(blob)) is None


@pytest.mark.parametrize("length", [0, 5, 31, 32, 500])
def test_noise_is_reported_as_damage(length: int) -> None:
    tail = read_tail(random.Random(1).randbytes(length), index_bytes=INDEX_BYTES)
    assert tail.trailer is None
    ((kind, _),) = tail.damage
    assert kind is Kind.OBJECT_SIZE
