"""Token vectors to text vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from tain.batches.types import PackedTexts


def first_token(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Take each text's first token, which BERT-like models reserve for the whole text."""
    return hidden[packed.starts()].float()


def masked_mean(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Average each text's real tokens, special tokens included, in float32. Texts come in packed order."""
    runs = hidden.split([texts * length for texts, length in packed.groups])
    means = [run.unflatten(0, group).mean(1, dtype=torch.float32) for run, group in zip(runs, packed.groups, strict=True)]
    return torch.cat(means)
