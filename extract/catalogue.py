"""The catalogue: one TOML file that says what is extracted. Every problem in it is reported at once."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from store import errors
from store.common import config
from store.format import schema

STUDENT_PATCH_PX = 14
VIEW_RULE = 1  # raised when a view of the same recipe, image and number would show something else
IMAGE_PATTERN = "**/*.{jpg,jpeg,JPG,JPEG,png,PNG,webp,tif,tiff,bmp,gif}"
E = TypeVar("E", "DatasetEntry", "TeacherEntry")
SOURCES = frozenset({"pattern", "list_file", "tar", "parquet"})
VARIABLE_LEFT = re.compile(r"\$\{?(\w+)\}?")


def _dataset_name(value: str) -> str:
    return schema.check_name("dataset", value)


def _teacher_name(value: str) -> str:
    return schema.check_name("teacher", value)


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


DatasetName = Annotated[str, AfterValidator(_dataset_name)]
TeacherName = Annotated[str, AfterValidator(_teacher_name)]
Text = Annotated[str, Field(min_length=1)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Entry(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class ViewRecipe(_Entry):
    """What the views of a cache look like; one recipe a cache.

    Attributes:
        image_size: side of the stored square pixels, px; a multiple of the student's patch (14).
        crop_scale: least and most share of the image's area that a random crop covers.
        flip: probability of a horizontal flip.
        photometric: "dune" draws jitter, greyscale, blur and solarisation; "none" leaves colours alone.
        seed: all random parameters follow from it, the dataset's name, the image's path and the view number.
        shard_rows: rows of one shard, the unit of work and of commit.
    """

    image_size: int = Field(default=336, ge=STUDENT_PATCH_PX)
    crop_scale: tuple[float, float] = (0.4, 1.0)
    flip: Fraction = 0.5
    photometric: Literal["dune", "none"] = "dune"
    seed: int = Field(default=0, ge=0)
    shard_rows: int = Field(default=256, ge=1)

    @pydantic.field_validator("image_size")
    @classmethod
    def _whole_patches(cls, value: int) -> int:
        if value % STUDENT_PATCH_PX:
            below = value // STUDENT_PATCH_PX * STUDENT_PATCH_PX
            raise ValueError(
                f"{value} px is not a multiple of the student's patch of {STUDENT_PATCH_PX} px; "
                f"use {below} or {below + STUDENT_PATCH_PX}"
            )
        return value

    @pydantic.field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"expected 0 < least <= most <= 1, found {list(value)}")
        return value

    def stored(self) -> dict[str, Any]:
        """The JSON form kept in the cache and compared on every later run."""
        return self.model_dump(mode="json") | {"view_rule": VIEW_RULE}


class RotateRule(_Entry):
    """Images whose relative path contains `contains` are turned by `degrees`, counter-clockwise where positive."""

    contains: Text
    degrees: Literal[-270, -180, -90, 90, 180, 270]


class DatasetEntry(_Entry):
    """One dataset: where its images are and how many views of each are stored.

    Attributes:
        name: its node in the cache.
        group: what training batches are balanced over.
        root: folder; relative paths in the cache start here. `~` and environment variables are expanded.
        pattern: glob or globs below `root` (`**/` any folders, `*`, `?`, `[ab]`, `{a,b}`); hidden files never match.
        list: paths below `root` instead of `pattern`: .txt (one a line), .parquet (column `path`), .pkl (plain).
        tar: glob or globs of tar files below `root` that hold the images, instead of `pattern`.
        parquet: glob or globs of Parquet files below `root` that hold the images' bytes, instead of `pattern`.
        image_column: of these Parquet files.
        exclude: globs of relative paths to leave out.
        rotate: rules for images stored turned.
        split: "train" rows are trained on, "val" rows only measured.
        mode: "train" draws random views, "center" stores the one central crop.
        views: rows per image.
        first_view: number of the first view; a later cache with more views starts where this one ended.
        nature: "real", "rendered" or "synthetic" images, for people.
        expected_images: how many images the dataset should have; a difference is reported.
    """

    name: DatasetName
    group: Text
    root: Path
    pattern: Patterns = (IMAGE_PATTERN,)
    list_file: Path | None = Field(default=None, alias="list")
    tar: Patterns = ()
    parquet: Patterns = ()
    image_column: str = "image"
    exclude: Patterns = ()
    rotate: tuple[RotateRule, ...] = ()
    split: Literal["train", "val"] = "train"
    mode: Literal["train", "center"] = "train"
    views: int = Field(default=1, ge=1)
    first_view: int = Field(default=0, ge=0)
    nature: Literal["real", "rendered", "synthetic"] | None = None
    expected_images: int | None = Field(default=None, ge=1)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {"list" if name == "list_file" else name for name in SOURCES & self.model_fields_set}
        if len(given) > 1:
            raise ValueError(f"{', '.join(sorted(given))} are given; keep one of them")
        if self.mode == "center" and (self.views, self.first_view) != (1, 0):
            raise ValueError("mode 'center' has one view, number 0: leave out 'views' and 'first_view'")
        return self

    def rotation_of(self, path: str) -> int:
        """Degrees, counter-clockwise, by which the image at this relative path is turned before cropping."""
        return sum(rule.degrees for rule in self.rotate if rule.contains in path) % 360


class TeacherEntry(_Entry):
    """One teacher: which network, its weights, the groups it is the own teacher of, and its arithmetic.

    What `model`, `rule`, `num_heads`, `stride`, `dtype`, `tf32`, `channels_last` and `compile` mean is told by
    `extract.teachers.load`. A relative `weights` starts at the catalogue's folder.
    """

    name: TeacherName
    model: Text
    weights: Path
    groups: tuple[Text, ...] = ()
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    rule: Literal["dune", "hub"] = "dune"
    num_heads: int | None = Field(default=None, ge=1)
    stride: int | None = Field(default=None, ge=1)
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False


class Catalogue(_Entry):
    """A whole catalogue: `[recipe]`, `[[dataset]]` and `[[teacher]]` entries."""

    recipe: ViewRecipe = ViewRecipe()
    dataset: tuple[DatasetEntry, ...]
    teacher: tuple[TeacherEntry, ...] = ()

    def dataset_named(self, name: str) -> DatasetEntry:
        """The entry of this dataset. Raises errors.MissingName."""
        return _pick(self.dataset, name, "dataset")

    def teacher_named(self, name: str) -> TeacherEntry:
        """The entry of this teacher. Raises errors.MissingName."""
        return _pick(self.teacher, name, "teacher")


def load_catalogue(path: str | Path) -> Catalogue:
    """Read and check a catalogue.

    Relative `root`, `list` and `weights` start at the catalogue's own folder. Variables that are not set stay as they
    are (a plan needs no data); whoever needs the file says so.

    Args:
        path: the TOML file.

    Raises:
        errors.MissingFile: there is no such file.
        errors.InvalidConfig: not TOML, or with problems; all of them are listed.
    """
    path = Path(path)
    subject = f"catalogue '{path}'"
    content = config.read_toml(path, subject=subject)
    catalogue = config.parse(Catalogue, content, subject=subject)
    problems = _problems_between(catalogue)
    if problems:
        raise errors.InvalidConfig(subject, problems)
    return _located(catalogue, path.absolute().parent)


def unset_variable(path: Path) -> str | None:
    """The first environment variable in `path` that is not set, if any."""
    found = VARIABLE_LEFT.search(str(path))
    return found.group(1) if found else None


def _problems_between(catalogue: Catalogue) -> list[str]:
    problems = [] if catalogue.dataset else ["dataset: expected at least one [[dataset]], found none"]
    for kind, entries in (("dataset", catalogue.dataset), ("teacher", catalogue.teacher)):
        counts = Counter(entry.name for entry in entries)
        problems += [f"{kind}: the name '{name}' is used {n} times" for name, n in counts.items() if n > 1]
    groups = sorted({entry.group for entry in catalogue.dataset})
    owners: dict[str, str] = {}
    for index, teacher in enumerate(catalogue.teacher):
        for group in teacher.groups:
            where = f"teacher[{index}].groups"
            if group not in groups:
                near = config.near_miss(group, groups)
                problems.append(f"{where}: '{group}' is no dataset's group{near or '; known: ' + ', '.join(groups)}")
            if owners.setdefault(group, teacher.name) != teacher.name:
                problems.append(f"{where}: '{group}' already belongs to teacher '{owners[group]}'")
    return problems


def _located(catalogue: Catalogue, folder: Path) -> Catalogue:
    def located(path: Path | None) -> Path | None:
        if path is None:
            return None
        expanded = Path(os.path.expandvars(path.expanduser()))
        return expanded if unset_variable(expanded) else folder / expanded

    datasets = [
        entry.model_copy(update={"root": located(entry.root), "list_file": located(entry.list_file)})
        for entry in catalogue.dataset
    ]
    teachers = [entry.model_copy(update={"weights": located(entry.weights)}) for entry in catalogue.teacher]
    return catalogue.model_copy(update={"dataset": tuple(datasets), "teacher": tuple(teachers)})


def _pick(entries: tuple[E, ...], name: str, kind: str) -> E:
    for entry in entries:
        if entry.name == name:
            return entry
    known = [entry.name for entry in entries]
    near = config.near_miss(name, known)
    raise errors.MissingName(f"{kind} '{name}' is not in this catalogue{near}; available: {', '.join(known) or 'none'}")
