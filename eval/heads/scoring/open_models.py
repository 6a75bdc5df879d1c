"""Models for the benchmarks from files that a command line names."""

from pathlib import Path

import torch

from backbones.device import resolve_device
from eval.encoders.load import open_encoder
from eval.encoders.open_encoder import OpenEncoder
from eval.encoders.options import EncoderOptions
from eval.heads import hph, mast3r
from eval.heads.body.choose import ANNY, open_body
from eval.heads.hph.files import tokens_read
from eval.heads.hph.student import FrozenTokens, open_frozen
from eval.heads.mast3r.predict_files import trained_side
from eval.heads.scoring.human_mesh import PeopleModel
from eval.heads.scoring.predictor import Predictor, tensors_digest
from eval.runs.results import file_digest


def open_predictor(
    weights: Path, *, student: Path | None = None, device: str = "auto", long_side: int | None = None
) -> Predictor:
    """Open a pair model.

    Args:
        weights: trained head, a released file of DUNE-MASt3R, or one of MASt3R.
        student: run or encoder file that the head was trained on; None for files with their own encoder.
        device: device to run on.
        long_side: longer side of the images, px; None takes that of the head's training, else of the released models.

    Raises:
        CodistillError: see `eval.heads.mast3r.load`.
    """
    chosen = resolve_device(device, option="--device")
    pairs = mast3r.load(weights, encoder=student, device=chosen)
    side = long_side or trained_side(weights, patch_size=pairs.patch_size)
    return Predictor(pairs=pairs, identity={"tensors_sha256": tensors_digest(pairs)}, long_side=side)


def open_people(weights: Path, *, student: Path, body: str, device: str = "auto") -> PeopleModel:
    """Open a perception head with its encoder and body model.

    Args:
        weights: trained head.
        student: run or encoder file that it was trained on.
        body: `anny`, or the path of SMPL-X's .npz file.
        device: device to run on.

    Raises:
        CodistillError: see `eval.heads.hph.load`, `open_frozen` and `open_body`.
    """
    chosen = torch.device(resolve_device(device, option="--device"))
    head = hph.load(weights, device=chosen)
    encoder = open_frozen(student, device=chosen, blocks=head.sizes.blocks)
    tokens = FrozenTokens(encoder, tokens=tokens_read(weights))
    identity = {
        "head_sha256": tensors_digest(head),
        "encoder": dict(encoder.identity),
        "body": ANNY if body == ANNY else file_digest(Path(body)),
    }
    return PeopleModel(head=head, tokens=tokens, body=open_body(body, device=chosen), identity=identity)


def open_probed(student: Path, *, projector: str | None, final_norm: bool, device: str = "auto") -> OpenEncoder:
    """Open a student for a probe.

    Args:
        student: run or encoder file.
        projector: take the tokens that the projector to this teacher predicts; None takes the student's own.
        final_norm: apply the student's final norm to its own tokens.
        device: device to run on.

    Raises:
        MissingFile, InvalidInput: see `open_encoder`.
    """
    chosen = torch.device(resolve_device(device, option="--device"))
    options = EncoderOptions(projector=projector, device=device)
    return open_encoder(str(student), options, device=chosen, final_norm=final_norm)
