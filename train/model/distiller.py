"""The student in training: an encoder and one projector per teacher.

Shapes: B images, H W pixels, N patches, P prefix tokens of a teacher (0 or 1), D student channels, C teacher channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from store import TeacherInfo
from store.errors import InvalidInput
from train.model.encoder import Encoder, build_encoder, depth, has_cls, resized_to_grid
from train.model.projectors import EncoderShape, ProjectorModule, build_projector
from train.recipe.config import Projector, Student

DEFAULT_CELL_PX = 14


class Distiller(nn.Module):
    """Encoder and projectors: predicts every teacher's tokens from an image.

    Args:
        encoder: the student itself; all that stays after training.
        projectors: name of a teacher -> its projector.
        teachers: name -> teacher, as the cache or a checkpoint describes it.
        cell_px: pixels of the stored views per cell of the teachers' patch grid. Where the encoder has another patch
            size, images are resized by the ratio, so that its grid is the teachers'.
    """

    def __init__(
        self,
        encoder: Encoder,
        projectors: Mapping[str, ProjectorModule],
        *,
        teachers: Mapping[str, TeacherInfo],
        cell_px: int = DEFAULT_CELL_PX,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.teachers = dict(sorted(teachers.items()))
        self.projectors = nn.ModuleDict({name: projectors[name] for name in self.teachers})
        self.taps_of = {name: projectors[name].taps for name in self.teachers}
        self.taps = tuple(sorted({tap for taps in self.taps_of.values() for tap in taps}))
        self.cell_px = cell_px

    def features(self, images: Tensor) -> dict[int, Tensor]:
        """Return the tokens that projectors read: CLS and patches of each tapped block, before any final norm.

        Registers have no counterpart in a teacher and are left out.

        Args:
            images: normalised float (B, 3, H, W).

        Returns:
            number of the block -> (B, 1 + N, D).
        """
        images = resized_to_grid(images, patch_size=self.encoder.patch_size, cell_px=self.cell_px)
        _, tapped = self.encoder.forward_tokens(images, taps=self.taps)
        return {tap: self._without_registers(tokens) for tap, tokens in zip(self.taps, tapped, strict=True)}

    def _without_registers(self, tokens: Tensor) -> Tensor:
        if not self.encoder.register_tokens:
            return tokens
        cls, _, patches = self.encoder.split(tokens)
        return torch.cat([cls, patches], dim=1)

    def forward(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Predict the tokens of every teacher.

        Args:
            images: normalised float (B, 3, H, W).

        Returns:
            teacher -> (prefix (B, P, C), patches (B, N, C)), in standardised units; teachers in sorted order.
        """
        return self.project(self.features(images))

    def project(self, features: Mapping[int, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Predict the tokens of every teacher, as `forward` does, from the tokens that `features` returned."""
        return {
            name: projector([features[tap] for tap in self.taps_of[name]])
            for name, projector in self.projectors.items()
        }


def build_distiller(
    *,
    student: Student,
    projector: Projector,
    teachers: Mapping[str, TeacherInfo],
    image_size: int,
    patch_grid: tuple[int, int],
    seed: int,
) -> Distiller:
    """Build a student with fresh weights that depend on `seed` alone; torch's global random state is left as it was.

    Args:
        student: section `student` of the recipe.
        projector: section `projector` of the recipe.
        teachers: name -> teacher, as the cache describes it.
        image_size: side of the stored views, px.
        patch_grid: (rows, cols) of the teachers' patch tokens.
        seed: seed of the weights.

    Raises:
        InvalidInput: no teachers, a grid that does not divide the image, or configurations that do not fit.
    """
    if not teachers:
        raise InvalidInput("a student needs at least one teacher; none was given")
    cell_px = image_size // patch_grid[0]
    if (patch_grid[0] * cell_px, patch_grid[1] * cell_px) != (image_size, image_size):
        raise InvalidInput(
            f"patch grid {patch_grid[0]}x{patch_grid[1]}: expected whole cells on views of {image_size} px"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = build_encoder(student, pos_grid=patch_grid)
        shape = encoder_shape(encoder)
        projectors = {
            name: build_projector(
                projector, encoder=shape, prefix_tokens=teacher.prefix_tokens, channels=teacher.channels
            )
            for name, teacher in sorted(teachers.items())
        }
    return Distiller(encoder, projectors, teachers=teachers, cell_px=cell_px)


def encoder_shape(encoder: Encoder) -> EncoderShape:
    """Return the sizes of an encoder that its projectors depend on."""
    return EncoderShape(
        embed_dim=encoder.embed_dim, depth=depth(encoder), num_heads=encoder.num_heads, has_cls=has_cls(encoder)
    )
