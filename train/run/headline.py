"""The headline of a held-out measurement: the patch cosine, which tables, charts and pages show for each teacher."""

from collections.abc import Mapping

PATCH_COSINE = "patch cosine"
DEFINITION = (
    "Patch cosine: cosine similarity of the student's projected patch tokens to the teacher's standardised patch "
    "tokens, averaged over tokens; 1 is perfect, higher is better. CLS tokens are not part of it."
)
DECODED = " (decoded targets)"  # after the name of a dataset whose targets are codes: their noise lowers every measure
LOSSES = ("patch_cosine_loss", "patch_cosine")  # the same distance, 1 - cosine, in records of today and of before


def patch_cosine(measured: Mapping[str, float]) -> float:
    """Return the patch cosine of one teacher on one dataset.

    Args:
        measured: measures by name, from a record of kind `fidelity`. In older records `cosine` is averaged over CLS
            and patch tokens, so it is taken only if the record has no patch tokens apart.
    """
    loss = next((measured[name] for name in LOSSES if name in measured), None)
    return measured["cosine"] if loss is None else 1.0 - loss


def patch_smooth_l1(measured: Mapping[str, float]) -> float:
    """Return the smooth-L1 distance of patch tokens of one teacher on one dataset; `measured` as in `patch_cosine`."""
    return measured.get("patch_smooth_l1", measured["smooth_l1"])


def is_decoded(dataset: str) -> bool:
    """Return whether a dataset of a record holds measures on decoded targets, which compare with no others."""
    return dataset.endswith(DECODED)


def best_patch_cosine(measured: Mapping[str, float]) -> float | None:
    """Return the patch cosine of a student that predicts the true tokens; None where the targets are those."""
    return 1.0 - measured["patch_cosine_floor"] if "patch_cosine_floor" in measured else None
