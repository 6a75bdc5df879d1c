"""Shape of a teacher's tokens, and the bytes of a row of them: in float16, or as codes of a ratio."""

from dataclasses import dataclass
from pathlib import Path

from extract.catalogue import Catalogue, TeacherEntry
from extract.teachers.options import STUDENT_PATCH_PX
from extract.teachers.registry import known_teachers
from store import Cache, errors
from store.format import code_sizes, code_spec
from store.format.layout import CHECKSUM_BYTES
from store.format.token_subset import CELL_PATCHES

FLOAT16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class TokenShape:
    """Shape of a teacher's tokens of one row.

    Attributes:
        prefix_tokens: tokens before the patches.
        patch_grid: (rows, cols) of patch tokens.
        channels: values of a token.
    """

    prefix_tokens: int
    patch_grid: tuple[int, int]
    channels: int

    @property
    def tokens(self) -> int:
        return self.prefix_tokens + self.patch_grid[0] * self.patch_grid[1]

    def row_bytes(self, ratio: float | None) -> int:
        """Return the stored bytes of a row, checksum included; of codes the most that the ratio allows.

        Args:
            ratio: float16 bytes over stored bytes; None for float16.

        Raises:
            errors.InvalidInput: no code of this ratio exists for these tokens.
        """
        if ratio is None:
            return self.tokens * self.channels * FLOAT16_BYTES + CHECKSUM_BYTES
        prefix, channels, patches = self.prefix_tokens, self.channels, self.tokens - self.prefix_tokens
        kept = code_sizes.kept_patches(ratio, prefix_tokens=prefix, patch_grid=self.patch_grid, channels=channels)
        stored = patches * kept // CELL_PATCHES
        record = code_sizes.record_bytes_for(ratio, self.tokens, prefix, channels, stored=stored)
        prefix_bytes = prefix * code_spec.record_bytes(code_sizes.prefix_groups(prefix, channels))
        return prefix_bytes + stored * record + CHECKSUM_BYTES

    def row_bytes_or_none(self, ratio: float | None) -> int | None:
        """Return `row_bytes`; None if no code of this ratio exists for these tokens."""
        try:
            return self.row_bytes(ratio)
        except errors.InvalidInput:
            return None


def token_shape(catalogue: Catalogue, teacher: TeacherEntry, cache: Cache | None) -> TokenShape | None:
    """Return the shape of a teacher's tokens: from the cache, from the list of known teachers, or from its weights.

    Returns:
        None if the weights are not here and the name of their file is unknown.
    """
    for dataset in cache or ():
        if teacher.name in dataset.teachers:
            stored = dataset.teacher(teacher.name)
            return TokenShape(
                prefix_tokens=stored.prefix_tokens, patch_grid=stored.patch_grid, channels=stored.channels
            )
    side = catalogue.recipe.image_size // STUDENT_PATCH_PX
    for known in known_teachers():
        if Path(known.file).name == teacher.weights.name:
            return TokenShape(prefix_tokens=known.prefix_tokens, patch_grid=(side, side), channels=known.channels)
    if teacher.random_seed is None and not teacher.weights.is_file():
        return None
    from extract.teachers.loading import load_teacher

    loaded = load_teacher(teacher, device="cpu")
    return TokenShape(prefix_tokens=loaded.prefix_tokens, patch_grid=(side, side), channels=loaded.channels)
