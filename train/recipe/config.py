"""A recipe: one typed, complete, immutable configuration of a training. Imports no torch, so `--help` is quick."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from store.common.config import parse
from store.common.constraints import device_name
from store.format.schema import differences

# May differ between a run and its resumption, because no number of the training depends on them.
FREE_SECTIONS = ("checkpoint", "log", "machine")
IMAGENET_IMAGES = 1_281_167  # the "epoch" that budgets are counted in

# Bounds that no training comes near: beyond them, arrays do not fit any memory and integers no array.
STEPS = 10_000_000
Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
CountOrNone = Annotated[int, Field(ge=0, le=2**31 - 1)]
Images = Annotated[int, Field(gt=0, le=2**20)]
Steps = Annotated[int, Field(gt=0, le=STEPS)]
Few = Annotated[int, Field(gt=0, le=1024)]  # blocks, heads, buffers
FewOrNone = Annotated[int, Field(ge=0, le=1024)]
Width = Annotated[int, Field(gt=0, le=65_536)]  # channels; px
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]


class Section(BaseModel):
    """Part of a recipe: immutable, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Student(Section):
    """The network that is trained.

    Attributes:
        architecture: "tiny", "small", "base", "large", or "timm:NAME" for any ViT of timm, which brings its own patch
            size, registers, LayerScale and width.
        image_size: side in px of the training views that this recipe is made for; None accepts any cache.
        patch_size: side of a patch in px.
        registers: number of register tokens, between CLS and patches (the paper's text says 0, the released models
            have 4).
        layer_scale: initial LayerScale value; None leaves LayerScale out.
        embed_dim: channels of a token; None takes the architecture's.
        depth: number of transformer blocks; None takes the architecture's.
        num_heads: number of attention heads; None takes the architecture's.
    """

    architecture: str = "base"
    image_size: Width | None = None
    patch_size: Few = 14
    registers: FewOrNone = 4
    layer_scale: PositiveFloat | None = 1e-4
    embed_dim: Width | None = None
    depth: Few | None = None
    num_heads: Few | None = None


class Projector(Section):
    """The student-to-teacher heads: one configuration, weights for each teacher, dropped at export.

    Attributes:
        kind: "tp" transformer projector (DUNE), "lp" ladder of MLPs on several blocks (UNIC), "sp" one MLP on the last
            block (AM-RADIO).
        blocks: number of transformer blocks (tp).
        layer_scale: initial LayerScale value of the transformer blocks (tp); None leaves LayerScale out.
        hidden_dim: hidden width of the MLPs (lp).
        last_hidden_dim: hidden width of the MLP on the last block (lp, sp).
        which_blocks: encoder blocks that have an MLP, counted from 0 (lp); None means all.
        prenorm: put a LayerNorm before each MLP (lp, sp).
        midnorm: put a LayerNorm inside each MLP (lp, sp).
    """

    kind: Literal["tp", "lp", "sp"] = "tp"
    blocks: Few = 1
    layer_scale: PositiveFloat | None = 1e-4
    hidden_dim: Width = 768
    last_hidden_dim: Width = 3072
    which_blocks: tuple[FewOrNone, ...] | None = None
    prenorm: bool = False
    midnorm: bool = False


class Loss(Section):
    """Weights of the two distances between predicted and teacher tokens: 0.5 and 0.5 as released, 1 and 1 in the paper.

    Attributes:
        cosine: weight of the cosine distance.
        smooth_l1: weight of the smooth-L1 distance.
    """

    cosine: NotNegativeFloat = 0.5
    smooth_l1: NotNegativeFloat = 0.5

    @model_validator(mode="after")
    def _not_both_zero(self) -> Self:
        if self.cosine == 0 and self.smooth_l1 == 0:
            raise ValueError("both weights are 0")
        return self


