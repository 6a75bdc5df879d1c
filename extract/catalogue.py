"""The catalogue: one TOML file that lists what is extracted. Every problem in it is reported at once."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from extract.teachers.options import STUDENT_PATCH_PX, TeacherOptions
from store import errors
from store.common import config
from store.common.text import random_weights_note
from store.format import schema

VIEW_RULE = 1  # raised when the view of the same recipe, image and number would change
IMAGE_PATTERN = "**/*.{jpg,jpeg,JPG,JPEG,png,PNG,webp,tif,tiff,bmp,gif}"
Entry = TypeVar("Entry", "DatasetEntry", "TeacherEntry")
SOURCE_KEYS = frozenset({"pattern", "list_file", "tar", "parquet"})
LEAST_RATIO = 2.0  # a code spends at most 8 bits on a component
UNEXPANDED_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


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


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class ViewRecipe(_Section):
    """Size, crops, colours and random seed of the views; one recipe for a whole cache.

    Attributes:
        image_size: side of the stored square pixels, px; a multiple of the student's patch (14).
        crop_scale: least and most share of the image's area that a random crop covers.
        flip: probability of a horizontal flip.
        photometric: "dune" applies random jitter, greyscale, blur and solarisation; "none" leaves colours as they are.
        seed: with the dataset's name, the image's path and the view number, it decides all random parameters.
        shard_rows: rows of one shard, the unit of work and of publication.
        pixels: "raw" stores views as they are; "jpeg" stores them as JPEG, which teachers and students see decoded.
    """

    image_size: int = Field(default=336, ge=STUDENT_PATCH_PX)
    crop_scale: tuple[float, float] = (0.4, 1.0)
    flip: Fraction = 0.5
    photometric: Literal["dune", "none"] = "dune"
    seed: int = Field(default=0, ge=0)
    shard_rows: int = Field(default=256, ge=1)
    pixels: Literal["raw", "jpeg"] = "raw"

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
        """Return the JSON form that the cache stores and every later run is compared with."""
        left_out = {"pixels"} if self.pixels == "raw" else set()  # caches from before there was a choice are raw
        return self.model_dump(mode="json", exclude=left_out) | {"view_rule": VIEW_RULE}


class RotateRule(_Section):
    """Rotation by `degrees`, counter-clockwise where positive, of images whose relative path contains `contains`."""

    contains: Text
    degrees: Literal[-270, -180, -90, 90, 180, 270]


class DatasetEntry(_Section):
    """One dataset: where its images are and how many views of each are stored.

    Attributes:
        name: node in the cache.
        group: group of datasets; training batches are balanced over groups.
        root: folder at which relative paths in the cache start. `~` and environment variables are expanded.
        pattern: glob or globs below `root` (`**/` any folders, `*`, `?`, `[ab]`, `{a,b}`); hidden files never match.
        list: file of paths below `root`, instead of `pattern`: .txt (one a line), .parquet (column `path`), .pkl.
        tar: glob or globs of tar files below `root` that hold the images, instead of `pattern`.
        parquet: glob or globs of Parquet files below `root` that hold the images' bytes, instead of `pattern`.
        image_column: column of the Parquet files that holds the images.
        exclude: globs of relative paths to leave out.
        rotate: rules for images that are stored rotated.
        allow_damaged_jpeg: accept JPEGs of which a part is missing or damaged and had to be guessed; else they fail.
        split: "train" rows are trained on, "val" rows only evaluated.
        mode: "train" takes random views, "center" the one central crop.
        views: rows per image.
        first_view: number of the first view; a later cache with more views starts where this one ended.
        nature: "real", "rendered" or "synthetic" images; for information only.
        expected_images: number of images the dataset should have; a difference is reported.
        note: remark that every report on a student of this data shows at its top; stored when the dataset is indexed.
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
    allow_damaged_jpeg: bool = False
    split: Literal["train", "val"] = "train"
    mode: Literal["train", "center"] = "train"
    views: int = Field(default=1, ge=1)
    first_view: int = Field(default=0, ge=0)
    nature: Literal["real", "rendered", "synthetic"] | None = None
    expected_images: int | None = Field(default=None, ge=1)
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {"list" if name == "list_file" else name for name in SOURCE_KEYS & self.model_fields_set}
        if len(given) > 1:
            raise ValueError(f"{', '.join(sorted(given))} are given; keep one of them")
        if self.mode == "center" and (self.views, self.first_view) != (1, 0):
            raise ValueError("mode 'center' has one view, number 0: leave out 'views' and 'first_view'")
        return self

    def decoding(self) -> dict[str, Any]:
        """Return the settings that decide how an image is decoded, as JSON; the cache stores and compares them."""
        allowed = {"allow_damaged_jpeg": True} if self.allow_damaged_jpeg else {}  # older caches know no such key
        return {"rotate": [rule.model_dump() for rule in self.rotate]} | allowed

    def rotation_of(self, path: str) -> int:
        """Return by how many degrees, counter-clockwise, the image at this relative path is rotated before cropping."""
        return sum(rule.degrees for rule in self.rotate if rule.contains in path) % 360


class TeacherEntry(TeacherOptions):
    """One teacher: its options, its name, and the groups it specialises in.

    A relative `weights` starts at the catalogue's folder.

    Attributes:
        name: node in the cache.
        groups: groups of datasets that this teacher specialises in.
        ratio: float16 bytes of a row over its stored bytes, such as 8: training datasets get codes; None stores the
            float16 tokens. Datasets of split "val" always get float16 tokens.
    """

    name: TeacherName
    groups: tuple[Text, ...] = ()
    ratio: Annotated[float, Field(ge=LEAST_RATIO, allow_inf_nan=False, strict=True)] | None = None


