"""Codes decoded on the device against the store's own decoding; what half precision may touch and what it may not."""

import numpy as np
import pytest
import torch

from store.format.code import Code
from store.format.code_signs import sign_number
from tests.train.codes import encode, fit, tokens_like_a_teachers
from train.objective import decode
from train.objective.decode import Decoder, sign_numbers
from train.objective.losses import teacher_loss
from train.objective.targets import Standardisation, TeacherNorm
from train.recipe.config import Loss

ROWS = np.array([0, 5, 255, 256, 70_001, 2**40 + 3])


def norm_of(tokens: np.ndarray, *, prefix: int) -> TeacherNorm:
    """Statistics of tokens that differ a little from those of any code: another mean, another deviation."""
    values = torch.from_numpy(tokens.astype(np.float32))

    def statistics(part: torch.Tensor) -> Standardisation:
        std = part.std((0, 1))
        return Standardisation(part.mean((0, 1)) + 0.1 * std, 1.2 * std)

    return TeacherNorm(statistics(values[:, :prefix]) if prefix else None, statistics(values[:, prefix:]))


def reference(code: Code, codes: np.ndarray, rows: np.ndarray, norm: TeacherNorm) -> np.ndarray:
    """Standardised tokens in float64 from the store's components, which are rounded to no float16."""
    decoded = []
    for row, number in zip(codes, sign_number(rows), strict=True):
        parts = []
        for kind, records in code.records(row):
            tokens = code.components(kind, records, int(number)).astype(np.float64) @ code.decoder[kind]
            statistics = (norm.prefix, norm.patch)[kind]
            assert statistics is not None
            parts.append((tokens + code.mean[kind] - statistics.mean.numpy()) / statistics.std.numpy())
        decoded.append(np.concatenate(parts))
    return np.stack(decoded)


@pytest.mark.parametrize(("ratio", "prefix", "channels"), [(4, 1, 48), (8, 0, 40), (12, 1, 64), (30, 1, 96)])
def test_decoded_targets_are_those_of_the_store(
    ratio: float, prefix: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where images are decoded in pieces, and of a code that does not hold all patches."""
    tokens = tokens_like_a_teachers(64, channels=channels, prefix=prefix)
    code, norm = fit(tokens, ratio=ratio, prefix=prefix), norm_of(tokens, prefix=prefix)
    codes = encode(code, tokens[: len(ROWS)], ROWS)
    monkeypatch.setattr(decode, "CPU_CHUNK_ELEMENTS", 2 * code.patches * channels)
    found = Decoder(code, norm).standardised(torch.from_numpy(codes), torch.from_numpy(ROWS)).numpy()
    assert np.abs(found - reference(code, codes, ROWS, norm)).max() < 1e-4

    read = code.decode(codes, ROWS).astype(np.float32)
    if code.spec.subset is not None:
        stored = code.stored_tokens(ROWS)
        assert stored is not None
        positions = np.concatenate([np.zeros((len(ROWS), prefix), np.int64), prefix + stored], axis=1)
        read = np.take_along_axis(read, positions[..., None], axis=1)
    assert (ratio == 30) == (code.spec.subset is not None)
    for place, statistics in ((np.s_[:, :prefix], norm.prefix), (np.s_[:, prefix:], norm.patch)):
        if statistics is not None:
            expected = (read[place] - statistics.mean.numpy()) / statistics.std.numpy()
            rounding = np.abs(read[place]) * 2.0**-11 / statistics.std.numpy()
            assert (np.abs(found[place] - expected) < rounding + 1e-4).all()


def test_signs_are_those_of_the_store() -> None:
    rows = np.concatenate([np.arange(3000), np.array([2**31, 2**40 + 7, 2**62])])
    assert np.array_equal(sign_numbers(torch.from_numpy(rows)).numpy(), sign_number(rows))


def test_the_mean_never_passes_through_half_precision() -> None:
    """With means of 50 deviations products in bf16 shift no channel; a mean that is rounded to bf16 does."""
    tokens = tokens_like_a_teachers(400, channels=64, prefix=1, means=50.0)
    code, exact = fit(tokens[:64], ratio=12, prefix=1), norm_of(tokens, prefix=1)
    norm = TeacherNorm(exact.prefix, Standardisation(exact.patch.mean / 2, exact.patch.std))  # a shift of 25 deviations
    rows = np.arange(len(tokens)) * 7
    codes, numbers = torch.from_numpy(encode(code, tokens, rows)), torch.from_numpy(rows)
    true = Decoder(code, norm, dtype=torch.float32).standardised(codes, numbers)[:, 1:]
    half = Decoder(code, norm, dtype=torch.bfloat16)
    rounded = half.standardised(codes, numbers)[:, 1:]
    assert rounded.dtype == torch.float32
    bias = (rounded - true).double().mean((0, 1)).abs()
    assert bias.max() <= 5e-4
    noise = (rounded - true).double().square().mean() / (true - half.patch.offset).double().square().mean()
    assert noise <= 1e-4
    through_half = (half(codes, numbers).patch + half.patch.offset.bfloat16()).float()
    assert (through_half - true).double().mean((0, 1)).abs().max() > 0.01  # the control

    prediction = (torch.zeros(len(rows), 1, 64), torch.zeros(len(rows), 36, 64))
    losses = [
        teacher_loss(prediction, decoder(codes, numbers), norm=decoder.shift, weights=Loss()).per_image.mean()
        for decoder in (Decoder(code, norm, dtype=torch.float32), half)
    ]
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-5)
