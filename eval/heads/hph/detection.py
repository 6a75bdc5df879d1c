"""Detection of people on the patch grid: score maps, suppression of neighbours, cells.

Shapes: B images, n patches per side, P people. Source: naver/multi-hmr.
"""

import torch
from torch import Tensor
from torch.nn import functional

from store.errors import InvalidInput

SCORE_EPS = 1e-4
MAX_KERNEL = 15


def non_maximum_suppression(scores: Tensor, kernel: int = 3) -> Tensor:
    """Set the score of every cell to zero that is not the largest in its window; equal neighbours **all** stay.

    Even windows reach one cell further up and left: the padded result is cut to its first n x n cells.

    Args:
        scores: (B, n, m).
        kernel: side of the window in cells.

    Returns:
        (B, n, m).

    Raises:
        InvalidInput: a window outside 1 to 15 cells.
    """
    if not 1 <= kernel <= MAX_KERNEL:
        raise InvalidInput(f"nms_kernel: expected 1 to {MAX_KERNEL} cells, found {kernel}")
    highest = functional.max_pool2d(scores[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
    return scores * (scores == highest[:, : scores.shape[1], : scores.shape[2]])


def detect(scores: Tensor, *, threshold: float = 0.3, kernel: int = 3) -> Tensor:
    """Return the cells of people: those that survive suppression with a score of at least `threshold`.

    Args:
        scores: (B, n, n) in (0, 1).
        threshold: least score.
        kernel: side of the window of `non_maximum_suppression`.

    Returns:
        int64 (P, 3): image, row, column, in this order of importance. There is no limit on P.
    """
    return (non_maximum_suppression(scores, kernel) >= threshold).nonzero()


def check_cells(cells: Tensor, *, images: int, grid: int) -> Tensor:
    """Return given cells as int64 (P, 3); the people of an image stay in their order.

    Raises:
        InvalidInput: another shape, cells beyond the grid, a cell twice, or images out of order.
    """
    if cells.ndim != 2 or cells.shape[1] != 3 or cells.is_floating_point():
        raise InvalidInput(
            f"cells: expected integers (P, 3) of image, row and column, found {cells.dtype} {tuple(cells.shape)}"
        )
    cells = cells.long()
    size = torch.tensor([images, grid, grid], device=cells.device)
    if bool(((cells < 0) | (cells >= size)).any()):
        raise InvalidInput(f"cells: expected images below {images}, rows and columns below {grid}, found others")
    if bool((cells[1:, 0] < cells[:-1, 0]).any()):
        raise InvalidInput("cells: expected the people of one image side by side, images in order. Sort by image")
    if len(torch.unique(cells, dim=0)) != len(cells):
        raise InvalidInput("cells: one cell is given twice. Keep the nearest person of a cell")
    return cells
