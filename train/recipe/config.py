"""What a run is: one typed, complete, immutable configuration. Imports no torch, so `--help` is quick."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.common.config import parse
from store.format.schema import differences

# What may differ between a run and its resumption, because no number of the training depends on it.
FREE_SECTIONS = ("checkpoint", "log", "machine")

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Part of a recipe: immutable, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Student(Section):
    """The network that is trained.

    Attributes:
        architecture: "tiny", "small", "base", "large", or "timm:NAME" for any ViT of timm.
        image_size: side of the training views in px that this recipe is made for; None takes what the cache has.
        patch_size: side of a patch in px.
        registers: register tokens (the paper's text says 0, the released models have 4).
        layer_scale: initial LayerScale; None has none.
        embed_dim: instead of the architecture's.
        depth: blocks, instead of the architecture's.
        num_heads: instead of the architecture's.
    """

    architecture: str = "base"
    image_size: Positive | None = None
    patch_size: Positive = 14
    registers: NotNegative = 4
    layer_scale: PositiveFloat | None = 1e-4
    embed_dim: Positive | None = None
    depth: Positive | None = None
    num_heads: Positive | None = None


class Projector(Section):
    """The student-to-teacher heads, dropped at export.

    Attributes:
        kind: "tp" transformer projector (DUNE), "lp" ladder of MLPs (UNIC), "sp" MLP on the last output (AM-RADIO).
        blocks: transformer blocks of a TP.
        layer_scale: initial LayerScale of a TP's blocks.
        hidden_dim: hidden width of the ladder's MLPs.
        last_hidden_dim: hidden width of the MLP on the last block.
        which_blocks: encoder blocks that the ladder reads, counted from 0; None reads all.
        prenorm: LayerNorm before each MLP.
        midnorm: LayerNorm inside each MLP.
    """

    kind: Literal["tp", "lp", "sp"] = "tp"
    blocks: Positive = 1
    layer_scale: PositiveFloat | None = 1e-4
    hidden_dim: Positive = 768
    last_hidden_dim: Positive = 3072
    which_blocks: tuple[NotNegative, ...] | None = None
    prenorm: bool = False
    midnorm: bool = False


class Loss(Section):
    """Weights of the two terms: 0.5 and 0.5 as released, 1 and 1 as in the paper's equation."""

    cosine: NotNegativeFloat = 0.5
    smooth_l1: NotNegativeFloat = 0.5

    @model_validator(mode="after")
    def _not_both_zero(self) -> Self:
        if self.cosine == 0 and self.smooth_l1 == 0:
            raise ValueError("both weights are 0")
        return self


class Sharing(Section):
    """Which teachers an image is for, and which of those count in a step.

    Attributes:
        mode: "full" all images to all teachers; "none" an image to the teacher of its own group; "generic" that, and
            images of `generic_groups` to all teachers.
        generic_groups: see `mode`.
        drop_probability: teacher dropping; each teacher but the one with an image's highest loss is dropped with this
            probability. 0 drops none.
        normalise: divide the 0/1 coefficients by their count over the "global" batch, or "per_rank" as released.
    """

    mode: Literal["full", "generic", "none"] = "full"
    generic_groups: tuple[str, ...] = ("dinov2", "generic")
    drop_probability: Share = 0.5
    normalise: Literal["global", "per_rank"] = "global"


class Targets(Section):
    """How teacher tokens become targets.

    Attributes:
        norm: "exact" mean and std over the training mixture, or "ema" over batches as released.
        statistics: what the exact ones are over: the datasets that are "used"; all of the "cache", so that students
            of different datasets have the same targets; or the rows of data.subset alone ("subset").
        ema_start: momentum of the first step.
        ema_end: momentum of the last step.
    """

    norm: Literal["exact", "ema"] = "exact"
    statistics: Literal["used", "cache", "subset"] = "used"
    ema_start: Share = 1.0
    ema_end: Share = 1e-3


class Optim(Section):
    """AdamW and the arithmetic of a step.

    Attributes:
        lr: peak learning rate for a batch of 256; multiplied by batch / 256.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: on tensors of two and more dimensions that are not biases.
        clip_norm: every parameter tensor's gradient is scaled to at most this norm; 0 clips nothing.
        precision: "bf16" autocast or "fp32".
        micro_batches: parts that a rank's batch is worked through in (gradient accumulation).
        compile: torch.compile the student.
    """

    lr: PositiveFloat = 3e-4
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.99)
    eps: PositiveFloat = 1e-15
    weight_decay: NotNegativeFloat = 3e-2
    clip_norm: NotNegativeFloat = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    micro_batches: Positive = 1
    compile: bool = False


class Schedule(Section):
    """How long, and how the learning rate moves: linear from 0, then cosine.

    Attributes:
        epochs: length in units of 1,281,167 images, as the paper counts.
        steps: length in steps instead; None goes by `epochs`.
        warmup: share of the steps.
        minimum_lr: floor of the cosine, not scaled with the batch.
    """

    epochs: PositiveFloat = 100.0
    steps: Positive | None = None
    warmup: Share = 0.2
    minimum_lr: NotNegativeFloat = 1e-6


