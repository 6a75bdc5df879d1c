"""Multi-HMR's backbone: DINOv2 without registers, fine-tuned on people (NAVER licence; naver/multi-hmr)."""

from backbones import dino, state_dicts, weight_files
from extract.teachers.base import Teacher
from extract.teachers.dinov2 import DinoTeacher, random_dino
from extract.teachers.options import Request
from store.errors import InvalidInput

STATE_NAMES = ("model_state_dict",)
PREFIXES = ("backbone.encoder.", "encoder.backbone.")  # the second in the checkpoints for the Anny body model


def build(request: Request) -> Teacher:
    """Build the backbone from `multiHMR_*.pt`; its heads and body-model buffers are left out.

    Patch tokens only: DUNE ignores this teacher's CLS. Both position rules are the same one here.

    Raises:
        InvalidInput: no Multi-HMR backbone in the file.
    """
    request.refuse("stride")
    if request.random_seed is not None:
        return random_dino(request, register_tokens=0, keep_cls=False)
    state = state_dicts.strip_wrappers(
        state_dicts.find(weight_files.load(request.weights), STATE_NAMES, source=request.source)
    )
    encoder = next(filter(None, (state_dicts.select(state, prefix) for prefix in PREFIXES)), None)
    if encoder is None:
        raise InvalidInput(
            f"{request.source}: expected tensors named {PREFIXES[0]}*, found groups {state_dicts.groups(state)}. "
            "Give a multiHMR_*.pt file"
        )
    network, architecture = dino.build(encoder, num_heads=request.num_heads, source=request.source)
    return DinoTeacher(network, request=request, architecture=architecture, keep_cls=False)
