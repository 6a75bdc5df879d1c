"""The published training loss of MASt3R, and the criterion that it is tested with."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eval.heads.mast3r.losses.matching import Matching, average_precision, matching_loss
from eval.heads.mast3r.losses.regression import Outputs, Regression, confident, pixel_losses
from eval.heads.mast3r.losses.truth import PairTruth


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Regression weighted with confidences, plus the matching loss; the defaults are the published ones.

    Attributes:
        regression: settings of the regression.
        alpha: weight of the reward for confidence of points; None for plain means without confidences.
        matching: settings of the matching loss; None for none.
        matching_weight: its weight.
    """

    regression: Regression = field(default_factory=Regression)
    alpha: float | None = 0.2
    matching: Matching | None = field(default_factory=Matching)
    matching_weight: float = 0.075

    def __call__(
        self, outputs: Outputs, truth: PairTruth, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and its parts, which keep no gradient.

        The losses of the two views are added. Computed in float32, under any autocast.

        Args:
            outputs: outputs of the model for both views.
            truth: ground truth of the batch.
            generator: see `matching_loss`.

        Returns:
            Loss, and `regression_1`, `regression_2` (mean distances), `confident_1`, `confident_2`, `matching` (mean
            without confidences), `confident_matching`, as far as they are computed.

        Raises:
            InvalidInput: shapes that do not fit together.
        """
        with torch.autocast(outputs[0]["conf"].device.type, enabled=False):
            parts: dict[str, Tensor] = {}
            total = outputs[0]["conf"].new_zeros(())
            for number, losses in enumerate(pixel_losses(outputs, truth, self.regression), start=1):
                mean = losses.mean()
                parts[f"regression_{number}"] = mean.detach()
                if self.alpha is not None:
                    mean = confident(losses, outputs[number - 1]["conf"], alpha=self.alpha)
                    parts[f"confident_{number}"] = mean.detach()
                total = total + mean
            if self.matching is not None:
                loss, plain = matching_loss(outputs, truth, self.matching, generator=generator)
                parts |= {"matching": plain, "confident_matching": loss.detach()}
                total = total + self.matching_weight * loss
        return total, parts


VALIDATION_REGRESSION = Regression(gt_scale=True, sky_loss=0.0)


@torch.no_grad()
def validation(
    outputs: Outputs, truth: PairTruth, *, negatives: int = 0, regression: Regression = VALIDATION_REGRESSION
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the criterion of the published validation, distance minus average precision, and its parts.

    Args:
        outputs: outputs of the model for both views.
        truth: ground truth with correspondences.
        negatives: see `average_precision`.
        regression: settings of the distance.

    Raises:
        InvalidInput: see `Criterion` and `average_precision`.
    """
    distance, parts = Criterion(regression=regression, alpha=None, matching=None)(outputs, truth)
    precision = average_precision(outputs, truth, negatives=negatives)
    return distance - precision, parts | {"average_precision": precision}
