"""Views: pure in (recipe, dataset, image, number), distributed as the released recipe's, frozen in golden files."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, v2

from extract.catalogue import ViewRecipe
from extract.views import parameters
from extract.views.parameters import Photometric, ViewParameters
from extract.views.render import render
from store.errors import DecodeError
from tests.extract.builders import picture

GOLDEN = Path(__file__).parents[2] / "golden" / "extract"
SIZE = 56
GOLDEN_SIZE = 28


def sampled(number: int, recipe: ViewRecipe | None = None, path: str = "a/b.png") -> ViewParameters:
    return parameters.sample_view(recipe or ViewRecipe(), dataset="cats", path=path, view=number, width=80, height=60)


def test_frozen_parameters_and_pixels() -> None:
    """Pixels may differ by two levels: vector instructions of other processors round the resize and blur otherwise."""
    frozen = json.loads((GOLDEN / "views.json").read_text())
    pixels = np.load(GOLDEN / "views.npy")
    for number, expected in enumerate(frozen):
        sampled_view = sampled(number)
        values = json.loads(json.dumps(dataclasses.asdict(sampled_view)))
        for name, value in expected.pop("photometric").items():
            sampled_value = values["photometric"].pop(name)
            assert sampled_value == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
        assert values.pop("photometric") == {}
        assert values == expected
        rendered = render(picture(1), sampled_view, image_size=GOLDEN_SIZE).astype(int)
        assert np.abs(rendered - pixels[number]).max() <= 2
    assert {p["center"] for p in frozen} == {False}


def test_golden_covers_every_step() -> None:
    frozen = [p["photometric"] for p in json.loads((GOLDEN / "views.json").read_text())]
    assert any(p["blur_sigma"] for p in frozen)
    assert any(p["solarize"] for p in frozen)
    assert any(p["grayscale"] for p in frozen)
    assert any(p["jitter_order"] is None for p in frozen)


def test_order_does_not_matter() -> None:
    keys = [(path, number) for path in ("a.png", "a.png\n", "ä.png", "a .png") for number in range(20)]
    forwards = {key: sampled(key[1], path=key[0]) for key in keys}
    random.shuffle(keys)
    assert {key: sampled(key[1], path=key[0]) for key in keys} == forwards
    assert len(set(forwards.values())) == len(keys)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"crop_scale": (0.5, 1.0)}, {"photometric": "none"}, {"flip": 1.0}])
def test_recipe_decides(changed: dict[str, object]) -> None:
    assert [sampled(n) for n in range(4)] != [sampled(n, ViewRecipe.model_validate(changed)) for n in range(4)]


def test_photometric_choice_leaves_the_crop_alone() -> None:
    plain = ViewRecipe(photometric="none")
    for number in range(50):
        assert dataclasses.replace(sampled(number), photometric=Photometric()) == sampled(number, plain)


@settings(max_examples=300, deadline=None)
@given(width=st.integers(1, 30_000), height=st.integers(1, 30_000), number=st.integers(0, 2**31 - 1))
def test_crops_stay_inside(width: int, height: int, number: int) -> None:
    p = parameters.sample_view(ViewRecipe(), dataset="d", path="p", view=number, width=width, height=height)
    assert p.height >= 1 <= p.width
    assert 0 <= p.top <= height - p.height
    assert 0 <= p.left <= width - p.width
    c = parameters.center_view(336, width=width, height=height)
    assert c.height >= 0 <= c.width
    assert 0 <= c.top <= height - c.height
    assert 0 <= c.left <= width - c.width


def test_distributions_are_the_released_recipes() -> None:
    count = 4000
    ours = [sampled(n) for n in range(count)]
    crop = v2.RandomResizedCrop(SIZE, scale=(0.4, 1.0))
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    theirs = [crop.make_params([image]) for _ in range(count)]
    for name in ("top", "left", "height", "width"):
        mine = np.sort([getattr(p, name) for p in ours])
        other = np.sort([p[name] for p in theirs])
        assert np.abs(mine - other).mean() < 0.5  # px: distance between the two distributions
    colours = [p.photometric for p in ours]
    jittered = [c for c in colours if c.brightness is not None]
    assert np.mean([p.flip for p in ours]) == pytest.approx(0.5, abs=0.03)
    assert len(jittered) / count == pytest.approx(0.8, abs=0.03)
    for name in ("grayscale", "solarize", "blur_sigma"):
        assert np.mean([bool(getattr(c, name)) for c in colours]) == pytest.approx(0.2, abs=0.03)
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        values = np.array([getattr(c, name) for c in jittered])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    orders = [c.jitter_order for c in jittered]
    assert len(set(orders)) == 24
    sigmas = [c.blur_sigma for c in colours if c.blur_sigma is not None]
    assert 0.1 <= min(sigmas) < 0.2
    assert 4.9 < max(sigmas) <= 5.0


def test_center_is_the_evaluation_transform() -> None:
    theirs = v2.Compose([v2.Resize(SIZE, interpolation=InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(SIZE)])
    for height, width in ((60, 80), (81, 57), (56, 56), (1, 1), (300, 130)):
        image = picture(2, height=height, width=width)
        central = parameters.center_view(SIZE, width=width, height=height)
        expected = theirs(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(render(image, central, image_size=SIZE), expected)
    with pytest.raises(DecodeError, match="too elongated: 33 x 1 px"):
        render(picture(2, height=1, width=33), parameters.center_view(SIZE, width=33, height=1), image_size=SIZE)


def test_colours_in_the_recipes_order_and_types() -> None:
    """Jitter and greyscale see uint8, blur and solarisation floats; written here as the transforms' own classes."""
    image = picture(3, height=SIZE, width=SIZE)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    whole = {"top": 0, "left": 0, "height": SIZE, "width": SIZE}
    colours = Photometric(
        brightness=1.25,
        contrast=0.75,
        saturation=1.125,
        hue=-0.0625,
        jitter_order="hscb",
        grayscale=True,
        blur_sigma=2.0,
        solarize=True,
    )
    steps = [
        v2.ColorJitter(hue=(-0.0625, -0.0625)),
        v2.ColorJitter(saturation=(1.125, 1.125)),
        v2.ColorJitter(contrast=(0.75, 0.75)),
        v2.ColorJitter(brightness=(1.25, 1.25)),
        v2.Grayscale(3),
        v2.ToDtype(torch.float32, scale=True),
        v2.GaussianBlur(9, sigma=2.0),
        v2.RandomSolarize(0.5, p=1.0),
    ]
    expected = (v2.Compose(steps)(tensor) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(
        render(image, ViewParameters(**whole, photometric=colours), image_size=SIZE), expected
    )
    np.testing.assert_array_equal(render(image, ViewParameters(**whole), image_size=SIZE), image)
    np.testing.assert_array_equal(render(image, ViewParameters(**whole, flip=True), image_size=SIZE), image[:, ::-1])
