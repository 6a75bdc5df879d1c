"""What `codistill store info` shows of tokens that are stored in a code: their size, and what the code does to them."""

import math
from dataclasses import dataclass

from store import errors
from store.cache.dataset import Dataset
from store.format.distortion import Distortion, Kind


@dataclass(frozen=True, kw_only=True)
class CodeQuality:
    """Distortion of tokens of one type, as sealed.

    Attributes:
        noise: variance of the code's noise over that of the tokens, U.
        slope: slope of decoded on true values, over all channels.
        worst_slope: slope of the channel that is farthest from 1.
        cosine_mean: mean cosine of decoded and true tokens.
        cosine_p1: its 1st percentile.
        cosine_floor, smooth_l1_floor: means of 1 - cosine and of smooth-L1 between decoded and true tokens.
    """

    noise: float
    slope: float
    worst_slope: float
    cosine_mean: float
    cosine_p1: float
    cosine_floor: float
    smooth_l1_floor: float

    @classmethod
    def of(cls, distortion: Distortion, kind: Kind) -> "CodeQuality | None":
        """Return the quality for tokens of one type; None where there are none."""
        cosine_floor, smooth_l1_floor = distortion.floors(kind)
        quality = cls(
            noise=distortion.noise(kind),
            slope=distortion.slope(kind),
            worst_slope=distortion.worst_slope(kind),
            cosine_mean=distortion.cosine_mean(kind),
            cosine_p1=distortion.cosine_percentile(kind, 1),
            cosine_floor=cosine_floor,
            smooth_l1_floor=smooth_l1_floor,
        )
        return quality if all(math.isfinite(value) for value in vars(quality).values()) else None


@dataclass(frozen=True, kw_only=True)
class CodeInfo:
    """A code that the tokens of a dataset are stored in.

    Attributes:
        ratio: bytes of float16 tokens over those of codes, as asked for.
        row_bytes: bytes of a row of codes.
        stored_patches, patches: patches of a row that are stored, and all of them.
        digest: digest of the code.
        prefix, patch: distortion by type of token; None where there are none, or no seal.
    """

    ratio: float
    row_bytes: int
    stored_patches: int
    patches: int
    digest: str
    prefix: CodeQuality | None
    patch: CodeQuality | None


def code_info(dataset: Dataset, array: str) -> CodeInfo | None:
    """Return what is known of the code of an array; None for pixels and float16 tokens."""
    try:
        info = dataset.teacher(array)
    except (errors.MissingName, errors.UnsupportedFormat, errors.Conflict):  # pixels, others' arrays, two networks
        return None
    if info.code is None:
        return None
    try:
        sealed = dataset.distortion(array)
    except (errors.NotSealed, errors.Damaged):  # damage is noted with the rows, and found by `verify`
        sealed = None
    return CodeInfo(
        ratio=info.code.ratio,
        row_bytes=info.code.row_bytes(info.prefix_tokens, info.patches),
        stored_patches=info.code.stored_patches(info.patches),
        patches=info.patches,
        digest=info.code.digest,
        prefix=None if sealed is None else CodeQuality.of(sealed, "prefix"),
        patch=None if sealed is None else CodeQuality.of(sealed, "patch"),
    )
