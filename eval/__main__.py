"""`codistill eval`: measure students, plot figures, write the report page."""

from store.common.interrupts import end_in_one_line

if __name__ == "__main__":
    end_in_one_line()  # also while what follows is imported


from collections.abc import Callable
from typing import Any

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
}


def main(argv: list[str] | None = None) -> int:
    """Run `codistill eval ...` and return its exit code."""
    description = "Measure students against their teachers, plot figures, and write all results on one page."
    return run("codistill eval", description, COMMANDS, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main())
