"""The story of a training of the perception head: frozen tokens, true people, Adam, checkpoints.

Shapes: B images, S side in px, N patches, C channels.
"""

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.state_dicts import load_into
from eval.encoders.open_encoder import OpenEncoder
from eval.heads.body.base import BodyModel
from eval.heads.hph import files, losses
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.samples import Sample, SampleSet, TrainingBatch, flipped, to_batch
from eval.heads.hph.sizes import HeadSizes
from eval.heads.hph.student import FrozenTokens
from eval.heads.recipes.hph import HphRecipe
from eval.heads.training import loop
from eval.heads.training.schedule import gradient_norm
from store.common.stateless_random import key, uniforms
from store.common.threads import ordered_map
from store.errors import Diverged, InvalidInput
from train.distributed import Ranks
from train.optim import cosine, set_lr
from train.run import checkpoints, log
from train.run.checkpoints import Checkpoint

HEAD = "head.pt"
AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train_hph(
    recipe: HphRecipe,
    *,
    encoder: OpenEncoder,
    data: SampleSet,
    body: BodyModel,
    out: Path,
    means: Mapping[str, Tensor] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    listener: log.Listener | None = None,
) -> loop.Outcome:
    """Train a perception head on a frozen encoder into a run directory.

    Everything random is a function of (seed, step), so a run that was stopped and resumed takes the same steps as one
    that was not; on the CPU, bit for bit. SIGTERM and Ctrl-C end the training with a checkpoint.

    Args:
        recipe: complete configuration.
        encoder: frozen encoder, on the device to train on; opened without its final norm, since a norm follows the
            blocks.
        data: images with people.
        body: body model of the data, on the device of the encoder.
        out: run directory.
        means: mean parameters; None takes identity rotations and zeros.
        resume: go on with the run in `out`; begin it if there is none.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.
        listener: receives each step in place of a progress bar.

    Raises:
        InvalidInput: no images, or encoder, data and body model do not fit together.
        OutputExists, Conflict: `out` holds something else; see `eval.heads.training.run_directory.prepare`.
        Diverged: a loss or gradient was not finite; no weight was changed by it.
    """
    if not len(data):
        raise InvalidInput("training of a perception head: no images. Check the data set")
    tokens = FrozenTokens(encoder, tokens=recipe.head.tokens)
    torch.manual_seed(key("first weights", recipe.seed) >> 1)
    head = files.build(sizes_for(recipe, channels=tokens.channels, body=body), means=means).to(encoder.device).train()
    stepper = Stepper(recipe, tokens=tokens, head=head, body=body)

    def batches(steps: range) -> Generator[TrainingBatch]:
        return _batches(data, recipe, steps=steps, body=body, device=encoder.device)

    def write(path: Path) -> None:  # a file that `eval.heads.hph.load` opens
        args = {**recipe.model_dump(mode="json"), "encoder": dict(encoder.identity)}
        files.save(path, head, epoch=recipe.steps // recipe.steps_per_epoch, iteration=recipe.steps, args=args)

    training = loop.Training(
        recipe=recipe,
        description=_description(tokens, data, body),
        stepper=stepper,
        batches=batches,
        images=recipe.batch,
        weights=HEAD,
        write=write,
    )
    ranks = Ranks(rank=0, world=1, device=encoder.device)
    return loop.run(training, out, ranks=ranks, resume=resume, overwrite=overwrite, quiet=quiet, listener=listener)


def _description(tokens: FrozenTokens, data: SampleSet, body: BodyModel) -> dict[str, Any]:
    """Return JSON of what a resumption must not change besides the recipe."""
    numbers = (body.rotations, body.shape_numbers, body.expression_numbers)
    return {
        "encoder": dict(tokens.encoder.identity),
        "images": len(data),
        "body": {"model": type(body).__name__, "numbers": list(numbers), "faces": len(body.faces)},
    }


def _batches(
    data: SampleSet, recipe: HphRecipe, *, steps: range, body: BodyModel, device: torch.device
) -> Generator[TrainingBatch]:
    """Yield the batch of each step; images of the next step are read meanwhile, bodies posed by the caller's thread."""

    def read(drawn: tuple[int, bool]) -> Sample:
        sample = data.sample(drawn[0], img_size=recipe.img_size)
        return flipped(sample, body.mirrored) if drawn[1] else sample

    drawn = (image for step in steps for image in draw(recipe, step, images=len(data)))
    readers = ThreadPoolExecutor(recipe.readers)
    try:
        samples = ordered_map(readers, read, drawn, ahead=2 * recipe.batch)
        for _ in steps:
            yield to_batch([next(samples) for _ in range(recipe.batch)], body, device=device)
    finally:
        readers.shutdown(cancel_futures=True)


def sizes_for(recipe: HphRecipe, *, channels: int, body: BodyModel) -> HeadSizes:
    """Return the sizes of the head that a recipe describes, on tokens of `channels`, for a body model.

    The shape numbers are at most 10, as in the released models.
    """
    form = recipe.head
    return HeadSizes(
        embed_dim=channels,
        img_size=recipe.img_size,
        num_betas=min(body.shape_numbers, 10),
        rotations=body.rotations,
        expressions=body.expression_numbers,
        dim=form.dim,
        depth=form.depth,
        heads=form.heads,
        dim_head=form.dim_head,
        mlp_dim=form.mlp_dim,
        blocks=form.blocks,
        block_heads=form.block_heads,
    )


def draw(recipe: HphRecipe, step: int, *, images: int) -> list[tuple[int, bool]]:
    """Return (number of the image, whether it is mirrored) for each image of a step, drawn with replacement."""
    numbers = uniforms(key("images", recipe.seed, step), 2 * recipe.batch)
    chosen = (numbers[: recipe.batch] * images).astype(int).tolist()
    return list(zip(chosen, (numbers[recipe.batch :] < recipe.flip).tolist(), strict=True))


class Stepper:
    """The head, its optimizer and its learning rates; takes steps.

    Args:
        recipe: complete configuration.
        tokens: frozen encoder.
        head: head on the encoder's device.
        body: body model on the same device.
    """

    def __init__(self, recipe: HphRecipe, *, tokens: FrozenTokens, head: PerceptionHead, body: BodyModel) -> None:
        self.recipe = recipe
        self._tokens, self._head, self._body = tokens, head, body
        self._rates = cosine(start=recipe.lr, end=recipe.minimum_lr, steps=recipe.steps)
        self._optimizer = torch.optim.Adam(head.parameters(), lr=recipe.lr, fused=True)

    def step(self, batch: TrainingBatch, step: int) -> dict[str, Any]:
        """Take one step.

        Args:
            batch: images with their true people.
            step: number of the step, from 0.

        Returns:
            Numbers for the log: loss, the terms without their weights, people, norm of the gradient, learning rate.

        Raises:
            Diverged: the detection loss or the gradient is not finite; no weight was changed.
        """
        recipe = self.recipe
        rate = float(self._rates[step])
        set_lr(self._optimizer, rate)
        tokens = self._tokens(batch.pixels)
        device, dtype = tokens.device.type, AUTOCAST[recipe.precision]
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            people = self._head(tokens, batch.intrinsics, cells=batch.truth.idx_image_row_col, body=self._body)
        terms = losses.all_terms(losses.values(people), losses.values(batch.truth), img_size=recipe.img_size)
        loss = losses.total(terms, recipe.losses, epoch=step // recipe.steps_per_epoch)
        if not bool(terms["bce"].isfinite()):
            raise Diverged(f"step {step + 1}: the detection loss is not finite. Lower lr, or use precision fp32")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = gradient_norm(self._head)
        if not bool(norm.isfinite()):
            raise Diverged(f"step {step + 1}: the gradient is not finite. Lower lr, or use precision bf16 or fp32")
        self._optimizer.step()
        return {
            "loss": loss.item(),
            "losses": {name: term.item() for name, term in terms.items() if bool(term.isfinite())},
            "people": len(people),
            "grad_norm": norm.item(),
            "lr": rate,
        }

    def checkpoint(self, step: int) -> Checkpoint:
        """Return everything that the next step depends on besides the recipe."""
        return Checkpoint(
            step=step,
            model=self._head.state_dict(),
            optimizer=checkpoints.optimizer_tensors(self._optimizer, self._head),
            state={"steps": self.recipe.steps, "torch": torch.__version__},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            InvalidInput: it is of another head.
        """
        source = f"checkpoint of step {checkpoint.step}"
        load_into(self._head, dict(checkpoint.model), source=source)
        checkpoints.restore_optimizer(self._optimizer, self._head, checkpoint.optimizer)
