"""Calibration keeps its promises on tokens that it never saw, and refuses samples that it cannot learn from."""

import numpy as np
import pytest

from store import errors
from store.format import code_fit
from store.format.calibration_sample import CalibrationSample
from store.format.code_fit import dry_run, fit_code, measure
from tests.store.format.samples import correlated, gaussian, sample_of

FLAT_NOISE = {4.0: 0.0100, 8.0: 0.123, 16.0: 0.55}


@pytest.mark.parametrize("ratio", sorted(FLAT_NOISE))
def test_flat_tokens_of_many_channels_have_the_noise_of_the_books(ratio: float) -> None:
    everything = gaussian(260, 512, patch_grid=(6, 6))
    calibration, others = everything.half(0), everything.half(1)
    code = fit_code(calibration, ratio=ratio, basis="rotation")
    measured = measure(code, others)
    assert measured.noise("patch") <= FLAT_NOISE[ratio] * 1.02  # scales take a larger share than of 1,024 channels
    assert measured.slope("patch") == pytest.approx(1, abs=0.002)
    assert measured.tokens("patch") == others.patch_tokens


@pytest.mark.parametrize(("ratio", "worst"), [(8.0, 0.05), (16.0, 0.08)])
def test_the_slope_is_1_in_every_channel_also_with_outliers(ratio: float, worst: float) -> None:
    """The 2 % of large tokens hold nine tenths of the variance: 640 tokens decide, and at 16x by chance up to 3 %."""
    tokens = correlated(1000, 48, patch_grid=(8, 8))
    rng = np.random.default_rng(3)
    tokens[rng.random(tokens.shape[:2]) < 0.02] *= 20
    tokens[..., rng.choice(48, 3, replace=False)] *= 50
    everything = sample_of(tokens, prefix_tokens=0, patch_grid=(8, 8))
    calibration, others = everything.half(0), everything.half(1)
    measured = measure(fit_code(calibration, ratio=ratio), others)
    assert measured.tokens("patch") > 8000
    assert measured.slope("patch") == pytest.approx(1, abs=0.01)
    assert np.abs(measured.channel_slopes("patch") - 1).max() <= worst


def test_a_steep_spectrum_has_less_noise_in_its_basis_than_without() -> None:
    sample = sample_of(correlated(200, 64, patch_grid=(6, 6)), prefix_tokens=0, patch_grid=(6, 6))
    noise = {
        basis: measure(fit_code(sample, ratio=12, basis=basis), sample).noise("patch")  # type: ignore[arg-type]
        for basis in ("pca", "rotation")
    }
    assert noise["pca"] < 0.4 * noise["rotation"]


def test_prefix_tokens_are_almost_exact() -> None:
    """Correlated channels of low rank, some 50 x as wide, far from 0, of very different norms."""
    rng = np.random.default_rng(5)
    images, channels = 600, 256
    low_rank = rng.standard_normal((images, 24)) @ rng.standard_normal((24, channels))
    low_rank *= np.exp(rng.standard_normal((images, 1)) * 0.5)
    prefix = (low_rank + 0.1 * rng.standard_normal((images, channels))) * np.where(np.arange(channels) % 40, 1, 50) + 80
    patches = rng.standard_normal((images, 4, channels))
    tokens = np.concatenate([prefix[:, None], patches], axis=1)
    everything = sample_of(tokens, prefix_tokens=1, patch_grid=(2, 2))
    measured = measure(fit_code(everything.half(0), ratio=2.5, basis="rotation"), everything.half(1))
    assert measured.noise("prefix") <= 2e-4
    assert measured.slope("prefix") == pytest.approx(1, abs=1e-3)
    assert measured.cosine_mean("prefix") >= 0.9999
    assert measured.cosine_percentile("prefix", 1) >= 1 - 2 / 128  # its histogram's last bin


def test_a_dead_channel_and_a_constant_one_stay_what_they_are() -> None:
    tokens = correlated(100, 32, patch_grid=(4, 4))
    tokens[..., 3], tokens[..., 7] = 0.0, 12.5
    sample = sample_of(tokens, prefix_tokens=0, patch_grid=(4, 4))
    code = fit_code(sample, ratio=4)
    codes, _ = code_fit.Encoder(code).encode(sample.tokens[:2], sample.rows[:2])
    decoded = code.decode(codes, sample.rows[:2]).astype(np.float64)
    assert np.abs(decoded[..., 3]).max() < 0.01
    assert np.abs(decoded[..., 7] - 12.5).max() < 0.02


def test_the_same_sample_gives_the_same_code_and_another_seed_another() -> None:
    sample = gaussian(40, 16, patch_grid=(4, 4), prefix_tokens=1)
    first, second = (fit_code(sample, ratio=3, about={"images_of": "people"}) for _ in range(2))
    assert first.spec == second.spec
    assert first.spec.calibration["images_of"] == "people"
    assert fit_code(sample, ratio=3, seed=9).spec.digest != first.spec.digest


def test_too_few_images_are_refused() -> None:
    sample = gaussian(3, 16, patch_grid=(4, 4))
    with pytest.raises(errors.InvalidInput, match="3 images are too few to calibrate a code: at least 4"):
        fit_code(sample, ratio=4)


def test_a_basis_that_fits_only_its_own_images_is_refused() -> None:
    tokens = correlated(16, 128, patch_grid=(4, 4), power=0.5)
    image_offsets = np.random.default_rng(1).standard_normal((16, 1, 128)) * 3  # as many directions as images
    sample = sample_of(tokens + image_offsets, prefix_tokens=0, patch_grid=(4, 4))
    with pytest.raises(
        errors.InvalidInput, match=r"noise of patch tokens is .* on held-out images and .*16 images are"
    ):
        fit_code(sample, ratio=16)


def test_tokens_that_drift_between_images_are_refused_by_their_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_fit, "_gain", lambda square, product: 0.97 * square / product)
    with pytest.raises(
        errors.InvalidInput, match=r"slope of patch tokens is 0.9[67]\d* on held-out images, expected 1"
    ):
        fit_code(gaussian(80, 64, patch_grid=(6, 6)), ratio=8, basis="rotation")


def test_a_dry_run_tells_each_ratio_and_which_cannot_be() -> None:
    sample = sample_of(correlated(120, 64, patch_grid=(5, 5)), prefix_tokens=0, patch_grid=(5, 5))
    result = dry_run(sample)
    assert (np.diff(result.spectrum) <= 0).all()
    assert result.spectrum.mean() == pytest.approx(1, abs=1e-6)
    noises = [trial.held_out.noise("patch") for trial in result.trials if trial.held_out is not None]
    assert len(noises) == 3
    assert noises == sorted(noises)
    assert "ratio 32 cannot be met by 5 x 5 patches" in result.trials[3].problem


def test_a_sample_of_other_shape_is_refused() -> None:
    with pytest.raises(
        errors.InvalidInput, match=r"found|are float16 \[2, 5, 3\], expected float16 \[2, 17, channels\]"
    ):
        CalibrationSample(tokens=np.zeros((2, 5, 3), np.float16), rows=np.arange(2), prefix_tokens=1, patch_grid=(4, 4))
