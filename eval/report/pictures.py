"""The picture part of the page: what each network sees in the same held-out photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.analyses.pca import ENCODER, PHOTOGRAPH, PROJECTION, TEACHER
from eval.report.blocks import Block, Picture, PictureColumn, PicturesBlock, Section, data_uri


@dataclass(frozen=True, kw_only=True)
class RunPictures:
    """The pictures of one run: model -> uint8 images (H, W, 3), with a caption for each image; and its caches."""

    name: str
    caches: tuple[str, ...]
    captions: Sequence[str]
    images: Mapping[str, Sequence[np.ndarray]]


def section(runs: Sequence[RunPictures]) -> Section:
    """One grid for each set of caches: photographs and teachers once, then every student's encoder and projections."""
    blocks: list[Block] = []
    for caches in dict.fromkeys(run.caches for run in runs):
        together = [run for run in runs if run.caches == caches]
        if together[0].captions:
            blocks.append(_grid(together, several=len(runs) > 1))
    return Section(
        anchor="pictures",
        short="Pictures",
        title="What the networks see",
        intro=(
            "Patch tokens as colours: their first three principal components are red, green and blue. Every network "
            "has one basis for all its pictures, so that equal colours down a column mean equal tokens. A projection "
            "is drawn in the basis of its teacher: the more the two look alike, the more of the teacher the student "
            "has learnt. Colours of different networks have nothing to do with each other.",
        ),
        blocks=blocks,
    )


def _grid(runs: Sequence[RunPictures], *, several: bool) -> PicturesBlock:
    first = runs[0]
    teachers = [model for model in first.images if model.startswith(TEACHER)]
    columns = [PictureColumn(title="Photograph", beside="as stored")]
    columns += [PictureColumn(title=model.removeprefix(TEACHER), beside="teacher") for model in teachers]
    shown: list[Sequence[np.ndarray]] = [first.images[PHOTOGRAPH], *(first.images[model] for model in teachers)]
    for run in runs:
        owner = run.name if several else "student"
        columns.append(PictureColumn(title=owner, beside="encoder"))
        shown.append(run.images[ENCODER])
        for model in [model for model in run.images if model.startswith(PROJECTION)]:
            columns.append(PictureColumn(title=owner, beside=f"as {model.removeprefix(PROJECTION)}"))
            shown.append(run.images[model])
    rows = []
    for number, caption in enumerate(first.captions):
        row = []
        for place, (column, images) in enumerate(zip(columns, shown, strict=True)):
            uri = data_uri(images[number], lossy=place == 0)
            row.append(Picture(uri=uri, alt=f"{column.title} {column.beside}: {caption}", map=place > 0))
        rows.append(row)
    return PicturesBlock(columns=columns, rows=rows, labels=list(first.captions))