class Sharing(Section):
    """Data sharing (which teachers an image may learn from) and teacher dropping (which of them a step uses).

    Attributes:
        mode: "full" every image learns from every teacher; "none" only from the teacher of the image's group; "generic"
            as "none", but images of `generic_groups` learn from every teacher.
        generic_groups: groups of datasets whose images learn from every teacher in mode "generic".
        drop_probability: probability that a step drops a teacher for an image; the teacher with the image's highest
            loss is never dropped. 0 drops none.
        normalise: what the loss is divided by: the number of (image, teacher) pairs kept in the "global" batch, or in
            the batch of each rank ("per_rank", as released).
    """

    mode: Literal["full", "generic", "none"] = "full"
    generic_groups: tuple[str, ...] = ("dinov2", "generic")
    drop_probability: Share = 0.5
    normalise: Literal["global", "per_rank"] = "global"


class Targets(Section):
    """Standardisation of teacher tokens: subtract a mean, divide by a standard deviation, per teacher and channel.

    Attributes:
        norm: "exact" mean and deviation over the training rows, or "ema", running averages over batches as released;
            targets that are stored in codes need "exact".
        statistics: rows of the exact statistics: those of the "used" datasets; of all training datasets of the "cache",
            so that students of different datasets have the same targets; or those that data.subset selects ("subset";
            of targets in codes, each dataset's own statistics weighted by the rows that are left).
        ema_start: momentum of the running averages at the first step.
        ema_end: momentum of the running averages at the last step.
    """

    norm: Literal["exact", "ema"] = "exact"
    statistics: Literal["used", "cache", "subset"] = "used"
    ema_start: Share = 1.0
    ema_end: Share = 1e-3


class Optim(Section):
    """AdamW and the arithmetic of a step.

    Attributes:
        lr: peak learning rate for a batch of 256 images; multiplied by batch / 256.
        betas: decay rates of AdamW's two moments.
        eps: AdamW's epsilon.
        weight_decay: AdamW's weight decay; only on tensors of two and more dimensions that are not biases.
        clip_norm: largest norm of each parameter tensor's gradient; larger ones are scaled down. 0 clips nothing.
        precision: "bf16" autocast or "fp32".
        micro_batches: number of parts that a rank's batch is processed in (gradient accumulation).
        compile: compile the student with torch.compile.
    """

    lr: PositiveFloat = 3e-4
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.99)
    eps: PositiveFloat = 1e-15
    weight_decay: NotNegativeFloat = 3e-2
    clip_norm: NotNegativeFloat = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    micro_batches: Images = 1
    compile: bool = False


class Schedule(Section):
    """Length of the training, and the learning rate over it: linear from 0, then cosine.

    Attributes:
        epochs: length in units of 1,281,167 images, as the paper counts.
        steps: length in optimizer steps; None computes it from `epochs`.
        warmup: share of the steps during which the learning rate rises.
        minimum_lr: learning rate that the cosine falls to; not scaled with the batch.
    """

    epochs: PositiveFloat = 100.0
    steps: Steps | None = None
    warmup: Share = 0.2
    minimum_lr: NotNegativeFloat = 1e-6


class Data(Section):
    """Choice of the rows to train on and to measure on.

    Attributes:
        batch: images per step over all ranks, equally many of each group.
        datasets: names of the training datasets; none means all with split "train".
        teachers: names of the teachers; none means all in the cache.
        subset: condition on the manifest's columns that rows must meet, such as "view < 4 and not grayscale"; empty
            means all rows.
        augment: "photometric" changes the colours of the student's input; its teachers saw the original ones.
        val_datasets: names of the held-out datasets; none means all with split "val".
        val_rows: number of rows of each held-out dataset that fidelity is measured on, spread evenly.
    """

    batch: Images = 512
    datasets: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    subset: str = ""
    augment: Literal["none", "photometric"] = "none"
    val_datasets: tuple[str, ...] = ()
    val_rows: Count = 512


