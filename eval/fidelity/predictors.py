"""What is scored against the teachers' tokens: the student, and what it must beat.

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
from train.objective.targets import Standardisation, TargetNorms, TeacherSpec

STUDENT = "student"
UNTRAINED = "before training"
MEAN = "mean token"
ROUNDING = "float16 ceiling"
LINEAR = "linear map of "
LINEAR_UNTRAINED = LINEAR + "untrained student"
LINEAR_STUDENT = LINEAR + "trained student"
BASELINES = (UNTRAINED, MEAN, LINEAR_UNTRAINED)
ORDER = (STUDENT, *BASELINES, LINEAR_STUDENT, ROUNDING)

SMALLEST = -13  # exponent of frexp below which the steps of float16 stay the same: values under 2^-14

Key = tuple[str, str]  # teacher, token type
Tokens = tuple[Tensor, Tensor]  # prefix (B, P, ...), patches (B, N, ...)


def token_types(spec: TeacherSpec) -> tuple[str, ...]:
    """The token types that a teacher gives."""
    return (PREFIX, PATCH) if spec.prefix_tokens else (PATCH,)


def split(tokens: Tensor, spec: TeacherSpec) -> dict[str, Tensor]:
    """Token type -> tokens, from (B, P + N, C) as stored."""
    parts = {PREFIX: tokens[:, : spec.prefix_tokens], PATCH: tokens[:, spec.prefix_tokens :]}
    return {kind: parts[kind] for kind in token_types(spec)}


def statistics(norms: TargetNorms, key: Key) -> Standardisation:
    """The statistics that the tokens of one teacher and type are standardised with."""
    stored = norms.stored(key[0])
    found = stored.prefix if key[1] == PREFIX else stored.patch
    if found is None:
        raise ValueError(f"teacher '{key[0]}' has no {key[1]} tokens")
    return found


def rounded_again(tokens: Tensor, *, generator: torch.Generator) -> Tensor:
    """Tokens that the stored ones may be roundings of: each moved within half a unit of its last place.

    The cache keeps float16, the teacher computed float32. How far a perfect student, one that predicts the teacher
    itself, stays from the stored targets is estimated by undoing the rounding at random.

    Args:
        tokens: (..., C) as stored, float16.
        generator: of the random part, on the tokens' device.

    Returns:
        float32 of the same shape.
    """
    values = tokens.float()
    exponent = torch.where(values == 0, SMALLEST, torch.frexp(values).exponent).clamp(min=SMALLEST)
    step = torch.ldexp(torch.ones_like(values), exponent - 11)
    return values + step * (torch.rand(values.shape, generator=generator, device=values.device) - 0.5)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was fitted on training rows.

    Attributes:
        maps: encoder name -> (teacher, token type) -> linear map from the encoder's tokens.
        directions: (teacher, token type) -> mean of the unit-length targets (C,), the constant with the best cosine.
        tokens: (teacher, token type) -> training tokens that were used.
    """

    maps: Mapping[str, Mapping[Key, LinearMap]]
    directions: Mapping[Key, Tensor]
    tokens: Mapping[Key, int]


@dataclass(kw_only=True)
class Fitting:
    """Accumulates over batches of training rows; `fitted` solves at the end."""

    encoders: Mapping[str, FrozenEncoder]
    teachers: Mapping[str, TeacherSpec]
    device: torch.device
    equations: dict[tuple[str, Key], NormalEquations] = field(default_factory=dict)
    directions: dict[Key, Tensor] = field(default_factory=dict)

    def add(self, pixels: Tensor, targets: Mapping[Key, Tensor], *, rows: Mapping[str, Tensor], folds: Tensor) -> None:
        """Take in a batch.

        Args:
            pixels: uint8 (B, H, W, 3).
            targets: standardised tokens (B, N, C) of every teacher and type.
            rows: teacher -> rows of the batch that its tokens were read for, int64.
            folds: (B,) fold of each row's image.
        """
        for key, target in targets.items():
            wanted = target[rows[key[0]]]
            unit = functional.normalize(wanted.double(), dim=-1).sum((0, 1))
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
            equations.add(inputs[chosen].flatten(0, 1), target[chosen].flatten(0, 1), fold=int(fold))

    def fitted(self) -> Fitted:
        """Solve for all maps."""
        maps: dict[str, dict[Key, LinearMap]] = {name: {} for name in self.encoders}
        tokens: dict[Key, int] = {}
        for (name, key), equations in self.equations.items():
            if equations.tokens:
                maps[name][key] = equations.solve()
                tokens[key] = equations.tokens
        return Fitted(maps=maps, directions={k: v.float() for k, v in self.directions.items()}, tokens=tokens)


def inputs_for(tokens: Tokens, token_type: str) -> Tensor:
    """What an encoder offers for a token type; one without a CLS token offers the mean of its patches."""
    prefix, patches = tokens
    if token_type == PATCH:
        return patches
    return prefix[:, :1] if prefix.shape[1] else patches.mean(1, keepdim=True)
