"""Decomposition of whole layers: exact sums, and equality with a naive version."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tain.inspection.norms import mixing_ratios, split
from tain.inspection.whole_layer import layer_norms, layer_parts, layer_ratios

Build = Callable[..., Any]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_parts_and_constant_sum_to_the_layers_real_output(
    family: str, dtype: torch.dtype, within: float, watched: Build, token_ids: Build, states_of: Build, full_parts: Build
):
    if family == "eurobert":
        within = 1e-5  # its own RMSNorm computes in float32 whatever it is given
    for states in states_of(watched(family, dtype=dtype), token_ids(9)):
        found = layer_parts(full_parts(states), states, slice(None))
        assert found.shape == (9, 10, 32)
        assert float((found.sum(1) - states.layer_outputs).abs().max() / states.layer_outputs.abs().max()) < within


def test_ratios_and_norms_equal_those_of_all_parts_at_once(
    family: str, watched: Build, token_ids: Build, monkeypatch: pytest.MonkeyPatch, states_of: Build, full_parts: Build
):
    monkeypatch.setattr("tain.inspection.whole_layer._NUMBERS_AT_ONCE", 1200)  # some rows at a time, and not all
    for states in states_of(watched(family), token_ids(9)):
        found = layer_parts(full_parts(states), states, slice(None))
        (norms,) = layer_norms(states)
        torch.testing.assert_close(norms, found[:, :-1].norm(dim=-1), atol=1e-5, rtol=1e-5)
        own = found[torch.arange(9), torch.arange(9)]
        context = found[:, :-1].sum(1) - own
        expected = context.norm(dim=-1) / (context.norm(dim=-1) + own.norm(dim=-1))
        torch.testing.assert_close(layer_ratios(states), expected, atol=1e-5, rtol=1e-5)


def test_texts_of_a_batch_do_not_touch_each_other(watched: Build, token_ids: Build, states_of: Build):
    ids = token_ids(4, 9)
    model = watched("bert")
    for alone, together in zip(states_of(model, ids[1:]), states_of(model, ids), strict=True):
        torch.testing.assert_close(layer_norms(together)[1], layer_norms(alone)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer_ratios(together)[4:], layer_ratios(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_feed_forward_part_that_gives_nothing_leaves_the_blocks_ratio(family: str, watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched(family), token_ids(9)):
        part = states.block.feed_forward
        silent = replace(part.outer, weight=torch.zeros_like(part.outer.weight), bias=None)
        even = replace(part.norm, scale=torch.ones(32), shift=None, centres=False)  # a second normalisation that only rescales
        block = replace(states.block, feed_forward=replace(part, outer=silent, norm=even))
        torch.testing.assert_close(layer_ratios(replace(states, block=block)), mixing_ratios(states)[4], atol=1e-5, rtol=1e-5)


def test_relu_takes_each_part_along_its_own_linear_piece(watched: Build, token_ids: Build, states_of: Build):
    """Where a unit is off, no part passes; where it is on, every part passes whole."""
    for states in states_of(watched("bert", hidden_act="relu"), token_ids(6)):
        part, parts = states.block.feed_forward, split(states)
        norm = states.block.norm
        own = norm.shaped(parts.own + states.inputs) / norm.spread(states.totals)
        is_on = (states.outputs @ part.inner.weight.T + part.inner.bias) > 0
        widened = (own @ part.inner.weight.T) * is_on
        expected = widened @ part.outer.weight.T + own
        silent = replace(part, norm=replace(part.norm, scale=torch.ones(32), shift=None, centres=False, epsilon=0.0))
        found = layer_parts(
            torch.stack([parts.own + states.inputs, parts.context], 1),
            replace(states, block=replace(states.block, feed_forward=silent)),
            slice(None),
        )
        lengths = found.sum(1).square().mean(-1, keepdim=True)  # 1 by that normalisation
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        cosine = torch.nn.functional.cosine_similarity(found[:, 0], expected)
        torch.testing.assert_close(cosine, torch.ones(6), atol=1e-5, rtol=1e-5)
