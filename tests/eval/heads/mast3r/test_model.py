"""The pair model beyond the numbers: bad input, gradients, a frozen student, DUNE's variant in every batch form."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads.mast3r.model import PairModel, is_symmetrised
from store.errors import InvalidInput
from tests.eval.heads.mast3r.goldens import images, tiny_pair


@pytest.fixture(scope="module")
def pair() -> PairModel:
    torch.set_num_threads(1)
    return tiny_pair()


@pytest.mark.parametrize(
    ("one", "two", "named", "expected"),
    [
        (images(1, 28, 28).float(), images(1, 28, 28), {}, "expected uint8"),
        (images(1, 28, 28).permute(0, 3, 1, 2), images(1, 28, 28), {}, "batch, height, width, 3"),
        (images(1, 28, 30), images(1, 28, 28), {}, "multiples of the patch size 14"),
        (images(0, 28, 28), images(0, 28, 28), {}, "at least one"),
        (images(1, 28, 28), images(2, 28, 28), {}, "pair of 1 and 2 images"),
        (images(1, 28, 28), images(1, 28, 28), {"true_shape1": [[28, 28]]}, "both views"),
        (images(3, 28, 28), images(3, 28, 28), {"symmetrised": True}, "even number"),
        (images(1, 42, 28), images(1, 42, 28), {"true_shape1": [[42, 28]], "true_shape2": [[42, 28]]}, "landscape"),
        (images(1, 28, 42), images(1, 28, 42), {"true_shape1": [[28, 42]], "true_shape2": [[14, 42]]}, "true shape"),
        (
            images(2, 28, 42),
            images(2, 28, 42),
            {"true_shape1": [[28, 42]] * 3, "true_shape2": [[28, 42]]},
            "for each of 2 images",
        ),
    ],
)
def test_bad_images(pair: PairModel, one: Any, two: Any, named: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected):
        pair(one, two, **named)


def test_every_batch_form_gives_what_single_pairs_give(pair: PairModel) -> None:
    a, b = images(2, 28, 42), images(2, 28, 42, seed=1)
    shapes = [[28, 42], [42, 28]]
    first = torch.stack([a[0], b[0], a[1], b[1]])
    second = torch.stack([b[0], a[0], b[1], a[1]])
    stored = [shapes[0], shapes[1], shapes[1], shapes[0]]  # b0 and a1 are portraits
    swapped = [shapes[1], shapes[0], shapes[0], shapes[1]]
    named = {"true_shape1": stored, "true_shape2": swapped}
    plain = pair(first, second, **named)
    symmetrised = pair(first, second, **named, symmetrised=True)
    for row, (portrait1, portrait2) in enumerate([(False, True), (True, False), (True, False), (False, True)]):
        upright = [
            image[None].transpose(1, 2) if portrait else image[None]
            for image, portrait in ((first[row], portrait1), (second[row], portrait2))
        ]
        for view, portrait in ((0, portrait1), (1, portrait2)):
            alone = pair(*upright)[view]
            for name, maps in alone.items():
                expected = maps.transpose(1, 2) if portrait else maps
                for batch in (plain, symmetrised):
                    torch.testing.assert_close(batch[view][name][row : row + 1], expected, atol=1e-5, rtol=1e-5)


def test_only_a_batch_of_swapped_pairs_is_symmetrised() -> None:
    assert is_symmetrised(["a", "b", "c", "d"], ["b", "a", "d", "c"])
    assert not is_symmetrised(["a", "b"], ["b", "c"])
    assert not is_symmetrised(["a"], ["a"])
    assert not is_symmetrised(["a", "b", "c"], ["b", "a", "c"])


def test_a_student_stays_frozen_while_its_head_trains() -> None:
    pair = tiny_pair().train()
    assert not pair.encoder.network.training
    before = {name: tensor.clone() for name, tensor in pair.encoder.state_dict().items()}
    one, two = pair(images(1, 28, 42).numpy(), images(1, 28, 42, seed=1).numpy())
    sum(maps.sum() for half in (one, two) for maps in half.values()).backward()
    trained = {name for name, tensor in pair.named_parameters() if tensor.grad is not None}
    silent = {name for name, tensor in pair.named_parameters() if tensor.grad is None}
    assert all(name.startswith("encoder.") or "refinenet4.resConfUnit1" in name for name in silent)
    assert {"norm.weight", "mast3r.decoder_embed.weight", "mast3r.dec_blocks2.3.norm_y.bias"} <= trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair.encoder.state_dict().items())
    assert not pair.eval()(images(1, 28, 28), images(1, 28, 28))[0]["conf"].requires_grad


def test_the_heads_compute_in_float32_under_autocast(pair: PairModel) -> None:
    views = images(1, 28, 42), images(1, 42, 28)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, two = pair(*views)
        entries, others = pair.mast3r.view_entries(pair.encode(views[0]), pair.encode(views[1]))
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            expected = pair.mast3r.downstream_head1.dpt(entries, (2, 3))
        raw = pair.raw(*views)[0]
    assert {tokens.dtype for tokens in (*entries, *others)} == {torch.float32}
    assert {maps.dtype for half in (one, two) for maps in half.values()} == {torch.float32}
    np.testing.assert_array_equal(raw.numpy(), expected.numpy())


def test_tokens_of_a_cache_may_be_of_half_precision(pair: PairModel) -> None:
    views = [pair.encode_frozen(images(1, 28, 42, seed=seed)) for seed in (0, 1)]
    halves = [replace(view, tokens=view.tokens.bfloat16()) for view in views]
    with torch.no_grad():
        exact, rounded = (pair.decode(*map(pair.normed, each)) for each in (views, halves))
    for one, two in zip(exact, rounded, strict=True):
        for name, maps in one.items():
            assert two[name].dtype == torch.float32
            assert (two[name] - maps).norm() < 0.05 * maps.norm()
