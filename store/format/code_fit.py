"""Fits a code to a sample of tokens: basis, sizes of groups, rotations, signs and gains; half of the images check it.

What counts is not the least error but slope 1 in every channel and an error that differs from row to row: a student
averages noise out, but never learns what a code leaves out or shrinks.

Legend: I images, N tokens, C channels (also components), U noise over signal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store import errors
from store.common import stateless_random
from store.format import books, code_sizes, distortion
from store.format.calibration_sample import (
    Basis,
    CalibrationSample,
    TokenMoments,
    principal_components,
    random_rotation,
)
from store.format.code import Code, CodeSpec
from store.format.code_encode import Encoder
from store.format.code_signs import SIGN_VECTORS, sign_number
from store.format.code_spec import MAX_GAIN
from store.format.distortion import KINDS, Distortion, Kind
from store.format.token_subset import CELL_PATCHES, TokenSubset

RATIOS = (4.0, 8.0, 16.0, 32.0)
SEED = 1
MEASURED_TOKENS = 2**16  # of patches, for gains and checks
FEWEST_IMAGES = 4
SLOPE_TOLERANCE = 0.01
NOISE_TOLERANCE = 1.1  # of held-out images over fitted ones
CHANCE = 3.0  # standard errors that few images are allowed

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RatioTrial:
    """What a ratio would do to tokens of images that the code was not fitted to.

    Attributes:
        ratio: asked for.
        code: fitted to half of the images; None where the ratio cannot be met.
        held_out: distortion of the other half.
        problem: why the ratio cannot be met or would be refused; empty if it would not.
    """

    ratio: float
    code: Code | None
    held_out: Distortion | None
    problem: str


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What codes of several ratios would do.

    Attributes:
        spectrum: variances of the components of patch tokens, descending, float64 [C]; their mean is 1.
        trials: one a ratio.
    """

    spectrum: Float64
    trials: tuple[RatioTrial, ...]


def fit_code(
    sample: CalibrationSample,
    *,
    ratio: float,
    basis: Basis = "pca",
    seed: int = SEED,
    about: Mapping[str, Any] | None = None,
) -> Code:
    """Fit a code to a sample.

    Args:
        sample: tokens of at least 4 images; for a good basis of 1,000 and of 400 tokens a channel.
        ratio: bytes of float16 tokens over those of codes, at least.
        basis: "pca", principal components in groups of similar variance, or "rotation", which needs no basis.
        seed: of rotations and signs.
        about: what else to record of the calibration; plain JSON.

    Raises:
        errors.InvalidInput: the ratio cannot be met, or the sample is too small: on half of its images the slope is not
            1, or there is much more noise than on the half that the code was fitted to.
    """
    halves = _Halves.of(sample, basis)
    trial = halves.trial(ratio, seed)
    if trial.problem or trial.held_out is None:
        raise errors.InvalidInput(trial.problem)
    calibration = {
        **(about or {}),
        "images": sample.images,
        "patch_tokens": sample.patch_tokens,
        "basis": basis,
        "seed": seed,
        "held_out": _summary(trial.held_out),
    }
    return _build(sample, halves.all_moments, ratio=ratio, basis=basis, seed=seed, calibration=calibration)


def dry_run(
    sample: CalibrationSample, ratios: Sequence[float] = RATIOS, *, basis: Basis = "pca", seed: int = SEED
) -> DryRun:
    """Return spectrum, noise and slope at several ratios, measured on half of the images; nothing is refused.

    Raises:
        errors.InvalidInput: fewer than 4 images.
    """
    halves = _Halves.of(sample, basis)
    spectrum = np.ones(sample.channels)
    if basis == "pca":
        spectrum, _ = principal_components(halves.all_moments[1])
    return DryRun(spectrum=spectrum, trials=tuple(halves.trial(ratio, seed) for ratio in ratios))


def measure(code: Code, sample: CalibrationSample, *, most: int = MEASURED_TOKENS) -> Distortion:
    """Return the distortion of about `most` patch tokens of a sample, and of all its prefix tokens."""
    return _measure(code, sample, most).distortion


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """Distortion of a sample, and how much of it is chance.

    Attributes:
        distortion: of all images.
        energies: float64 [2, I, 3], by type and image: sums over channels of z z, z z_hat and z_hat z_hat.
    """

    distortion: Distortion
    energies: Float64

    def slope_error(self, kind: Kind) -> float:
        """Return the standard error of the slope, from how it differs between images."""
        true, product, _ = self.energies[KINDS.index(kind)].T
        return _ratio_error(product, true, self.distortion.slope(kind))

    def noise_error(self, kind: Kind) -> float:
        """Return the standard error of U, from how it differs between images."""
        true, product, decoded = self.energies[KINDS.index(kind)].T
        return _ratio_error(true - 2 * product + decoded, true, self.distortion.noise(kind))


