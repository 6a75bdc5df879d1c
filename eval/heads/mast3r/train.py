"""Training of MASt3R's decoder and heads on a frozen student: published losses, AdamW, pairs in parts that ranks share.

Shapes: B pairs, H W pixels.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backbones import state_dicts
from eval.heads.mast3r import write
from eval.heads.mast3r.dpt import HeadSizes
from eval.heads.mast3r.encoders import StudentPairEncoder
from eval.heads.mast3r.feature_cache import FeatureCache
from eval.heads.mast3r.initialise import from_mast3r, from_scratch
from eval.heads.mast3r.losses import Criterion, Matching, Regression
from eval.heads.mast3r.model import PairModel
from eval.heads.mast3r.sizes import PairSizes
from eval.heads.mast3r.training_pairs import batches
from eval.heads.pairs import Augmentation, Mixture, PairBatch, PairBatches
from eval.heads.recipes.mast3r import LossConfig, Mast3rRecipe
from eval.heads.training import loop
from eval.heads.training.schedule import gradient_norm, warmup_then_cosine
from store.common.stateless_random import key
from store.errors import Diverged, InvalidInput
from train.distributed import Ranks
from train.optim import adamw, set_lr
from train.run import checkpoints, log
from train.run.checkpoints import Checkpoint

WEIGHTS = "mast3r.pth"
ENCODER_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def train_mast3r(
    recipe: Mast3rRecipe,
    *,
    model: PairModel,
    mixture: Mixture,
    out: Path,
    data: Sequence[Mapping[str, Any]] = (),
    student_name: str = "student",
    ranks: Ranks | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    listener: log.Listener | None = None,
) -> loop.Outcome:
    """Train a student's pair model into a run directory; its encoder stays as it is.

    Everything random is a function of (seed, step), so a run that was stopped and resumed takes the same steps as one
    that was not; on the CPU, bit for bit. SIGTERM and Ctrl-C end the training with a checkpoint.

    Args:
        recipe: complete configuration.
        model: model before its first step, from `begin`; it is trained in place.
        mixture: pairs.
        out: run directory.
        data: JSON of the datasets of pairs, which a resumption must not change.
        student_name: name of the student, which the released layout stores.
        ranks: this process among those that train together; None means alone, on the CPU.
        resume: go on with the run in `out`; begin it if there is none.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.
        listener: receives each step in place of a progress bar.

    Raises:
        InvalidInput: resolutions, batch, student and ranks do not fit together.
        OutputExists, Conflict: `out` holds something else; see `eval.heads.training.run_directory.prepare`.
        Diverged: the loss or gradient was not finite; no weight was changed by it.
    """
    ranks = ranks or Ranks(rank=0, world=1, device=torch.device("cpu"))
    _check(recipe, model, ranks)
    if ranks.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if recipe.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = recipe.tf32
    stepper = Stepper(recipe, model=model, ranks=ranks)
    description = {**stepper.description(), "pairs": [dict(entry) for entry in data]}
    if recipe.features and isinstance(model.encoder, StudentPairEncoder):
        student = f"{description['student']} {recipe.encoder_precision} {ranks.device.type}"
        model.encoder.cache = FeatureCache(
            Path(recipe.features), student=student, most_bytes=int(recipe.features_gb * 1e9)
        )
    pairs = PairBatches(
        mixture=mixture,
        batch=recipe.batch,
        resolutions=recipe.resolutions,
        augmentation=Augmentation(**recipe.augment.model_dump()),
        matches=recipe.loss.matches,
        seed=recipe.seed,
    )
    share = recipe.parts // ranks.world
    own = range(ranks.rank * share, (ranks.rank + 1) * share)
    longest = max(width for width, _ in recipe.resolutions)
    training = loop.Training(
        recipe=recipe,
        description=description,
        stepper=stepper,
        batches=lambda steps: batches(pairs, steps=steps, own=own, parts=recipe.parts, workers=recipe.workers),
        images=2 * recipe.batch,
        weights=WEIGHTS,
        write=lambda path: write.save(path, model, backbone_name=student_name, img_size=(longest, longest)),
    )
    return loop.run(training, out, ranks=ranks, resume=resume, overwrite=overwrite, quiet=quiet, listener=listener)


def begin(recipe: Mast3rRecipe, student: StudentPairEncoder, *, init: Path | None = None) -> PairModel:
    """Return a student's pair model before its first step.

    Args:
        recipe: complete configuration; its seed draws what is new.
        student: frozen student.
        init: file of MASt3R to begin from by DUNE's rule; None draws everything, with the sizes of the recipe.

    Raises:
        MissingFile, UnsafeFile, Damaged, InvalidInput: see `eval.heads.mast3r.from_mast3r`.
    """
    if init is not None:
        return from_mast3r(init, student.network, seed=recipe.seed).model
    form = recipe.decoder
    head = HeadSizes(
        patch_size=student.patch_size,
        layer_dims=form.dpt_dims,
        feature_dim=form.dpt_features,
        last_dim=form.dpt_last,
        desc_dim=form.desc_dim,
    )
    sizes = PairSizes(
        enc_embed_dim=student.embed_dim,
        dec_embed_dim=form.dim,
        dec_depth=form.depth,
        dec_num_heads=form.heads,
        head=head,
    )
    return from_scratch(student, sizes, seed=recipe.seed)


def criterion(config: LossConfig) -> Criterion:
    """Return the criterion of a recipe."""
    matching = Matching(temperature=config.temperature, alpha=config.matching_alpha)
    return Criterion(
        regression=Regression(max_metric_scale=config.max_metric_scale, sky_loss=config.sky),
        alpha=config.alpha,
        matching=matching if config.matching else None,
        matching_weight=config.matching,
    )


class Stepper:
    """The model, its optimizer and its learning rates; takes steps.

    Args:
        recipe: complete configuration.
        model: student's pair model; it goes to the device of this rank.
        ranks: this process among those that train together.
    """

    def __init__(self, recipe: Mast3rRecipe, *, model: PairModel, ranks: Ranks) -> None:
        self.recipe, self.ranks = recipe, ranks
        self.model = model.to(ranks.device).train()
        if isinstance(model.encoder, StudentPairEncoder):
            model.encoder.dtype = ENCODER_DTYPES[recipe.encoder_precision]
        self.trained = nn.ModuleDict({"norm": model.norm or nn.Identity(), "mast3r": model.mast3r})
        self._criterion = criterion(recipe.loss)
        optim = recipe.optim
        self._rates = warmup_then_cosine(
            peak=optim.lr, minimum=optim.minimum_lr, steps=recipe.steps, warmup_steps=recipe.warmup_steps
        )
        self._optimizer = adamw(
            self.trained,
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self._parallel: Any = self.model
        if ranks.world > 1:
            devices = [ranks.device.index] if ranks.device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.model, device_ids=devices, broadcast_buffers=False)

    def step(self, batch: Sequence[PairBatch], step: int) -> dict[str, Any]:
        """Take one step.

        Args:
            batch: the parts of this rank.
            step: number of the step, from 0.

        Returns:
            Numbers for the log, means over all parts of all ranks: loss, its terms; norm of the gradient, learning
            rate, resolution.

        Raises:
            Diverged: the loss or the gradient is not finite; no weight was changed.
        """
        rate = float(self._rates[step])
        set_lr(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        numbers: list[dict[str, Tensor]] = []
        for number, part in enumerate(batch):
            last = number == len(batch) - 1
            waits = nullcontext() if last or self.ranks.world == 1 else self._parallel.no_sync()
            with waits:
                loss, terms = self._losses(part, seed=key("matching blocks", self.recipe.seed, step, number))
                torch.autograd.backward(loss / len(batch))
            numbers.append({"loss": loss.detach(), **terms})
        means = self._means(numbers)
        if not all(map(torch.isfinite, means.values())):
            wrong = ", ".join(name for name, value in means.items() if not torch.isfinite(value))
            raise Diverged(f"step {step + 1}: not finite: {wrong}. No weight was changed. Lower optim.lr")
        norm = gradient_norm(self.trained)
        if not bool(norm.isfinite()):
            raise Diverged(f"step {step + 1}: the gradient is not finite. No weight was changed. Lower optim.lr")
        self._optimizer.step()
        height, width = batch[0].view1.image.shape[1:3]
        return {
            "loss": means.pop("loss").item(),
            "losses": {name: value.item() for name, value in means.items()},
            "grad_norm": norm.item(),
            "lr": rate,
            "resolution": [width, height],
        }

    def _losses(self, part: PairBatch, *, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        both = part.symmetrised()
        outputs = self._parallel(
            both.view1.image,
            both.view2.image,
            true_shape1=both.view1.true_shape,
            true_shape2=both.view2.true_shape,
            symmetrised=True,
        )
        generator = torch.Generator().manual_seed(seed >> 1)
        return self._criterion(outputs, both.truth().to(self.ranks.device), generator=generator)

    def _means(self, numbers: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the means over the parts of all ranks, in host memory."""
        stacked = torch.stack([torch.stack(list(part.values())) for part in numbers]).mean(dim=0).double().cpu()
        return dict(zip(numbers[0], self.ranks.total(stacked) / self.ranks.world, strict=True))

    def description(self) -> dict[str, Any]:
        """Return JSON of the student and of the weights that a training begins with."""
        return {
            "student": {
                "weights_sha256": state_dicts.fingerprint(self.model.encoder.state_dict()),
                "patch_size": self.model.patch_size,
                "num_heads": getattr(getattr(self.model.encoder, "network", None), "num_heads", None),
            },
            "start_sha256": state_dicts.fingerprint(self._tensors()),
        }

    def checkpoint(self, step: int) -> Checkpoint:
        """Return everything that the next step depends on besides recipe and data."""
        return Checkpoint(
            step=step,
            model=self._tensors(),
            optimizer=checkpoints.optimizer_tensors(self._optimizer, self.trained),
            state={"steps": self.recipe.steps, "pairs": step * self.recipe.batch, "torch": torch.__version__},
        )

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: it is of another model.
        """
        own = self._tensors()
        state_dicts.check(own, checkpoint.model, source=f"checkpoint of step {checkpoint.step}")
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])
        checkpoints.restore_optimizer(self._optimizer, self.trained, checkpoint.optimizer)

    def _tensors(self) -> dict[str, Tensor]:
        """Return the trained tensors, each under one name though files have some under two."""
        return {name: parameter.detach() for name, parameter in self.trained.named_parameters()}


def _check(recipe: Mast3rRecipe, model: PairModel, ranks: Ranks) -> None:
    """Refuse what does not fit together.

    Raises:
        InvalidInput: all problems.
    """
    patch = model.patch_size
    wrong = [f"{width}x{height}" for width, height in recipe.resolutions if width % patch or height % patch]
    problems = (
        [f"resolutions {', '.join(wrong)}: expected multiples of the student's patch, {patch} px"] if wrong else []
    )
    if model.norm is None:
        problems.append("model: expected a student's, found MASt3R with its own encoder")
    if recipe.parts % ranks.world:
        problems.append(
            f"batch {recipe.batch} in parts of {recipe.part}: {recipe.parts} parts cannot be shared evenly by "
            f"{ranks.world} processes"
        )
    if problems:
        raise InvalidInput(". ".join(problems))
