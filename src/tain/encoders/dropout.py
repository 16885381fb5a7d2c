"""Fast dropout on CPU, and setting dropout rates in any model."""

import numpy as np
import torch
from torch import Tensor, nn

from tain.foundation.errors import UserError


def dropped(states: Tensor, probability: float) -> Tensor:
    """Zero each element with the given probability and scale the rest to keep the mean.

    On CPU torch draws one Bernoulli number per element in one thread; we compare 16 random bits per element, from a generator
    seeded by torch's state, which is about ten times faster. The probability is rounded to a multiple of 2**-16.
    """
    if probability <= 0.0 or states.numel() == 0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():  # the compiler generates random numbers within its loops
        return nn.functional.dropout(states, probability, training=True)
    elements = states.numel()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw((elements + 3) // 4))
    threshold = min(round(probability * 2**16), 2**16 - 1) - 2**15
    factors = torch.empty(states.shape, dtype=states.dtype)
    # compared directly into the factors: converting from bool takes longer than everything else
    torch.ge(bits.view(torch.int16)[:elements].view(states.shape), threshold, out=factors)
    return states * factors.mul_(2**16 / (2**15 - threshold))


class FastDropout(nn.Dropout):
    """``nn.Dropout`` implemented with ``dropped``."""

    def forward(self, input: Tensor) -> Tensor:
        return dropped(input, self.p) if self.training else input


def set_dropout(model: nn.Module, *, hidden: float, attention: float) -> None:
    """Set every dropout rate of a transformers encoder, regardless of its config.

    The configs of ALBERT and ModernBERT have rate 0, which would make the two views of a text identical.

    Args:
        model: The encoder; its ``nn.Dropout`` modules (and the identities that ModernBERT uses at rate 0) are replaced,
            and rates stored as numbers in modules, as in XLM and ESM, are set.
        hidden: Rate on embeddings and on the outputs of attention and feed-forward blocks.
        attention: Rate on attention weights.
    """
    for rate in (hidden, attention):
        if not 0.0 <= rate < 1.0:
            raise UserError(f"dropout is {rate}, but a probability below 1 is needed: give 0 to 0.9 (the paper: 0.1)")
    for parent in list(model.modules()):
        is_attention = _is_attention(parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout) or (isinstance(child, nn.Identity) and "drop" in name):
                acts_on_weights = is_attention and name in ("dropout", "attention_dropout") and not hasattr(parent, "out_drop")
                setattr(parent, name, FastDropout(attention if acts_on_weights else hidden))
        for name, rate in list(vars(parent).items()):
            if "dropout" in name and isinstance(rate, int | float) and not isinstance(rate, bool):  # a config may contain 0 for 0.0
                acts_on_weights = is_attention and not any(part in name for part in ("hidden", "out_", "resid"))
                setattr(parent, name, attention if acts_on_weights else hidden)


def quicken_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` by a ``FastDropout`` of the same rate."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, FastDropout(child.p))


def _is_attention(module: nn.Module) -> bool:
    """Whether a module computes attention weights: it has a query projection, or a joint one."""
    children = dict(module.named_children())
    return any(name in children for name in ("query", "q_lin", "Wqkv", "q", "query_proj", "in_proj", "q_proj"))
