"""The body model that a command line names."""

from pathlib import Path
from typing import cast

import torch

from eval.heads.body.anny import Anny
from eval.heads.body.base import BodyModel
from eval.heads.body.smplx import SmplX

ANNY = "anny"


def open_body(source: str, *, device: torch.device) -> BodyModel:
    """Open a body model.

    Args:
        source: `anny`, or the path of SMPL-X's .npz file.
        device: device that it goes to.

    Raises:
        MissingExtra: Anny is not installed.
        MissingFile, Damaged, UnsafeFile, InvalidInput: see `SmplX`.
    """
    if source == ANNY:
        return cast(BodyModel, Anny().to(device))
    return cast(BodyModel, SmplX(Path(source)).to(device))
