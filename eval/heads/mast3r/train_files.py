"""A training of MASt3R's decoder from what a command line names: a student, a PAIRS.toml, a file to begin from."""

from pathlib import Path

from eval.heads.mast3r.encoders import open_student
from eval.heads.mast3r.train import begin, train_mast3r
from eval.heads.pairs import Mixture, open_datasets, read_pairs_file
from eval.heads.recipes.mast3r import Mast3rRecipe
from eval.heads.training.loop import Outcome
from train.distributed import join_ranks


def train_from_files(
    recipe: Mast3rRecipe,
    *,
    student: Path,
    pairs: Path,
    out: Path,
    init: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Open everything and train; under torchrun together with the other ranks.

    Args:
        recipe: complete configuration.
        student: run directory, or encoder file in DUNE's layout.
        pairs: PAIRS.toml.
        out: run directory.
        init: file of MASt3R to begin from; None draws everything.
        device: device to train on.
        resume: go on with the run in `out`.
        overwrite: delete the run in `out` first.
        quiet: show no progress bar.

    Raises:
        CodistillError: something cannot be opened or does not fit together; see `train_mast3r`.
    """
    with join_ranks(device, option="--device") as ranks:
        file = read_pairs_file(pairs)
        datasets = open_datasets(file)
        entries = [
            {**entry.model_dump(mode="json", exclude={"root"}), "available": len(dataset)}
            for entry, dataset in zip(file.dataset, datasets, strict=True)
        ]
        return train_mast3r(
            recipe,
            model=begin(recipe, open_student(student), init=init),
            mixture=Mixture(datasets=datasets, pairs=[entry.pairs for entry in file.dataset], seed=recipe.seed),
            out=out,
            data=entries,
            student_name=student.resolve().stem,
            ranks=ranks,
            resume=resume,
            overwrite=overwrite,
            quiet=quiet,
        )
