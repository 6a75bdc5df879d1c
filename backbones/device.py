"""DOC backbones.device."""

import torch

from store import errors


def resolve_device(name: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`.

    Raises:
        errors.InvalidInput: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise errors.InvalidInput(
            f"--device {name} cannot be used: {reason}. Choose auto, cpu, cuda or cuda:N"
        ) from error
    return name
