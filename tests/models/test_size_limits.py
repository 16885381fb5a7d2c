"""A config that asks for far more than the folder's weights is refused before a model is made."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tain.foundation.errors import UserError
from tain.models.size_limits import refuse_large_sizes


@pytest.fixture
def folder(tmp_path):
    save_file(
        {"embeddings": np.zeros((40, 8), dtype=np.float32), "layer": np.zeros((8, 8), dtype=np.float32)}, tmp_path / "model.safetensors"
    )
    return tmp_path


def with_config(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 10**9}, "hidden_size 1,000,000,000 in its config.json, but holds 384 weights"),
        ({"vocab_size": 385}, "vocab_size 385 in its config.json, but holds 384 weights"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1,000,000 in its config.json, but holds 2 tensors"),
        ({"text_config": {"d_model": 10**9}}, "d_model 1,000,000,000"),
        ({"num_attention_heads": 10**8}, "num_attention_heads 100,000,000"),
    ],
)
def test_sizes_far_beyond_the_weights_are_refused(folder, config, message):
    with pytest.raises(UserError, match=f"^model 'm' has {message}"):
        refuse_large_sizes(with_config(folder, **config), name="m")


def test_sizes_that_fit_and_what_is_no_size_pass(folder):
    fitting = {"hidden_size": 8, "vocab_size": 40, "num_hidden_layers": 12, "num_attention_heads": 2}
    config = {**fitting, "max_position_embeddings": 10**9, "layer_norm_eps": 1e-5, "is_large_size": True}
    assert refuse_large_sizes(with_config(folder, **config), name="m") is None


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_what_cannot_be_read_is_left_to_the_loading(folder, content):
    (folder / "config.json").write_text(content)
    assert refuse_large_sizes(folder, name="m") is None


def test_weights_that_cannot_be_read_are_left_to_the_loading(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert refuse_large_sizes(with_config(folder, hidden_size=10**9), name="m") is None
