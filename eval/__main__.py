"""`codistill eval`: measure students, plot figures, write the report page."""

from store.common.interrupts import end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported


import sys
from collections.abc import Callable
from typing import Any

from eval.commands import heads
from eval.commands.analyses import attention, correlation, pca, variance
from eval.commands.probes import depth, knn, linear, segmentation
from eval.commands.report import fidelity, report
from eval.commands.tasks import human_mesh, multiview_depth, multiview_pose, relocalisation
from store.common.cli import run

COMMANDS: dict[str, Callable[..., Any]] = {
    "report": report,
    "fidelity": fidelity,
    "pca": pca,
    "variance": variance,
    "correlation": correlation,
    "attention": attention,
    "knn": knn,
    "linear": linear,
    "segmentation": segmentation,
    "depth": depth,
    "relocalisation": relocalisation,
    "human-mesh": human_mesh,
    "multiview-depth": multiview_depth,
    "multiview-pose": multiview_pose,
    "heads": heads.heads,
}


def main(argv: list[str] | None = None) -> int:
    """Run `codistill eval ...` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["heads"]:  # a program of its own, with commands in two levels
        return heads.main(arguments[1:])
    description = "Measure students against their teachers, plot figures, and write all results on one page."
    return run("codistill eval", description, COMMANDS, argv=arguments)


if __name__ == "__main__":
    raise SystemExit(main())