class Start(Section):
    """Weights that the training starts from.

    Attributes:
        checkpoint: run directory or DUNE checkpoint to fine-tune: its student, projectors and target statistics, not
            its optimizer; empty starts from random weights.
        required: refuse to train without a checkpoint.
    """

    checkpoint: str = ""
    required: bool = False


class Checkpoint(Section):
    """Saving. May change when a run is resumed.

    Attributes:
        every_steps: steps between checkpoints; 0 saves at the end alone.
        keep: number of checkpoints that stay, the newest.
    """

    every_steps: CountOrNone = 2502
    keep: Count = 3


class Log(Section):
    """Reporting. May change when a run is resumed.

    Attributes:
        fidelity_every_steps: steps between measurements on held-out rows; 0 measures at the end alone.
        tensorboard: write TensorBoard event files too.
        wandb: send the log to Weights & Biases too; without a login it is written below the run, for `wandb sync`.
        trackio: send the log to trackio too, a local project unless its own settings say otherwise.
        project: project of these trackers.
        run_name: name of the run in them; empty makes one of the run directory.
    """

    fidelity_every_steps: CountOrNone = 2502
    tensorboard: bool = True
    wandb: bool = False
    trackio: bool = False
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] = "codistill"
    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_. -]{0,128}$")] = ""


class Machine(Section):
    """Use of this machine. May change when a run is resumed.

    Attributes:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        readers: number of datasets read at once; each is read with several threads.
        prefetch: number of batches read ahead; memory is batch x bytes per row x (this + 1).
        verify: check the checksum of every row read.
        threads: torch's threads on the CPU; 0 leaves the choice to torch.
    """

    device: Annotated[str, AfterValidator(device_name)] = "auto"
    readers: Few = 2
    prefetch: Few = 2
    verify: bool = True
    threads: FewOrNone = 0


class Recipe(Section):
    """A complete training configuration; `train.recipe.named` has the named ones.

    Attributes:
        name: name of the run in tables and titles.
        seed: seed of the first weights, the order of rows and everything else that is random.
    """

    name: str = "recipe"
    seed: Seed = 0
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
        if self.schedule.steps is None and self.schedule.epochs * IMAGENET_IMAGES / self.data.batch > STEPS:
            problems.append(f"schedule.epochs: {self.schedule.epochs:g} are more than {STEPS:,} steps")
        if problems:
            raise ValueError(". ".join(problems))
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run: as given, or computed from the budget in images."""
        if self.schedule.steps is not None:
            return self.schedule.steps
        return iterations(self.schedule.epochs, batch=self.data.batch)

    def to_json(self) -> str:
        """Return the text of a run's `recipe.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def iterations(epochs: float, *, batch: int, epoch_images: int = IMAGENET_IMAGES) -> int:
    """Return the number of steps of a budget: images over batch, rounded up, then up to an even number."""
    steps = math.ceil(epochs * epoch_images / batch)
    return steps + steps % 2


def from_mapping(data: Mapping[str, Any], *, subject: str) -> Recipe:
    """Build a recipe from plain data.

    Raises:
        InvalidConfig: listing all problems.
    """
    return parse(Recipe, data, subject=subject)


def overridden(recipe: Recipe, overrides: Mapping[str, Any], *, subject: str) -> Recipe:
    """Return a recipe with some values replaced.

    Args:
        recipe: stays as it is.
        overrides: dotted key -> value (`{"optim.lr": 1e-3}`), or nested tables, or both.
        subject: name of the recipe in messages.

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
    """Yield every value of nested tables with its dotted key."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changed(stored: Recipe, asked: Recipe) -> list[str]:
    """Return the differences that forbid a resumption, each as `key: stored value, asked value`."""
    ours, theirs = (
        {name: value for name, value in recipe.model_dump(mode="json").items() if name not in FREE_SECTIONS}
        for recipe in (stored, asked)
    )
    return differences(ours, theirs)
