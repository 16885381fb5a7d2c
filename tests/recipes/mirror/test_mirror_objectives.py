"""The table of losses of mirroring, and settings that are resolved before it reads them."""

import pytest
import torch

from tain.foundation.errors import UserError
from tain.objectives.contrastive import info_nce, similarity_gap
from tain.recipes.mirror import objectives
from tain.recipes.mirror.config import MirrorConfig, MirrorTextsConfig, ResolvedMirrorConfig
from tain.recipes.mirror.objectives import StepVectors, total_loss


def resolved(**settings) -> ResolvedMirrorConfig:
    return MirrorConfig(**settings).resolved(width=32, weight_rms=0.1)


@pytest.fixture
def vectors(generator) -> StepVectors:
    views, anchors = torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)
    return StepVectors(views, anchors, None)


def test_without_an_anchor_the_loss_is_the_contrast_alone(vectors):
    config = resolved()
    expected = info_nce(vectors.views[0::2], vectors.views[1::2], temperature=0.04)
    torch.testing.assert_close(total_loss(vectors, config), expected)


def test_the_anchor_is_added_with_its_weight(vectors):
    config = resolved(anchor=3.0)
    contrast = info_nce(vectors.views[0::2], vectors.views[1::2], temperature=0.04)
    torch.testing.assert_close(total_loss(vectors, config), contrast + 3.0 * similarity_gap(vectors.views, vectors.anchors))


def test_a_row_of_the_table_is_part_of_the_loss(vectors, monkeypatch):
    before = total_loss(vectors, resolved())
    monkeypatch.setitem(objectives.OBJECTIVES, "length", lambda given, config: given.views.square().mean())
    torch.testing.assert_close(total_loss(vectors, resolved()), before + vectors.views.square().mean())


def test_resolving_keeps_what_is_given_and_fills_the_rest():
    config = resolved(temperature=0.3, positives="crops")
    assert (config.temperature, config.positives, config.held_out, config.matrix_learning_rate) == (0.3, "crops", 500, None)
    again = config.resolved(width=999, weight_rms=9.0)
    assert again == config  # nothing is left to fill in
    assert isinstance(config.for_texts(has_documents=True), ResolvedMirrorConfig)


@pytest.mark.parametrize("kind", [MirrorTextsConfig, ResolvedMirrorConfig])
def test_a_resolved_config_has_no_gaps(kind, unchecked):
    with pytest.raises(UserError, match="held_out is None: give a whole number"):
        kind()
