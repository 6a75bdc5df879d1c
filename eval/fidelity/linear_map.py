"""Linear maps from an encoder's tokens to a teacher's, fitted by ridge regression on streamed tokens.

Only the normal equations are stored, in float64, so memory holds two matrices however many tokens are added.
Shapes: N tokens, D input channels, C output channels, F folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

RIDGES = (1e-6, 1e-4, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """Linear map from tokens (..., D) to tokens @ weight + bias (..., C), float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    ridge: float

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Apply the map to (..., D) tokens."""
        return tokens.float() @ self.weight + self.bias


class NormalEquations:
    """Sums for ridge regression with an intercept, apart for each fold of images.

    With folds, the ridge is chosen by cross-validation without a second pass over the data: the error of a map on a
    fold follows from the fold's own sums.
    """

    def __init__(self, inputs: int, outputs: int, *, device: torch.device | str = "cpu", folds: int = FOLDS) -> None:
        size = inputs + 1
        self.gram = torch.zeros(folds, size, size, dtype=torch.float64, device=device)
        self.cross = torch.zeros(folds, size, outputs, dtype=torch.float64, device=device)
        self.power = torch.zeros(folds, dtype=torch.float64, device=device)

    def add(self, tokens: torch.Tensor, targets: torch.Tensor, *, fold: int) -> None:
        """Add (N, D) input tokens and their (N, C) targets to one fold (taken modulo the number of folds)."""
        fold %= len(self.gram)
        inputs = torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1).double()
        outputs = targets.double()
        self.gram[fold] += inputs.T @ inputs
        self.cross[fold] += inputs.T @ outputs
        self.power[fold] += outputs.square().sum()

    @property
    def tokens(self) -> int:
        """Number of tokens that were added."""
        return int(self.gram[:, -1, -1].sum())

    def solve(self, ridges: Sequence[float] = RIDGES) -> LinearMap:
        """Fit the map whose ridge has the least error in cross-validation over the folds.

        The intercept is never shrunk. With fewer than two folds filled the smallest ridge is taken.

        Args:
            ridges: ridges to choose from, relative to the mean variance of the input channels.
        """
        filled = [fold for fold in range(len(self.gram)) if self.gram[fold, -1, -1] > 0]
        best = min(ridges)
        if len(filled) > 1:
            errors = sum(self._validation_errors(fold, ridges) for fold in filled)
            best = ridges[int(torch.as_tensor(errors).argmin())]
        solution = _Ridge(self.gram.sum(0), self.cross.sum(0)).solve(best).float()
        return LinearMap(weight=solution[:-1], bias=solution[-1], ridge=best)

    def _validation_errors(self, fold: int, ridges: Sequence[float]) -> torch.Tensor:
        """Compute the squared error on a fold of the maps fitted on all others, float64 (ridges,)."""
        others = _Ridge(self.gram.sum(0) - self.gram[fold], self.cross.sum(0) - self.cross[fold])
        errors = []
        for ridge in ridges:
            solution = others.solve(ridge)
            quadratic = (solution * (self.gram[fold] @ solution)).sum()
            errors.append(self.power[fold] - 2 * (solution * self.cross[fold]).sum() + quadratic)
        return torch.stack(errors)


class _Ridge:
    """Ridge regression from sums, centred by the last input, which is one; decomposed once for all ridges."""

    def __init__(self, gram: torch.Tensor, cross: torch.Tensor) -> None:
        count = gram[-1, -1]
        self._mean_in, self._mean_out = gram[-1, :-1] / count, cross[-1] / count
        covariance = gram[:-1, :-1] / count - torch.outer(self._mean_in, self._mean_in)
        joint = cross[:-1] / count - torch.outer(self._mean_in, self._mean_out)
        self._scale = covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        values, self._vectors = torch.linalg.eigh(covariance)
        self._values = values.clamp_min(0)
        self._rotated = self._vectors.T @ joint

    def solve(self, ridge: float) -> torch.Tensor:
        """Return (D + 1, C) weights, the last row the intercept; `ridge` is relative to the mean input variance."""
        weight = self._vectors @ (self._rotated / (self._values + ridge * self._scale)[:, None])
        return torch.cat([weight, (self._mean_out - self._mean_in @ weight)[None]])
