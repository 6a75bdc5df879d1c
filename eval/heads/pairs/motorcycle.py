"""The stereo motorcycle that scikit-image ships, with its metric geometry: one real pair without a download.

Of the 2014 stereo set of Middlebury, at a quarter of its size (741 x 500). The disparity belongs to the left image: a
left pixel at x is at x - disparity in the right one, and its depth is f B / (disparity + doffs).
"""

from dataclasses import dataclass

import numpy as np

from eval.heads.pairs.views import Pair, View, checked_view
from store.errors import MissingExtra

FOCAL_PX = 994.978
LEFT_CENTRE_PX = 311.193, 254.877
DOFFS_PX = 31.086  # principal point of the right camera minus that of the left one, along x
BASELINE_M = 0.193001


@dataclass(frozen=True, kw_only=True)
class MotorcyclePair:
    """The one pair, left view first.

    Attributes:
        name: name of the dataset.
    """

    name: str = "motorcycle"

    def __len__(self) -> int:
        return 1

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """See `PairDataset.pair`; `rng` is not used."""
        try:
            from skimage import data
        except ImportError:
            raise MissingExtra("'skimage' is not installed. Run: pip install 'codistill[demo]'") from None
        left, right, disparity = data.stereo_motorcycle()  # type: ignore[no-untyped-call]
        known = np.isfinite(disparity)
        right_disparity = disparity_of_right(np.where(known, disparity, 0), known)
        return self._view("left", left, disparity), self._view("right", right, right_disparity)

    def _view(self, side: str, image: np.ndarray, disparity: np.ndarray) -> View:
        pose = np.eye(4)
        pose[0, 3] = BASELINE_M if side == "right" else 0
        x, y = LEFT_CENTRE_PX
        x += DOFFS_PX if side == "right" else 0
        known = np.isfinite(disparity)
        return checked_view(
            image=image,
            depthmap=np.where(known, FOCAL_PX * BASELINE_M / (np.where(known, disparity, 0) + DOFFS_PX), 0),
            camera_pose=pose,
            intrinsics=np.array([[FOCAL_PX, 0, x], [0, FOCAL_PX, y], [0, 0, 1]]),
            is_metric=True,
            dataset=self.name,
            label="motorcycle",
            instance=side,
        )


def disparity_of_right(disparity: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Move the disparity of the left image to the pixels of the right one; the nearer surface hides the farther.

    Args:
        disparity: (H, W), pixels.
        known: bool (H, W).

    Returns:
        float64 (H, W); NaN where no left pixel lands.
    """
    rows, columns = np.nonzero(known)
    moved = disparity[rows, columns].astype(np.float64)
    target = np.rint(columns - moved).astype(np.int64)
    inside = (target >= 0) & (target < disparity.shape[1])
    nearest = np.full(disparity.shape, -np.inf)
    np.maximum.at(nearest, (rows[inside], target[inside]), moved[inside])
    return np.where(np.isfinite(nearest), nearest, np.nan)
