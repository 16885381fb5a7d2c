"""The settings file of the published pQRNN: every value that makes its shape."""

from pathlib import Path

import pytest

from tain.cli.settings import build_config
from tain.recipes.distil.config import DistilConfig
from tain.students.torch.qrnn import PQRNN, StudentShape

FILE = Path(__file__).parents[3] / "benchmarks" / "pqrnn_paper.toml"


@pytest.mark.parametrize("task", ["embed", "classify", "tag"])
def test_the_file_gives_the_published_shape_to_every_task(task):
    config = build_config(DistilConfig, None, file=FILE, task=task).resolved()
    assert (config.features, config.ngram_features, config.bottleneck) == (1024, 0, 256)
    assert (config.layers, config.state, config.kernel_width, config.forward_only) == (4, 128, 2, False)
    assert not config.mean_skip
    assert config.init_words == 0
    assert (config.split, config.separate) == ("space", False)


def test_its_parameters_are_counted_by_the_published_formula():
    config = build_config(DistilConfig, None, file=FILE, task="classify").resolved()
    labels = 7
    shape = StudentShape(
        features=config.features,
        bottleneck=config.bottleneck,
        state=config.state,
        layers=config.layers,
        kernel_width=config.kernel_width,
        bidirectional=not config.forward_only,
        text_outputs=labels,
        token_outputs=0,
        skip=config.mean_skip,
    )
    features, narrow, state, kernel = 1024, 256, 128, 2
    body = features * narrow + narrow + 2 * narrow
    body += sum(6 * (kernel * into * state + state + 2 * state) for into in (narrow, 2 * state, 2 * state, 2 * state))
    head = (2 * state + 1) + (2 * state + 1) * labels  # attention, labels
    assert sum(parameter.numel() for parameter in PQRNN(shape).parameters()) == body + head
    assert body == pytest.approx(1.85e6, rel=0.01)
