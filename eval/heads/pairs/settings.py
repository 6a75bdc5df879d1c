"""PAIRS.toml: which datasets of pairs are trained on, and how many pairs of each make an epoch.

[[dataset]]
name = "blended"
kind = "blendedmvs"
root = "/data/BlendedMVS"      # `~` and variables are expanded; a relative one starts at this file's folder
pairs = 68400                  # of an epoch: drawn without repetition, or repeated evenly if there are fewer
options = {}                   # of the kind
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import ConfigDict, Field

from eval.heads.pairs.kinds import KINDS
from eval.heads.pairs.layouts.options import Options
from eval.heads.pairs.views import PairDataset
from store.common import config
from store.common.config import near_miss
from store.errors import CodistillError, InvalidConfig, MissingFile

UNEXPANDED = re.compile(r"\$\{?(\w+)\}?")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class _Section(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PairsEntry(_Section):
    """One dataset of the mixture.

    Attributes:
        name: name in messages and logs.
        kind: one of `KINDS`.
        root: folder of the dataset; absolute once the file is read.
        pairs: pairs that it gives to an epoch.
        options: what the kind leaves open, see its model.
    """

    name: Annotated[str, Field(pattern=NAME)]
    kind: str
    root: Path | None = None
    pairs: int = Field(ge=1)
    options: dict[str, Any] = {}

    @pydantic.model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in KINDS:
            hint = near_miss(self.kind, KINDS)
            raise ValueError(f"kind '{self.kind}' is unknown{hint}. Choose one of {', '.join(sorted(KINDS))}")
        if KINDS[self.kind].needs_root and self.root is None:
            raise ValueError(f"kind '{self.kind}' reads a folder: give its root")
        self.parsed_options()
        return self

    def parsed_options(self) -> Options:
        """Return the options as the kind's model; raises InvalidConfig."""
        return config.parse(KINDS[self.kind].options, self.options, subject=f"options of '{self.name}'")

    def open(self) -> PairDataset:
        """Open the dataset; raises as its reader."""
        return KINDS[self.kind].open(self.name, self.root, self.parsed_options())


class PairsFile(_Section):
    """A whole PAIRS.toml.

    Attributes:
        dataset: the datasets, in order.
    """

    dataset: tuple[PairsEntry, ...]

    @pydantic.model_validator(mode="after")
    def _unlike(self) -> Self:
        if not self.dataset:
            raise ValueError("no datasets; add [[dataset]] with name, kind and pairs")
        repeated = [name for name, count in Counter(entry.name for entry in self.dataset).items() if count > 1]
        if repeated:
            raise ValueError(f"two datasets are named '{repeated[0]}'; names tell pairs apart")
        return self


def read_pairs_file(path: Path) -> PairsFile:
    """Read a PAIRS.toml.

    Raises:
        MissingFile: no such file, or folders that do not exist; all are listed.
        InvalidConfig: listing all problems.
    """
    subject = f"pairs '{path}'"
    file = config.parse(PairsFile, config.read_toml(path, subject=subject), subject=subject)
    entries = [entry.model_copy(update={"root": _expanded(entry, path, subject)}) for entry in file.dataset]
    missing = [f"'{entry.name}': '{entry.root}'" for entry in entries if entry.root and not entry.root.is_dir()]
    if missing:
        raise MissingFile(f"{subject}: no folder {', '.join(missing)}. Check the roots")
    return file.model_copy(update={"dataset": tuple(entries)})


def open_datasets(file: PairsFile) -> list[PairDataset]:
    """Open all datasets, in order.

    Raises:
        CodistillError: the problem of one dataset as its reader raises it; of several, InvalidConfig lists all.
    """
    opened: list[PairDataset] = []
    failures: list[CodistillError] = []
    for entry in file.dataset:
        try:
            opened.append(entry.open())
        except CodistillError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise InvalidConfig("pairs", map(str, failures))
    return opened


def _expanded(entry: PairsEntry, path: Path, subject: str) -> Path | None:
    if entry.root is None:
        return None
    text = os.path.expandvars(os.path.expanduser(str(entry.root)))
    unset = UNEXPANDED.search(text)
    if unset:
        raise InvalidConfig(subject, [f"root of '{entry.name}': variable {unset[1]} is not set"])
    return path.absolute().parent / text
