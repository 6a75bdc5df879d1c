"""Predictors of the teachers' tokens: the student, its baselines, linear maps from encoders, the float16 ceiling.

Shapes: B images, P prefix tokens (0 or 1), N patches, D encoder channels, C teacher channels. Targets and predictions
are standardised as in training, so zero is the mean token of the training rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from eval.encoders.base import FrozenEncoder
from eval.fidelity.linear_map import LinearMap, NormalEquations
from eval.fidelity.scores import PATCH, PREFIX
from store import TeacherInfo
from train.objective.targets import Standardisation, TargetNorms

STUDENT = "student"
UNTRAINED = "before training"
MEAN = "mean token"
ROUNDING = "float16 ceiling"
CODE = "ceiling of the code"
LINEAR = "linear map of "
LINEAR_UNTRAINED = LINEAR + "untrained student"
LINEAR_STUDENT = LINEAR + "trained student"
BASELINES = (UNTRAINED, MEAN, LINEAR_UNTRAINED)
CEILINGS = (ROUNDING, CODE)  # of targets that are stored as float16, and in a code
ORDER = (STUDENT, *BASELINES, LINEAR_STUDENT, *CEILINGS)

SMALLEST_EXPONENT = -13  # exponent of frexp below which the steps of float16 stay the same: values under 2^-14

Key = tuple[str, str]  # teacher, token type
Tokens = tuple[Tensor, Tensor]  # prefix (B, P, ...), patches (B, N, ...)


def token_types(teacher: TeacherInfo) -> tuple[str, ...]:
    """List the token types of a teacher."""
    return (PREFIX, PATCH) if teacher.prefix_tokens else (PATCH,)


def split(tokens: Tensor, teacher: TeacherInfo) -> dict[str, Tensor]:
    """Split tokens (B, P + N, C) as stored: token type -> tokens."""
    parts = {PREFIX: tokens[:, : teacher.prefix_tokens], PATCH: tokens[:, teacher.prefix_tokens :]}
    return {kind: parts[kind] for kind in token_types(teacher)}


def statistics(norms: TargetNorms, key: Key) -> Standardisation:
    """Return the statistics that the tokens of one teacher and type are standardised with."""
    stored = norms.stored(key[0])
    standardisation = stored.prefix if key[1] == PREFIX else stored.patch
    if standardisation is None:
        raise ValueError(f"teacher '{key[0]}' has no {key[1]} tokens")
    return standardisation


def undo_rounding(tokens: Tensor, *, generator: torch.Generator) -> Tensor:
    """Undo the rounding of stored tokens at random: move each value within half a unit of its last place.

    The cache holds float16, the teacher computed float32. This estimates how far a perfect student, which predicts the
    teacher itself, stays from the stored targets.

    Args:
        tokens: (..., C) as stored, float16.
        generator: random generator on the tokens' device.

    Returns:
        float32 of the same shape.
    """
    values = tokens.float()
    exponent = torch.where(values == 0, SMALLEST_EXPONENT, torch.frexp(values).exponent).clamp(min=SMALLEST_EXPONENT)
    step = torch.ldexp(torch.ones_like(values), exponent - 11)
    return values + step * (torch.rand(values.shape, generator=generator, device=values.device) - 0.5)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Baselines fitted on training rows.

    Attributes:
        maps: encoder name -> (teacher, token type) -> linear map from the encoder's tokens.
        directions: (teacher, token type) -> mean of the unit-length targets (C,), the constant with the best cosine.
        tokens: (teacher, token type) -> number of training tokens.
    """

    maps: Mapping[str, Mapping[Key, LinearMap]]
    directions: Mapping[Key, Tensor]
    tokens: Mapping[Key, int]


@dataclass(kw_only=True)
class Fitting:
    """Sums over batches of training rows, which `fitted` solves at the end."""

    encoders: Mapping[str, FrozenEncoder]
    teachers: Mapping[str, TeacherInfo]
    device: torch.device
    equations: dict[tuple[str, Key], NormalEquations] = field(default_factory=dict)
    directions: dict[Key, Tensor] = field(default_factory=dict)

    def add(self, pixels: Tensor, targets: Mapping[Key, Tensor], *, rows: Mapping[str, Tensor], folds: Tensor) -> None:
        """Add a batch.

        Args:
            pixels: uint8 (B, H, W, 3).
            targets: standardised tokens (B, N, C) of every teacher and type; NaN where a code does not hold them.
            rows: teacher -> rows of the batch that its tokens were read for, int64.
            folds: (B,) fold of each row's image.
        """
        for key, target in targets.items():
            unit = functional.normalize(target[rows[key[0]]].double(), dim=-1).nansum((0, 1))
            self.directions[key] = self.directions[key] + unit if key in self.directions else unit
        for name, encoder in self.encoders.items():
            tokens = encoder(pixels)
            for key, target in targets.items():
                self._add_tokens(name, key, tokens, target=target, rows=rows[key[0]], folds=folds)

    def _add_tokens(self, name: str, key: Key, tokens: Tokens, *, target: Tensor, rows: Tensor, folds: Tensor) -> None:
        inputs = inputs_for(tokens, key[1])
        equations = self.equations.setdefault(
            (name, key), NormalEquations(inputs.shape[-1], target.shape[-1], device=self.device)
        )
        for fold in torch.unique(folds[rows]).tolist():
            chosen = rows[folds[rows] == fold]
            outputs = target[chosen].flatten(0, 1)
            held = ~outputs.isnan().any(dim=-1)
            equations.add(inputs[chosen].flatten(0, 1)[held], outputs[held], fold=int(fold))

    def fitted(self) -> Fitted:
        """Fit all maps."""
        maps: dict[str, dict[Key, LinearMap]] = {name: {} for name in self.encoders}
        tokens: dict[Key, int] = {}
        for (name, key), equations in self.equations.items():
            if equations.tokens:
                maps[name][key] = equations.solve()
                tokens[key] = equations.tokens
        return Fitted(maps=maps, directions={k: v.float() for k, v in self.directions.items()}, tokens=tokens)


def inputs_for(tokens: Tokens, token_type: str) -> Tensor:
    """Return an encoder's tokens of a token type; an encoder without a CLS token gives the mean of its patches."""
    prefix, patches = tokens
    if token_type == PATCH:
        return patches
    return prefix[:, :1] if prefix.shape[1] else patches.mean(1, keepdim=True)