class Data(Section):
    """What is trained on.

    Attributes:
        batch: images per step over all ranks, equally many of each group.
        datasets: training datasets; none named means all with split "train".
        teachers: none named means all in the cache.
        subset: expression over the manifest that rows must meet, such as "view < 4 and not grayscale"; empty for all.
        augment: "photometric" changes colours of the student's input alone, so it no longer sees what its teachers saw.
        val_datasets: held-out datasets; none named means all with split "val".
        val_rows: rows of each held-out dataset that fidelity is measured on, spread evenly.
    """

    batch: Positive = 512
    datasets: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    subset: str = ""
    augment: Literal["none", "photometric"] = "none"
    val_datasets: tuple[str, ...] = ()
    val_rows: Positive = 512


class Start(Section):
    """Where the weights come from.

    Attributes:
        checkpoint: a run directory or a DUNE checkpoint to fine-tune (student, projectors, EMA statistics; not the
            optimizer); empty starts from random weights.
        required: refuse to train without one.
    """

    checkpoint: str = ""
    required: bool = False


class Checkpoint(Section):
    """Saving. Free to change when resuming.

    Attributes:
        every_steps: between checkpoints; 0 saves at the end alone.
        keep: checkpoints kept, the newest.
    """

    every_steps: NotNegative = 2502
    keep: Positive = 3


class Log(Section):
    """Reporting. Free to change when resuming.

    Attributes:
        fidelity_every_steps: between measurements on held-out rows; 0 measures at the end alone.
        tensorboard: write event files too.
    """

    fidelity_every_steps: NotNegative = 2502
    tensorboard: bool = True


class Machine(Section):
    """What this machine has. Free to change when resuming.

    Attributes:
        device: "auto" takes a GPU if there is one.
        readers: datasets read at once; each is read with several threads.
        prefetch: batches read ahead; memory is batch x bytes per row x (this + 1).
        verify: check the checksum of every row read.
        threads: of torch on the CPU; 0 leaves torch's choice.
    """

    device: str = "auto"
    readers: Positive = 2
    prefetch: Positive = 2
    verify: bool = True
    threads: NotNegative = 0


class Recipe(Section):
    """A complete training configuration; `recipes.py` has the named ones.

    Attributes:
        name: what the run is called where it is shown.
        seed: of the first weights, the order of rows and all that is drawn.
    """

    name: str = "recipe"
    seed: NotNegative = 0
    student: Student = Student()
    projector: Projector = Projector()
    loss: Loss = Loss()
    sharing: Sharing = Sharing()
    targets: Targets = Targets()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    data: Data = Data()
    start: Start = Start()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = []
        if self.optim.micro_batches > self.data.batch:
            problems.append(f"optim.micro_batches: {self.optim.micro_batches} parts of {self.data.batch} images")
        if self.targets.statistics == "subset" and not self.data.subset:
            problems.append("targets.statistics: 'subset' needs data.subset")
        if problems:
            raise ValueError(". ".join(problems))
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run: as given, or the budget in images over the batch, made even."""
        if self.schedule.steps is not None:
            return self.schedule.steps
        return iterations(self.schedule.epochs, batch=self.data.batch)

    def to_json(self) -> str:
        """As `recipe.json` of a run has it."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def from_mapping(data: Mapping[str, Any], *, subject: str) -> Recipe:
    """Build a recipe from plain data.

    Raises:
        InvalidConfig: listing all problems.
    """
    return parse(Recipe, data, subject=subject)


def overridden(recipe: Recipe, overrides: Mapping[str, Any], *, subject: str) -> Recipe:
    """Another recipe with some values replaced.

    Args:
        recipe: stays as it is.
        overrides: dotted key -> value (`{"optim.lr": 1e-3}`), or nested tables, or both.
        subject: for messages.

    Raises:
        InvalidConfig: listing all problems.
    """
    data = recipe.model_dump(mode="json")
    for path, value in flattened(overrides):
        *sections, last = path.split(".")
        table = data
        for section in sections:
            inner = table.setdefault(section, {})
            if not isinstance(inner, dict):
                inner = table[section] = {}
            table = inner
        table[last] = value
    return from_mapping(data, subject=subject)


def flattened(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables with its dotted key."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changed(stored: Recipe, asked: Recipe) -> list[str]:
    """What a resumption may not change and did, each as `key: stored value, asked value`."""
    kept, wanted = (
        {name: value for name, value in recipe.model_dump(mode="json").items() if name not in FREE_SECTIONS}
        for recipe in (stored, asked)
    )
    return differences(kept, wanted)


IMAGENET_IMAGES = 1_281_167  # the "epoch" that budgets are counted in


def iterations(epochs: float, *, batch: int, epoch_images: int = IMAGENET_IMAGES) -> int:
    """Return the number of steps of a budget: images over batch, rounded up, then made even."""
    steps = math.ceil(epochs * epoch_images / batch)
    return steps + steps % 2