def _ratio_error(numerators: Float64, denominators: Float64, ratio: float) -> float:
    return float(np.sqrt(np.square(numerators - ratio * denominators).sum()) / denominators.sum())


def _measure(code: Code, sample: CalibrationSample, most: int) -> _Measured:
    encoder, total = Encoder(code), distortion.empty(code.channels)
    energies = np.zeros((2, sample.images, 3))
    for kind in _kinds(sample):
        for image, (row, tokens) in enumerate(sample.of_kind(kind, most=most)):
            true, _, decoded = _components(encoder, kind, row, tokens)
            sums, cosine, floor = distortion.measure(true, encoder.from_components(decoded, kind))
            total.sums[kind] += sums
            total.cosine[kind] += cosine
            total.floor[kind] += floor
            energies[kind, image] = sums.sum(axis=1)
    return _Measured(distortion=total, energies=energies)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Halves:
    """A sample in two halves of different images, with the moments of each by type."""

    sample: CalibrationSample
    basis: Basis
    fitted: tuple[TokenMoments, TokenMoments]
    held_out: tuple[TokenMoments, TokenMoments]

    @classmethod
    def of(cls, sample: CalibrationSample, basis: Basis) -> "_Halves":
        if sample.images < FEWEST_IMAGES:
            message = f"{sample.images} images are too few to calibrate a code: at least {FEWEST_IMAGES}, better 1024"
            raise errors.InvalidInput(message)
        moments = [_moments(sample.half(number), basis) for number in (0, 1)]
        return cls(sample=sample, basis=basis, fitted=moments[0], held_out=moments[1])

    @property
    def all_moments(self) -> tuple[TokenMoments, TokenMoments]:
        return self.fitted[0] + self.held_out[0], self.fitted[1] + self.held_out[1]

    def trial(self, ratio: float, seed: int) -> RatioTrial:
        half = self.sample.half(0)
        try:
            code = _build(half, self.fitted, ratio=ratio, basis=self.basis, seed=seed, calibration={})
        except errors.InvalidInput as error:
            return RatioTrial(ratio=ratio, code=None, held_out=None, problem=str(error))
        held_out = _measure(code, self.sample.half(1), MEASURED_TOKENS)
        problem = _problem(held_out, _measure(code, half, MEASURED_TOKENS), self.sample.images)
        return RatioTrial(ratio=ratio, code=code, held_out=held_out.distortion, problem=problem)


def _problem(held_out: _Measured, fitted: _Measured, images: int) -> str:
    """Return why a code is refused; empty if it is not."""
    more = (
        f"{images} images are too few or too alike. Calibrate with more images or views (1024 images are usually "
        "enough), or keep float16, without a ratio"
    )
    for kind in KINDS:
        slope, noise = held_out.distortion.slope(kind), held_out.distortion.noise(kind)
        if np.isnan(slope):
            continue
        if abs(slope - 1) > SLOPE_TOLERANCE + CHANCE * held_out.slope_error(kind):
            return (
                f"the slope of {kind} tokens is {slope:.4f} on held-out images, expected 1 +- {SLOPE_TOLERANCE}. {more}"
            )
        before = fitted.distortion.noise(kind)
        chance = CHANCE * np.hypot(held_out.noise_error(kind), fitted.noise_error(kind))
        if kind == "patch" and noise > NOISE_TOLERANCE * before + chance:
            return (
                f"the noise of patch tokens is {noise:.4g} on held-out images and {before:.4g} on fitted ones. {more}"
            )
    return ""


def _summary(held_out: Distortion) -> dict[str, Any]:
    """Return what is recorded of the held-out half."""
    kinds = [kind for kind in KINDS if held_out.tokens(kind)]
    return {
        kind: {
            "noise": held_out.noise(kind),
            "slope": held_out.slope(kind),
            "worst_slope": held_out.worst_slope(kind),
        }
        for kind in kinds
        if np.isfinite(held_out.noise(kind))
    }


def _kinds(sample: CalibrationSample) -> tuple[int, ...]:
    return (0, 1) if sample.prefix_tokens else (1,)


def _moments(sample: CalibrationSample, basis: Basis) -> tuple[TokenMoments, TokenMoments]:
    return (
        TokenMoments.of(sample, 0, products=False),
        TokenMoments.of(sample, 1, products=basis == "pca"),
    )