class Catalogue(_Section):
    """A whole catalogue: `[recipe]`, `[[dataset]]` and `[[teacher]]`.

    Attributes:
        note: note of all datasets that have none of their own.
        recipe: size, crops, colours and seed of the views.
        dataset: datasets, in the order in which they are extracted.
        teacher: teachers.
    """

    note: str = ""
    recipe: ViewRecipe = ViewRecipe()
    dataset: tuple[DatasetEntry, ...]
    teacher: tuple[TeacherEntry, ...] = ()

    @property
    def random_note(self) -> str:
        """Warning about the teachers with random weights; empty without any."""
        return random_weights_note(entry.name for entry in self.teacher if entry.random_seed is not None)

    def dataset_named(self, name: str) -> DatasetEntry:
        """Return the entry of this dataset. Raises errors.MissingName."""
        return _pick(self.dataset, name, "dataset")

    def teacher_named(self, name: str) -> TeacherEntry:
        """Return the entry of this teacher. Raises errors.MissingName."""
        return _pick(self.teacher, name, "teacher")


def load_catalogue(path: str | Path) -> Catalogue:
    """Read and check a catalogue.

    Relative `root`, `list` and `weights` start at the catalogue's own folder. Variables that are not set stay in the
    path: a plan needs no data, and a job reports them before it starts.

    Args:
        path: TOML file.

    Raises:
        errors.MissingFile: there is no such file.
        errors.InvalidConfig: not TOML, or a catalogue with problems; all of them are listed.
    """
    path = Path(path)
    subject = f"catalogue '{path}'"
    content = config.read_toml(path, subject=subject)
    catalogue = config.parse(Catalogue, content, subject=subject)
    problems = _problems_between(catalogue)
    if problems:
        raise errors.InvalidConfig(subject, problems)
    return _located(catalogue, path.absolute().parent)


def narrowed(
    catalogue: Catalogue,
    *,
    datasets: Sequence[str] = (),
    teachers: Sequence[str] = (),
    split: Literal["train", "val"] | None = None,
    image_size: int | None = None,
    views: int | None = None,
) -> Catalogue:
    """Return the catalogue with only some of its datasets and teachers, or with other sizes.

    Args:
        catalogue: whole catalogue.
        datasets: dataset names; all if empty.
        teachers: teacher names; all if empty.
        split: keep only datasets of this split.
        image_size: image size that replaces the recipe's, px.
        views: number of views that replaces that of every dataset in mode "train" of split "train".

    Raises:
        errors.InvalidConfig: unknown names, no dataset of that split, or an image size that no recipe may have.
    """
    dataset_names, problems = choose_names(datasets, [d.name for d in catalogue.dataset], option="--datasets")
    teacher_names, more = choose_names(teachers, [t.name for t in catalogue.teacher], option="--teachers")
    entries = [entry for entry in catalogue.dataset if entry.name in dataset_names and split in (None, entry.split)]
    if not (entries or problems):
        problems.append(f"--split {split}: no dataset asked for is of this split")
    if problems + more:
        raise errors.InvalidConfig("this job cannot start", problems + more)
    sizes = {} if image_size is None else {"image_size": image_size}
    recipe = config.parse(ViewRecipe, catalogue.recipe.model_dump() | sizes, subject="--image-size")
    if views is not None:
        trained = [entry.mode == "train" and entry.split == "train" for entry in entries]
        entries = [e.model_copy(update={"views": views} if t else {}) for e, t in zip(entries, trained, strict=True)]
    chosen = {"dataset": tuple(entries), "teacher": tuple(catalogue.teacher_named(name) for name in teacher_names)}
    return catalogue.model_copy(update={"recipe": recipe, **chosen})


def choose_names(names: Sequence[str], known: Sequence[str], *, option: str) -> tuple[list[str], list[str]]:
    """Return the known names that were asked for, in catalogue order, and a problem for each unknown one.

    Args:
        names: names asked for; all if empty.
        known: every name there is.
        option: command-line option that the problems name.
    """
    problems = [
        f"{option}: '{name}' is unknown{config.near_miss(name, known)}; available: {', '.join(known) or 'none'}"
        for name in names
        if name not in known
    ]
    return [name for name in known if not names or name in names], problems


def unset_variable(path: Path) -> str | None:
    """Return the first environment variable in `path` that is not set; None if all are."""
    variable = UNEXPANDED_VARIABLE.search(str(path))
    return variable.group(1) if variable else None


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
        entry.model_copy(
            update={
                "root": located(entry.root),
                "list_file": located(entry.list_file),
                "note": entry.note or catalogue.note,
            }
        )
        for entry in catalogue.dataset
    ]
    teachers = [
        entry if entry.random_seed is not None else entry.model_copy(update={"weights": located(entry.weights)})
        for entry in catalogue.teacher
    ]
    return catalogue.model_copy(update={"dataset": tuple(datasets), "teacher": tuple(teachers)})


def _pick(entries: tuple[Entry, ...], name: str, kind: str) -> Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    known = [entry.name for entry in entries]
    near = config.near_miss(name, known)
    raise errors.MissingName(f"{kind} '{name}' is not in this catalogue{near}; available: {', '.join(known) or 'none'}")
