"""Projectors: UNIC's ladder against the authors' numbers, and what a configuration means."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from backbones import dino, state_dicts
from backbones.vit import DinoVisionTransformer
from store.errors import InvalidInput
from tests.train import golden
from train.model.distiller import encoder_shape
from train.model.projectors import EncoderShape, LadderProjector, build_projector
from train.recipe.config import Projector

LADDER_ATOL = 1e-4
FACTS = golden.CONFIG["unic"]
SHAPE = EncoderShape(embed_dim=8, depth=3, num_heads=2, has_cls=True)


@pytest.fixture(scope="module")
def encoder() -> DinoVisionTransformer:
    weights = state_dicts.select(state_dicts.strip_wrappers(golden.tensors("unic_lp")), "encoder.")
    return dino.build(weights, num_heads=FACTS["num_heads"], source="UNIC")[0]


def ladder(
    weights: Mapping[str, Tensor], teacher: str, *, encoder: DinoVisionTransformer, variant: str
) -> LadderProjector:
    facts = FACTS["variants"][variant]
    config = Projector(
        kind="sp" if variant == "sp" else "lp",
        which_blocks=None if facts["which_blocks"] == "all" else tuple(facts["which_blocks"]),
        hidden_dim=FACTS["hidden_dim"],
        last_hidden_dim=FACTS["last_hidden_dim"],
        prenorm=facts["prenorm"],
        midnorm=facts["midnorm"],
    )
    projector = build_projector(
        config, encoder=encoder_shape(encoder), prefix_tokens=1, channels=FACTS["head_dims"][teacher]
    )
    own = state_dicts.select(state_dicts.strip_wrappers(weights), f"lp.heads.{teacher}.")
    state_dicts.load_into(projector.heads, {name.replace("layers.", ""): t for name, t in own.items()}, source=variant)
    assert isinstance(projector, LadderProjector)
    return projector


@pytest.mark.parametrize("variant", ["lp", "lp_sub_pre_mid", "sp"])
@torch.no_grad()
def test_ladder_is_that_of_the_authors(encoder: DinoVisionTransformer, variant: str) -> None:
    recorded, weights = golden.tensors("unic.io"), golden.tensors(f"unic_{variant}")
    images = golden.images(recorded["input.image_u8"])
    cls, _, patches = encoder.split(encoder(images))
    assert golden.max_error(cls[:, 0], recorded["output.encoder.x_norm_clstoken"]) < golden.FEATURES_ATOL
    assert golden.max_error(patches, recorded["output.encoder.x_norm_patchtokens"]) < golden.FEATURES_ATOL
    for teacher in FACTS["head_dims"]:
        projector = ladder(weights, teacher, encoder=encoder, variant=variant)
        tokens, tapped = encoder.forward_tokens(images, taps=projector.taps)
        assert golden.max_error(tokens, recorded["output.encoder.x_prenorm"]) < golden.FEATURES_ATOL
        prefix, patches = projector(tapped)
        assert golden.max_error(prefix[:, 0], recorded[f"output.{variant}.{teacher}.cls"]) < LADDER_ATOL
        assert golden.max_error(patches, recorded[f"output.{variant}.{teacher}.patch"]) < LADDER_ATOL


def test_ladder_starts_as_unic_does() -> None:
    projector = build_projector(Projector(kind="lp", which_blocks=(0, 2)), encoder=SHAPE, prefix_tokens=0, channels=6)
    assert projector.taps == (0, 2)
    shapes = {name: tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
    assert shapes == {
        "heads.patch.0.0.weight": (768, 8),
        "heads.patch.0.0.bias": (768,),
        "heads.patch.0.2.weight": (6, 768),
        "heads.patch.0.2.bias": (6,),
        "heads.patch.2.0.weight": (3072, 8),
        "heads.patch.2.0.bias": (3072,),
        "heads.patch.2.2.weight": (6, 3072),
        "heads.patch.2.2.bias": (6,),
    }
    state = projector.state_dict()
    assert float(state["heads.patch.2.2.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert not state["heads.patch.2.2.bias"].any()


def test_transformer_projector_starts_as_torch_does() -> None:
    projector = build_projector(
        Projector(blocks=2),
        encoder=EncoderShape(embed_dim=64, depth=3, num_heads=4, has_cls=True),
        prefix_tokens=1,
        channels=6,
    )
    weight = projector.state_dict()["blocks.1.mlp.fc1.weight"]
    assert float(weight.abs().max()) <= 1 / 8  # uniform in +- 1 / sqrt(64), not a normal of 0.02
    assert float(weight.std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert projector.state_dict()["blocks.0.ls1.gamma"].unique().tolist() == pytest.approx([1e-4])
    assert projector.state_dict()["blocks.0.mlp.fc1.bias"].any()
    assert projector.taps == (2,)


@pytest.mark.parametrize("which_blocks", [(), (0, 1), (-1, 2), (2, 3)])
def test_rungs_that_do_not_fit_are_refused(which_blocks: tuple[int, ...]) -> None:
    config = Projector.model_construct(kind="lp", which_blocks=which_blocks)  # a recipe refuses negative ones already
    with pytest.raises(InvalidInput, match="end with the last one, 2"):
        build_projector(config, encoder=SHAPE, prefix_tokens=0, channels=6)


def test_more_prefix_tokens_than_the_student_has_are_refused() -> None:
    with pytest.raises(InvalidInput, match="teacher with 5 prefix tokens: the student predicts at most 1"):
        build_projector(Projector(), encoder=SHAPE, prefix_tokens=5, channels=6)
