"""Pictures section: the tokens of each network as colours, for the same held-out photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.analyses.pca import ENCODER, PHOTOGRAPH, PROJECTION, TEACHER
from eval.report.page import Block, Picture, PictureColumn, PicturesBlock, Section, SheetsBlock, TextBlock, data_uri
from train.run.headline import PATCH_COSINE

COLOURS = (
    "Patch tokens as colours: their first three principal components are red, green and blue. Every network has one "
    "basis for all its pictures, so that equal colours in two photographs mean equal tokens. A projection is shown in "
    "the basis of its teacher: the more the two look alike, the more of the teacher the student has learnt. Colours of "
    "different networks are not comparable otherwise."
)
NOTHING = 'Nothing is held out in these caches, so there is nothing to show. Extract a dataset with split = "val".'
NUMBERS = (
    f"The number below a projection is its {PATCH_COSINE} in this view: cosine similarity to the teacher's patch "
    "tokens, in standardised units."
)
UNFOLDED_SHEETS = 2  # photographs whose grids are shown where there are several runs; others are folded


@dataclass(frozen=True, kw_only=True)
class RunPictures:
    """The pictures of one run.

    Attributes:
        name: name of the run.
        shown: identities of the views; equal for runs that are shown together.
        captions: caption of each view.
        images: model -> uint8 images (H, W, 3), one for each view.
        cosines: projection -> cosine to the teacher in each view.
    """

    name: str
    shown: Sequence[object]
    captions: Sequence[str]
    images: Mapping[str, Sequence[np.ndarray]]
    cosines: Mapping[str, Sequence[float]]


def section(runs: Sequence[RunPictures]) -> Section:
    """Show one grid for one run; for several, one for each photograph with teachers above the students."""
    intro = [COLOURS, NUMBERS]
    blocks: list[Block]
    if not any(run.captions for run in runs):
        blocks = [TextBlock(text=NOTHING)]
    elif len(runs) == 1:
        blocks = [_grid(runs[0])]
    else:
        intro.append("One grid for each photograph, with its teachers in the first row and every student below.")
        by_views: list[list[RunPictures]] = []
        for run in runs:
            same = next((group for group in by_views if list(group[0].shown) == list(run.shown)), None)
            if same is None:
                by_views.append([run])
            else:
                same.append(run)
        blocks = [block for same in by_views for block in _sheets(same)]
    return Section(
        anchor="pictures", short="Pictures", title="What the networks see", intro=tuple(intro), blocks=blocks
    )


def _sheets(runs: Sequence[RunPictures]) -> list[Block]:
    """Make the grids of all photographs; of many, those after the first are folded, for the comparison is below."""
    sheets = [_sheet(runs, number) for number in range(len(runs[0].captions))]
    if len(sheets) <= UNFOLDED_SHEETS:
        return [SheetsBlock(sheets=sheets)]
    rest = sheets[UNFOLDED_SHEETS:]
    folded = f"Show {len(rest)} more photograph{'s' if len(rest) > 1 else ''}"
    return [SheetsBlock(sheets=sheets[:UNFOLDED_SHEETS]), SheetsBlock(sheets=rest, folded=folded)]


def _grid(run: RunPictures) -> PicturesBlock:
    """Make a grid of one row a photograph: teachers, the student's encoder, its projections."""
    models = [model for model in run.images if model != PHOTOGRAPH]
    columns = [PictureColumn(title="Photograph", beside="as stored"), *(_column(model) for model in models)]
    rows = [
        [
            _picture(run, model, number, title=column.title)
            for model, column in zip([PHOTOGRAPH, *models], columns, strict=True)
        ]
        for number in range(len(run.captions))
    ]
    return PicturesBlock(columns=columns, rows=rows, labels=list(run.captions))


def _column(model: str) -> PictureColumn:
    if model.startswith(TEACHER):
        return PictureColumn(title=model.removeprefix(TEACHER), beside="teacher")
    if model.startswith(PROJECTION):
        return PictureColumn(title="student", beside=f"as {model.removeprefix(PROJECTION)}")
    return PictureColumn(title="student", beside="encoder")


def _sheet(runs: Sequence[RunPictures], number: int) -> PicturesBlock:
    """Make the grid of one photograph: teachers in the first row, one row a student, projections below teachers."""
    first = runs[0]
    teachers = list(dict.fromkeys(m.removeprefix(TEACHER) for run in runs for m in run.images if m.startswith(TEACHER)))
    owner = {name: next(run for run in runs if TEACHER + name in run.images) for name in teachers}
    columns = [PictureColumn(title="Photograph", beside="encoder"), *(PictureColumn(title=name) for name in teachers)]
    top = [_picture(first, PHOTOGRAPH, number, title="photograph")]
    top += [_picture(owner[name], TEACHER + name, number, title=name) for name in teachers]
    rows = [top]
    for run in runs:
        models = [ENCODER, *(PROJECTION + name for name in teachers)]
        rows.append([_picture(run, model, number, title=f"{run.name}, {model}") for model in models])
    labels = ["teachers", *(run.name for run in runs)]
    return PicturesBlock(columns=columns, rows=rows, labels=labels, title=first.captions[number], beside=True)


def _picture(run: RunPictures, model: str, number: int, *, title: str) -> Picture:
    if model not in run.images:
        return Picture(uri="", alt=f"{title}: not among the teachers of this run")
    cosine = f"{run.cosines[model][number]:.3f}" if model in run.cosines else ""
    return Picture(
        uri=data_uri(run.images[model][number], lossy=model == PHOTOGRAPH),
        alt=f"{title}: {run.captions[number]}",
        map=model != PHOTOGRAPH,
        below=cosine,
    )
