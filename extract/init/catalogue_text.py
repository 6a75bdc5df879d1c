"""The text of a new catalogue, with comments that say what was found and what can be changed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from extract.init.guess import Guess, escaped
from extract.init.measure import REFUSED, Numbers
from extract.init.teachers import ChosenTeachers, teacher_lines
from extract.init.toml_text import comment, string, strings
from extract.job.folder_sizes import shard_rows_for
from extract.teachers.options import STUDENT_PATCH_PX

LARGEST_SIZE_PX, LEAST_SIZE_PX = 336, 56
SHARD_ROWS = 256
WANTED_ROWS, MOST_VIEWS = 10_000, 8  # small datasets get views until they have about so many rows
NAMED = 6  # classes and suffixes in a comment


@dataclass(frozen=True, kw_only=True)
class Found:
    """A guessed dataset and its numbers."""

    guess: Guess
    numbers: Numbers

    @property
    def views(self) -> int:
        """Views of each image."""
        if self.guess.split == "val" or not self.numbers.images:
            return 1
        return max(1, min(MOST_VIEWS, WANTED_ROWS // self.numbers.images))


def catalogue_text(found: Sequence[Found], teachers: ChosenTeachers, *, out: Path) -> str:
    """Return the whole catalogue.

    Args:
        found: datasets, at least one of which can be extracted.
        teachers: teachers that it begins with.
        out: where it will lie: roots below its folder are relative.
    """
    usable = [one for one in found if not one.numbers.problem]
    lines = [
        "# Which images are extracted, by which teachers: written by `codistill init`. Values are guesses: read them,",
        "# change what is wrong, and see what it costs with `codistill extract plan`. docs/extraction.md has all keys.",
        "",
        *_recipe_lines(usable),
    ]
    if len({one.guess.group for one in usable}) > 1:
        lines += ["", "# Batches of a training take equally many images of each group."]
    for one in found:
        lines += ["", *_dataset_lines(one, out=out)]
    if not any(one.guess.split == "val" for one in usable):
        lines += ["", *_held_out_lines(usable, out=out)]
    return "\n".join([*lines, "", *teacher_lines(teachers)]) + "\n"


def image_size(found: Sequence[Found]) -> int:
    """Return the side of the views: that of small images in whole student patches, an even number of them."""
    sides = [min(size) for one in found for size in one.numbers.sizes_px]
    step = 2 * STUDENT_PATCH_PX
    return max(LEAST_SIZE_PX, min(LARGEST_SIZE_PX, int(median(sides)) // step * step)) if sides else LARGEST_SIZE_PX


def _recipe_lines(found: Sequence[Found]) -> Iterator[str]:
    rows = max((one.numbers.images or 0) * one.views for one in found)
    sizes = [size for one in found for size in one.numbers.sizes_px]
    yield "# Views: square crops that teachers and students see. The recipe of a cache cannot change later."
    if sizes:
        sides = sorted(min(size) for size in sizes)
        middle = sides[len(sides) // 2]
        yield f"# Shorter sides of {len(sizes)} images looked at: {sides[0]} to {sides[-1]} px, median {middle} px."
    yield "[recipe]"
    yield f"image_size = {image_size(found)}        # px, a multiple of the student's patch (14)"
    yield "crop_scale = [0.4, 1.0] # share of an image that a random crop covers"
    yield "flip = 0.5"
    yield 'photometric = "dune"     # random colours, blur and so on; "none" is three times as fast'
    yield "seed = 0"
    yield f"shard_rows = {max(SHARD_ROWS, shard_rows_for(rows))}        # rows of a file"
    yield 'pixels = "jpeg"          # or "raw": five times the bytes'


def _dataset_lines(one: Found, *, out: Path) -> Iterator[str]:
    guess, numbers = one.guess, one.numbers
    yield from (f"# {line}" for line in _remarks(one))
    prefix = "# " if numbers.problem else ""
    for line in _entry_lines(one, out=out):
        yield prefix + line
    for folder, count in guess.doubtful.items():
        globs = ", ".join(map(string, (*guess.exclude, f"**/{escaped(folder)}/**")))
        instead = ", in place of the line above" if guess.exclude else ""
        yield f"# {count:,} images lie in folders of the name '{comment(folder)}'. If they are no photographs{instead}:"
        yield f"# exclude = [{globs}]"


def _remarks(one: Found) -> Iterator[str]:
    guess, numbers = one.guess, one.numbers
    count = "unknown" if numbers.images is None else f"{'' if numbers.exact else 'about '}{numbers.images:,}"
    kinds = {"images": "image files", "tar": f"images in {guess.files:,} tar files (webdataset)"}
    yield f"{count} {kinds.get(guess.kind, f'images in {guess.files:,} Parquet files')}, {_split_sentence(guess)}"
    if numbers.problem:
        yield f"Left out: {comment(numbers.problem)}."
    if guess.classes:
        named = ", ".join(comment(name) for name in guess.classes[:NAMED])
        more = ", ..." if len(guess.classes) > NAMED else ""
        yield f"{len(guess.classes):,} folders, as of an ImageFolder: {named}{more}. They are one group; to balance"
        yield "batches over some of them, give these folders to `codistill init` one by one."
    if guess.refused and numbers.images:
        yield f"{guess.refused:,} more are {REFUSED}."
    if guess.exclude:
        yield "They lie beside folders of other datasets: leave them out if they are something else."
    if len(guess.suffixes) > 1:
        yield f"By suffix: {', '.join(f'{n:,} {suffix}' for suffix, n in list(guess.suffixes.items())[:NAMED])}."


def _split_sentence(guess: Guess) -> str:
    return "for training." if guess.split == "train" else "held out: students are measured on their central views."


def _entry_lines(one: Found, *, out: Path) -> Iterator[str]:
    guess, numbers = one.guess, one.numbers
    yield "[[dataset]]"
    yield f"name = {string(guess.name)}"
    yield f"group = {string(guess.group)}"
    yield f"root = {string(_root(guess.root, out))}"
    yield f"{'pattern' if guess.kind == 'images' else guess.kind} = {strings(guess.patterns)}"
    if numbers.column:
        yield f"image_column = {string(numbers.column)}"
    if guess.exclude:
        yield f"exclude = [{', '.join(map(string, guess.exclude))}]"
    yield f"split = {string(guess.split)}"
    if guess.split == "val":
        yield 'mode = "center"'
    else:
        yield f"views = {one.views}               # random views of each image: small datasets need more"
    if numbers.images and numbers.exact:
        refused = guess.refused if guess.kind == "images" else 0
        told = f"  # with those that will not be opened ({refused:,})" if refused else ""
        yield f"expected_images = {numbers.images + refused}{told}"


def _held_out_lines(found: Sequence[Found], *, out: Path) -> Iterator[str]:
    first = found[0]
    yield "# No held-out images were found: a training cannot be measured on images that it has not seen. Name a folder"
    yield "# of some, or measure on views of the same images that training does not see, which tells less:"
    for line in _entry_lines(first, out=out):
        if line.startswith("views"):
            yield f"# first_view = {first.views}"
            yield "# views = 1"
        elif line.startswith("split"):
            yield '# split = "val"'
        elif line.startswith("name"):
            yield f"# name = {string(f'{first.guess.name}-views')}"
        else:
            yield f"# {line}"


def _root(root: Path, out: Path) -> str:
    """Return a root as the catalogue writes it: relative below its own folder, without what would be expanded."""
    folder, place = root.absolute(), out.absolute().parent
    relative = os.path.relpath(folder, place)
    inside = not relative.startswith(("..", "~"))
    return Path(relative).as_posix() if inside else folder.as_posix()