def _build(
    sample: CalibrationSample,
    moments: tuple[TokenMoments, TokenMoments],
    *,
    ratio: float,
    basis: Basis,
    seed: int,
    calibration: Mapping[str, Any],
) -> Code:
    """Return the code of a sample and its moments."""
    channels, grid = sample.channels, sample.patch_grid
    kept = code_sizes.kept_patches(ratio, prefix_tokens=sample.prefix_tokens, patch_grid=grid, channels=channels)
    stored = grid[0] * grid[1] if kept == CELL_PATCHES else grid[0] * grid[1] // CELL_PATCHES * kept
    record = code_sizes.record_bytes_for(ratio, sample.tokens.shape[1], sample.prefix_tokens, channels, stored=stored)
    variances, matrix = np.ones(channels), np.eye(channels)
    if basis == "pca":
        variances, matrix = principal_components(moments[1])
    groups = {
        KINDS[0]: code_sizes.prefix_groups(sample.prefix_tokens, channels),
        KINDS[1]: code_sizes.group_sizes(variances, record),
    }
    rng = np.random.default_rng(seed)
    rotations = {kind: [random_rotation(count, rng) for _, count in groups[kind]] for kind in KINDS}
    std = np.stack([part.std for part in moments])
    spec = CodeSpec(
        digest="",
        ratio=float(ratio),
        groups=groups,
        gains={kind: (1.0,) * len(groups[kind]) for kind in KINDS},
        subset=None,
        calibration=dict(calibration),
    )
    sizes = spec.book_sizes
    code = Code(
        spec=spec,
        mean=np.stack([part.mean for part in moments]).astype(np.float32),
        std=std.astype(np.float32),
        rotation=np.stack([_blocks(rotations[kind], channels) for kind in KINDS]),
        signs=np.random.default_rng(seed + 1).choice(np.array([-1, 1], np.int8), (SIGN_VECTORS, channels)),
        decoder=np.stack([np.diag(std[0]), matrix * std[1]]).astype(np.float32),
        books={size: books.load()[size] for size in sizes},
        prefix_tokens=sample.prefix_tokens,
        patch_grid=grid,
    )
    return _with_subset(_with_gains(code, sample), kept)


def _blocks(rotations: Sequence[Float64], channels: int) -> npt.NDArray[np.float32]:
    """Return the transposed rotations as blocks on the diagonal of [C, C]; the identity where there are none."""
    result = np.eye(channels) if not rotations else np.zeros((channels, channels))
    ends = np.cumsum([0, *(len(rotation) for rotation in rotations)], dtype=np.int64)
    for (first, last), rotation in zip(pairwise(ends.tolist()), rotations, strict=True):
        result[first:last, first:last] = rotation.T
    return result.astype(np.float32)


def _with_gains(code: Code, sample: CalibrationSample) -> Code:
    """Return a code without gains with those that make the slope of each group 1."""
    encoder = Encoder(code)
    gains, rotation = {kind: code.spec.gains[kind] for kind in KINDS}, code.rotation.copy()
    for kind in _kinds(sample):
        squares, products = np.zeros(code.channels), np.zeros(code.channels)
        for row, tokens in sample.of_kind(kind, most=MEASURED_TOKENS):
            _, components, decoded = _components(encoder, kind, row, tokens)
            squares += np.square(components, dtype=np.float64).sum(axis=0)
            products += (components * decoded).sum(axis=0, dtype=np.float64)
        first, found = 0, []
        for _, count in code.spec.groups[KINDS[kind]]:
            part = slice(first, first + count)
            gain = _gain(float(squares[part].sum()), float(products[part].sum()))
            rotation[kind, part, part] *= np.float32(gain)
            found.append(gain)
            first += count
        gains[KINDS[kind]] = tuple(found)
    return replace(code, spec=replace(code.spec, gains=gains), rotation=rotation).with_digest()


def _gain(square: float, product: float) -> float:
    """Return the factor that makes the slope of a group 1; 1 for one without variance."""
    return square / product if 0 < square < MAX_GAIN * product else 1.0


def _with_subset(code: Code, kept: int) -> Code:
    """Return a code that stores `kept` patches of each cell; which, depends on its digest."""
    if kept == CELL_PATCHES:
        return code
    subset = TokenSubset(kept=kept, key=stateless_random.key("tokens", code.spec.digest))
    return replace(code, spec=replace(code.spec, subset=subset)).with_digest()


def _components(
    encoder: Encoder, kind: int, row: int, tokens: npt.NDArray[np.float16]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return (standardised tokens [n, C], their components, the decoded components) of some tokens of a row."""
    code, number = encoder.code, int(sign_number(np.array([row]))[0])
    record = code.spec.prefix_record_bytes if kind == 0 else code.spec.record_bytes
    records = np.empty((len(tokens), record), np.uint8)
    true = np.asarray((tokens.astype(np.float32) - code.mean[kind]) / code.std[kind])
    encoder.encode_standardised(true, kind, number, records)
    return true, encoder.to_components(true, kind), code.components(kind, records, number)
