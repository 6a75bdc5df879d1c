"""The batch size of a job: found once, then fixed and recorded, because results may depend on it in the last bit."""

import torch

from extract.teachers.base import Teacher
from extract.teachers.checks import check_tokens
from store.errors import JobFailed

CPU_BATCH = 8
GPU_LIMIT = 256


def find_batch_size(teacher: Teacher, image_size: int, *, limit: int = GPU_LIMIT) -> int:
    """Return the largest batch that fits the teacher's GPU, by halving from `limit`; on a CPU a constant.

    Args:
        teacher: on the device that the job will use.
        image_size: side of the stored pixels, px.
        limit: not more than this, for example the rows of a shard.

    Raises:
        JobFailed: not even one image fits.
    """
    if teacher.device.type != "cuda":
        return min(CPU_BATCH, limit)
    batch = limit
    while batch:
        if _fits(teacher, batch, image_size):
            return batch
        torch.cuda.empty_cache()
        batch //= 2
    raise JobFailed(
        f"teacher '{teacher.model}': one image of {image_size} px does not fit the memory of {teacher.device}. "
        "Use a GPU with more memory, or dtype = 'float16'"
    )


def _fits(teacher: Teacher, batch: int, image_size: int) -> bool:
    """Whether a batch runs, with its outputs joined and rounded as a job does."""
    try:
        pixels = torch.zeros(batch, image_size, image_size, 3, dtype=torch.uint8, device=teacher.device)
        check_tokens(torch.cat(teacher(pixels), dim=1))
    except torch.OutOfMemoryError:
        return False
    return True
