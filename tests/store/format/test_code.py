"""A code by its definition: ten lines of numpy decode it, its digest covers every byte, damage has names."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import errors
from store.format.code import Code, CodeSpec
from store.format.code_fit import fit_code
from store.format.code_signs import sign_number
from store.format.distortion import KINDS
from tests.store.format.samples import correlated, sample_of

PREFIX_TOKENS, GRID, CHANNELS = 2, (4, 6), 48


@cache
def made(ratio: float = 6.0) -> Code:
    tokens = correlated(40, CHANNELS, patch_grid=(5, 6)) * 3 + np.linspace(-20, 40, CHANNELS)
    tokens = tokens[:, : PREFIX_TOKENS + 24]
    return fit_code(sample_of(tokens, prefix_tokens=PREFIX_TOKENS, patch_grid=GRID), ratio=ratio)


def decoded_by_the_document(code: Code, row_codes: np.ndarray, row: int) -> np.ndarray:
    """float32 [stored tokens, C] of a row, as docs and format define it, from what is stored alone."""
    arrays, attributes = code.arrays(), code.spec.as_attributes()
    parts_of_row = []
    for kind, name in enumerate(KINDS):
        groups = attributes["groups"][name]
        record = len(groups) + sum(n // m for m, n in groups)
        split = code.prefix_tokens * (1 + CHANNELS)
        r = (row_codes[:split] if kind == 0 else row_codes[split:]).reshape(-1, record)
        parts, first = [], len(groups)
        for j, (m, n) in enumerate(groups):
            scale = 2.0 ** (r[:, j : j + 1].astype("f4") / 16 - 8)
            parts.append(arrays[f"book_{m}"][r[:, first : first + n // m]].reshape(len(r), n) * scale)
            first += n // m
        turned = np.concatenate(parts, 1) @ arrays["rotation"][kind]
        turned = turned * arrays["signs"][(int(row) * 0x9E3779B97F4A7C15 % 2**64) >> 56]
        parts_of_row.append(turned @ arrays["decoder"][kind] + arrays["mean"][kind])
    return np.concatenate(parts_of_row)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), ratio=st.sampled_from([6.0, 18.0]), row=st.integers(0, 2**31 - 1))
def test_any_bytes_decode_to_the_finite_numbers_of_the_definition(data: st.DataObject, ratio: float, row: int) -> None:
    code = made(ratio)
    seed = data.draw(st.integers(0, 2**32))
    low, high = data.draw(st.sampled_from([(0, 256), (0, 1), (255, 256), (90, 150)]))
    codes = np.random.default_rng(seed).integers(low, high, (1, code.row_bytes), dtype=np.uint8)
    expected = decoded_by_the_document(code, codes[0], row)
    decoded = code.decode(codes, np.array([row]))[0].astype(np.float32)
    stored = code.stored_tokens(np.array([row]))
    if stored is not None:
        assert np.isnan(np.delete(decoded[PREFIX_TOKENS:], stored[0], axis=0)).all()
        decoded = np.concatenate([decoded[:PREFIX_TOKENS], decoded[PREFIX_TOKENS + stored[0]]])
    assert np.isfinite(decoded).all()
    size = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(decoded - np.clip(expected, -65504, 65504)) <= 1e-3 * size).all()


def test_a_row_is_decoded_alike_alone_among_others_and_into_a_buffer() -> None:
    code, rows = made(), np.array([7, 300, 4])
    codes = np.random.default_rng(1).integers(0, 256, (3, code.row_bytes), dtype=np.uint8)
    together = code.decode(codes, rows)
    out = np.empty((2, code.tokens, CHANNELS), np.float16)
    assert code.decode(codes[1:], rows[1:], out) is out
    np.testing.assert_array_equal(out, together[1:])


def test_rows_have_the_sign_vectors_of_the_format() -> None:
    rows = np.array([0, 1, 2, 1000, 2**31 - 1], np.int64)
    assert sign_number(rows).tolist() == [(row * 0x9E3779B97F4A7C15 % 2**64) >> 56 for row in rows.tolist()]
    numbers = sign_number(np.arange(100_000))
    assert {int(count) for count in np.bincount(numbers, minlength=256)} <= set(range(389, 394))
    apart = [np.flatnonzero(numbers == number) for number in range(256)]
    assert min(int(np.diff(rows).min()) for rows in apart) >= 144


def test_attributes_and_arrays_make_the_same_code_again() -> None:
    for code in (made(), made(18.0)):
        attributes = json.loads(json.dumps(code.spec.as_attributes()))
        spec = CodeSpec.of(attributes, "'a/zarr.json': codistill.code")
        assert spec == code.spec
        again = Code.from_arrays(spec, code.arrays(), prefix_tokens=PREFIX_TOKENS, patch_grid=GRID)
        assert again.arrays().keys() == code.arrays().keys()


@pytest.mark.parametrize("name", ["mean", "std", "rotation", "signs", "decoder", "book_1", "book_4"])
def test_the_digest_finds_any_altered_array(name: str) -> None:
    code = made()
    altered = code.arrays()[name].copy()
    altered.flat[altered.size // 3] = -altered.flat[altered.size // 3] if name != "std" else 1.25
    with pytest.raises(errors.Damaged, match=r"digest [0-9a-f]{64}, expected"):
        Code.from_arrays(code.spec, code.arrays() | {name: altered}, prefix_tokens=PREFIX_TOKENS, patch_grid=GRID)


def test_the_digest_covers_what_decoding_takes_from_the_attributes_and_nothing_else() -> None:
    code = made(18.0)
    assert code.spec.subset is not None
    gains = {**code.spec.gains, "patch": tuple(gain * 2 for gain in code.spec.gains["patch"])}
    other_key = replace(code.spec.subset, key=code.spec.subset.key ^ 1)
    for changed in (replace(code.spec, gains=gains), replace(code.spec, subset=other_key)):
        assert replace(code, spec=changed).computed_digest() != code.spec.digest
    relabelled = replace(code.spec, ratio=3.0, calibration={"images": 5})
    assert replace(code, spec=relabelled).computed_digest() == code.spec.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros((2, 5), np.float32)}, r"code/mean: expected float32 \[2, 48\], found float32 \[2, 5\]"),
        ({"signs": np.zeros((256, 48), np.int8)}, r"values of \['signs'\]"),
        ({"decoder": np.full((2, 48, 48), np.nan, np.float32)}, r"values of \['decoder'\]"),
        ({"std": np.zeros((2, 48), np.float32)}, r"values of \['std'\]"),
        ({"book_1": np.zeros((256, 1))}, r"code/book_1: expected float32 \[256, 1\], found float64"),
    ],
)
def test_arrays_that_no_code_has_are_damage(change: dict[str, np.ndarray], message: str) -> None:
    code = made()
    with pytest.raises(errors.Damaged, match=message):
        Code.from_arrays(code.spec, code.arrays() | change, prefix_tokens=PREFIX_TOKENS, patch_grid=GRID)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("digest",), "ab"),
        (("ratio",), -1),
        (("ratio",), True),
        (("groups", "patch"), []),
        (("groups", "patch"), [[3, 48]]),
        (("groups", "patch"), [[4, 46]]),
        (("groups", "patch"), [[4, 24], [2, 24]]),
        (("groups", "prefix"), [[1, 24]]),
        (("gains", "patch"), [1.0]),
        (("gains", "prefix"), [0.0]),
        (("subset",), {"cell": [2, 2], "kept": 4, "key": "0" * 16}),
        (("subset",), {"cell": [2, 4], "kept": 2, "key": "0" * 16}),
        (("calibration",), None),
    ],
)
def test_attributes_out_of_bounds_are_damage(path: tuple[str, ...], value: Any) -> None:
    attributes = json.loads(json.dumps(made().spec.as_attributes()))
    if path == ("gains", "patch"):
        value = value * (len(attributes["groups"]["patch"]) + 1)
    inner = attributes
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(errors.Damaged, match=rf"^here.*{path[-1] if path[-1] != 'prefix' else ''}.*: expected"):
        CodeSpec.of(attributes, "here")


def test_a_later_version_is_no_damage() -> None:
    attributes = json.loads(json.dumps(made().spec.as_attributes())) | {"version": 2}
    with pytest.raises(errors.UnsupportedFormat, match=r"reads up to 1\. Install a newer codistill"):
        CodeSpec.of(attributes, "here")


def test_codes_of_another_size_are_refused() -> None:
    code = made()
    with pytest.raises(errors.InvalidInput, match=r"codes are uint8 \[1, 3\], expected uint8 \[1, "):
        code.decode(np.zeros((1, 3), np.uint8), np.array([0]))
