"""Token vectors to text vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from tain.batches.types import PackedTexts


def first_token(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Take each text's first token, which BERT-like models reserve for the whole text."""
    return hidden[packed.starts].float()


def masked_mean(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Average each text's real tokens, special tokens included, in float32. Texts come in packed order."""
    sums = hidden.new_zeros(packed.texts + 1, hidden.shape[1], dtype=torch.float32)  # the last row collects what fillers hold
    sums = sums.index_add(0, packed.owners, hidden.float())
    return sums[:-1] / packed.length_tensor()[:, None]
