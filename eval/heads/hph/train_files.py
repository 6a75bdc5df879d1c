"""A training of the perception head from what a command line names."""

from pathlib import Path

import torch

from backbones.device import resolve_device
from eval.heads.body.choose import open_body
from eval.heads.hph.bedlam import Bedlam, Split
from eval.heads.hph.mean_parameters import from_spin
from eval.heads.hph.student import open_frozen
from eval.heads.hph.train import sizes_for, train_hph
from eval.heads.recipes.hph import HphRecipe
from eval.heads.training.loop import Outcome


def train_from_files(
    recipe: HphRecipe,
    *,
    student: Path,
    data: Path,
    body: str,
    out: Path,
    split: Split = "training",
    means: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Open everything and train.

    Args:
        recipe: complete configuration.
        student: run directory, or encoder file in DUNE's layout.
        data: folder in BEDLAM's layout.
        body: `anny`, or the path of SMPL-X's .npz file.
        out: run directory.
        split: part of the data.
        means: SPIN's mean parameters; None takes identity rotations.
        device: device to train on.
        resume: go on with the run in `out`.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.

    Raises:
        CodistillError: something cannot be opened or does not fit together; see `train_hph`.
    """
    chosen = torch.device(resolve_device(device, option="--device"))
    images = Bedlam(data, split)
    encoder = open_frozen(student, device=chosen, blocks=recipe.head.blocks)
    model = open_body(body, device=chosen)
    sizes = sizes_for(recipe, channels=encoder.network.channels, body=model)
    return train_hph(
        recipe,
        encoder=encoder,
        data=images,
        body=model,
        out=out,
        means=None if means is None else from_spin(means, sizes),
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
