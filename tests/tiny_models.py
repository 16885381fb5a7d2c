"""Configs of two-layer models of every architecture that the tests use, and random weights for them."""

from typing import Any

import torch
import transformers

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.2}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "roberta": ("RobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
    "electra": ("ElectraConfig", {"embedding_size": 24}),
    "albert": ("AlbertConfig", {"embedding_size": 16}),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "modernbert": ("ModernBertConfig", {"num_hidden_layers": 3, "local_attention": 6, "global_attn_every_n_layers": 2}),
    "eurobert": ("EuroBertConfig", {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
    "roberta-prelayernorm": ("RobertaPreLayerNormConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
    "mpnet": ("MPNetConfig", {"pad_token_id": 1}),
    "deberta": ("DebertaConfig", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}),
    "fnet": ("FNetConfig", {"tpu_short_seq_length": 40}),
    "convbert": ("ConvBertConfig", {"embedding_size": 32, "conv_kernel_size": 3}),
    "xlm": ("XLMConfig", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "esm": ("EsmConfig", {"position_embedding_type": "rotary", "token_dropout": False, "mask_token_id": 4, "pad_token_id": 0}),
    "longformer": ("LongformerConfig", {"attention_window": [4, 4], "pad_token_id": 1, "type_vocab_size": 1}),
    "deberta-v2": ("DebertaV2Config", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}),
}


def tiny_config(architecture: str, **changes: Any) -> transformers.PretrainedConfig:
    class_name, settings = _CONFIGS[architecture]
    common = {} if architecture == "distilbert" else _WIDTH
    fixed = {"vocab_size": 120, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if architecture == "modernbert":
        fixed |= {"cls_token_id": 2, "sep_token_id": 3}
    return getattr(transformers, class_name)(**(fixed | common | settings | changes))


def randomise(model: Any, seed: int = 5) -> Any:
    """Draw all weights wide, biases and norms too, so that no part of a model is without effect on its output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1.0 + 0.1 * noise if is_scale else 0.2 * noise)
    return model
