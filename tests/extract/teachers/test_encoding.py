"""Codes made on a device in torch are those of the store's encoder, and what is measured of a row is the same."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.teachers.encoding import DeviceEncoder, HostEncoder, token_encoder
from extract.teachers.options import Request
from extract.teachers.runner import TeacherRunner
from store.format import distortion
from store.format.calibration_sample import CalibrationSample
from store.format.code import Code
from store.format.code_encode import EncodedRow
from store.format.code_fit import fit_code
from tests.extract.own_teachers import spiky

CHANNELS, GRID = 32, (6, 6)
NEAR_TIES = 2e-3  # share of bytes that rounding may decide


@cache
def tokens_of(rows: int, prefix: int, seed: int) -> np.ndarray:
    """Float16 tokens whose channels are correlated, of different size, and far from zero."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((rows, prefix + 36, CHANNELS)) @ (
        np.random.default_rng(9).standard_normal((CHANNELS, CHANNELS)) * np.arange(1, CHANNELS + 1)[:, None] ** -0.5
    )
    return (mixed + np.linspace(-30, 30, CHANNELS)).astype(np.float16)


@cache
def code_of(ratio: float, prefix: int) -> Code:
    sample = CalibrationSample(
        tokens=tokens_of(120, prefix, 1), rows=np.arange(120) * 37, prefix_tokens=prefix, patch_grid=GRID
    )
    return fit_code(sample, ratio=ratio)


@pytest.mark.parametrize(("ratio", "prefix"), [(3, 1), (4, 0), (8, 1), (16, 0), (24, 0)])
def test_torch_makes_the_stores_codes(ratio: float, prefix: int) -> None:
    code = code_of(ratio, prefix)
    tokens, rows = torch.from_numpy(tokens_of(20, prefix, 2)), list(range(5000, 5020))
    host, device = (encoder.encode(tokens, rows) for encoder in (HostEncoder(code), DeviceEncoder(code, tokens.device)))
    differing = np.mean([(a.codes != b.codes).mean() for a, b in zip(host, device, strict=True)])
    assert differing < NEAR_TIES
    for a, b in zip(host, device, strict=True):
        np.testing.assert_allclose(b.moments, a.moments, rtol=1e-9)
    a, b = (distortion.merge([row.distortion for row in encoded]) for encoded in (host, device))
    for kind in distortion.KINDS:
        assert b.tokens(kind) == a.tokens(kind)
        if a.tokens(kind):
            assert b.noise(kind) == pytest.approx(a.noise(kind), rel=1e-3)
            assert b.slope(kind) == pytest.approx(a.slope(kind), abs=1e-4)
            assert b.floors(kind) == pytest.approx(a.floors(kind), rel=1e-3)
    assert np.abs(b.cosine - a.cosine).sum() <= 2 + 2 * differing * a.cosine.sum()
    decoded = [code.decode(np.stack([row.codes for row in encoded]), np.array(rows)) for encoded in (host, device)]
    assert np.array_equal(np.isnan(decoded[0]), np.isnan(decoded[1]))


def test_a_cpu_takes_the_stores_encoder() -> None:
    assert isinstance(token_encoder(code_of(4, 0), torch.device("cpu")), HostEncoder)


def test_rows_that_cannot_be_stored_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"any")
    teacher = spiky(Request(model="tests.extract.own_teachers:spiky", weights=weights))
    noted: list[list[int]] = []

    class Noting:
        def encode(self, tokens: torch.Tensor, rows: list[int]) -> list[EncodedRow]:
            noted.append(rows)
            assert torch.isfinite(tokens).all()
            return [
                EncodedRow(codes=np.array([row % 256], np.uint8), moments=np.zeros(0), distortion=distortion.empty(3))
                for row in rows
            ]

    pixels = np.full((4, 28, 28, 3), 120, np.uint8)
    pixels[1], pixels[3] = 250, 0  # overflows float16; gives a NaN
    run = TeacherRunner("t", teacher, provenance={}).for_shard(Noting(), 40)
    first, overflowing, third, unknown = run(pixels, [0, 1, 2, 3])
    assert noted == [[40, 42]]
    assert [row.codes.tolist() for row in (first, third) if isinstance(row, EncodedRow)] == [[40], [42]]
    assert "does not fit float16" in str(overflowing)
    assert "not finite" in str(unknown)
