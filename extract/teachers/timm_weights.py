"""Create a timm model and load its weights from a local file; nothing is ever downloaded."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from backbones import state_dicts, weight_files
from backbones.timm_library import EfficientNet, timm
from extract.teachers import efficientnet_lite, random_weights
from extract.teachers.options import Request
from store.common.config import near_miss
from store.errors import InvalidInput

PREFIX = "timm:"
STATE_NAMES = ("state_dict_ema", "state_dict", "model_ema", "model")
# Modules of timm's models behind the features: not needed in the file and not part of the identity.
HEADS = ("head", "head_dist", "head_drop", "fc", "fc_norm", "classifier", "last_linear", "attn_pool")
# Keywords that let a model take any input size; the first set that it accepts is used.
ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
FILTER_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def load(request: Request) -> Any:
    """Create the model that `request.model` names and load its weights strictly, without its heads.

    Returns:
        A timm model on the CPU; `remove_heads` removes what the features do not need.

    Raises:
        InvalidInput: unknown model, or a file that does not hold it.
    """
    network = create(request.model.removeprefix(PREFIX))
    if request.random_seed is not None:
        random_weights.fill(network, request.random_seed)
        return network
    state = state_dicts.strip_wrappers(
        state_dicts.find(weight_files.load(request.weights), STATE_NAMES, source=request.source)
    )
    state = without_heads(_timm_names(state, network, source=request.source))
    state_dicts.check(without_heads(network.state_dict()), state, source=request.source)
    network.load_state_dict(state, strict=False)  # not strict: the heads keep random weights, which are never used
    return network


def create(name: str) -> Any:
    """Create a timm model with random weights and without a classifier, for any input size where it allows that.

    Raises:
        InvalidInput: timm does not know it.
    """
    if not timm.is_model(name):
        architecture = name.partition(".")[0]
        raise InvalidInput(
            f"teacher '{PREFIX}{name}': timm {timm.__version__} has no such model"
            f"{near_miss(architecture, timm.list_models())}. See: python -c 'import timm; print(timm.list_models())'"
        )
    _refuse_wrong_activation(name)
    for keywords in ANY_SIZE:
        try:
            network = timm.create_model(name, pretrained=False, num_classes=0, **keywords)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
        except RuntimeError as error:
            raise InvalidInput(f"teacher '{PREFIX}{name}': timm cannot make it ({error})") from error
        else:
            break
    return network


def _refuse_wrong_activation(name: str) -> None:
    """Refuse OpenAI's CLIP weights in the model with the wrong GELU, for which timm lists them too."""
    configuration = timm.get_pretrained_cfg(name)
    notes = (getattr(configuration, "notes", None) if configuration else None) or ()
    if "quickgelu" not in name and any("natively QuickGELU" in note for note in notes):
        wanted = name.replace("_clip_", "_clip_quickgelu_")
        raise InvalidInput(
            f"teacher '{PREFIX}{name}': its weights were trained with QuickGELU, this model has the exact GELU. "
            f"Use '{PREFIX}{wanted}'"
        )


def remove_heads(network: Any) -> None:
    """Replace the modules behind the features by identities, so that the fingerprint covers only what is used."""
    for head in HEADS:
        if hasattr(network, head):
            setattr(network, head, nn.Identity())


def without_heads(state: Mapping[str, Tensor]) -> state_dicts.State:
    """Drop the tensors of classification heads and of attention pooling."""
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in HEADS}


def _timm_names(state: state_dicts.State, network: Any, *, source: str) -> state_dicts.State:
    """Rename a file in its authors' naming by timm's own conversion for this model, if its names are not timm's."""
    expected = without_heads(network.state_dict())
    if all(name in state for name in expected):
        return state
    if isinstance(network, EfficientNet) and efficientnet_lite.is_original(state):
        return efficientnet_lite.rename(state, [len(stage) for stage in network.blocks], source=source)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = convert(dict(state), network)
    except FILTER_ERRORS:  # another layout than it converts; the strict check then reports what the file holds
        return state
    return {name: tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}
