"""The pQRNN: features of hashed tokens through a bottleneck and quasi-recurrent layers.

Kaliamoorthi et al. 2021 (pQRNN); Bradbury et al. 2017 (QRNN, fo-pooling). Trained for eight-bit products throughout; see ``quantisation``.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tain.encoders.quantisation import (
    UNIT_SCALE,
    UNIT_ZERO,
    MaskedBatchNorm,
    MovingRange,
    QuantisedLinear,
    fake_quantise,
    fake_quantise_weight,
)

_NEVER = -1e6  # attention logit of padding; with -inf a text without tokens would become nan


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """Sizes of a pQRNN.

    Attributes:
        features: Features a token.
        bottleneck: Width behind the first layer.
        state: Width of a layer's state, each direction.
        layers: Quasi-recurrent layers.
        kernel_width: Tokens that a gate sees.
        bidirectional: Read from both ends; off, a text can be read while it is being typed.
        text_outputs: Numbers for the whole text (dimensions or classes); 0 for none.
        token_outputs: Numbers for each token; 0 for none.
    """

    features: int
    bottleneck: int
    state: int
    layers: int
    kernel_width: int = 2
    bidirectional: bool = True
    text_outputs: int = 0
    token_outputs: int = 0

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        return self.directions * self.state


def parameter_count(shape: StudentShape) -> int:
    """Weights, biases and norms of a pQRNN: about its bytes, too, since a weight is stored in one."""
    count = shape.features * shape.bottleneck + shape.bottleneck + 2 * shape.bottleneck
    into = shape.bottleneck
    for _ in range(shape.layers):
        count += 3 * shape.directions * (shape.kernel_width * into * shape.state + shape.state + 2 * shape.state)
        into = shape.width
    heads = [outputs for outputs in (shape.text_outputs, shape.token_outputs) if outputs]
    attention = shape.width + 1 if shape.text_outputs else 0
    return count + attention + sum(shape.width * outputs + outputs for outputs in heads)


def recur(keep: Float[Tensor, "texts tokens dim"], add: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
    """States of c_t = keep_t * c_(t-1) + add_t with c_0 = 0, in about log2(tokens) rounds.

    Two steps (k1, a1) and (k2, a2) in a row are one step (k1 * k2, k2 * a1 + a2), so stretches can be joined pairwise.
    """
    return _Recurrence.apply(keep, add)  # pyright: ignore[reportReturnType]


class _Recurrence(torch.autograd.Function):
    """The gradient is a recurrence of its own, from the last token to the first: joining it pairwise too keeps no round's tensors."""

    @staticmethod
    def forward(context: Any, keep: Tensor, add: Tensor) -> Tensor:
        states = _joined(keep, add)
        context.save_for_backward(keep, states)
        return states

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        keep, states = context.saved_tensors
        later = F.pad(keep[:, 1:], (0, 0, 0, 1))
        reached = _joined(later.flip(1), gradients[0].flip(1)).flip(1)
        return reached * F.pad(states[:, :-1], (0, 0, 1, 0)), reached


def _joined(keep: Tensor, add: Tensor) -> Tensor:
    stretch, tokens = 1, keep.shape[1]
    while stretch < tokens:
        joined = add.clone()
        joined[:, stretch:].addcmul_(keep[:, stretch:], add[:, :-stretch])
        if 2 * stretch < tokens:
            longer = keep.clone()
            longer[:, stretch:] *= keep[:, :-stretch]
            keep = longer
        add, stretch = joined, 2 * stretch
    return add


def zoneout_chance(chance: float, layer: int) -> float:
    """Chance that a layer (from 1) keeps an element of its state: p in the first, p squared in the second, and so on."""
    return chance**layer


class QRNNLayer(nn.Module):
    """A quasi-recurrent layer with fo-pooling, one or both directions.

    Each direction and gate has a convolution over this token and the ones before it (in reading direction), and a norm of its own:
    z = tanh, f = sigmoid, o = sigmoid; c_t = f_t * c_(t-1) + (1 - f_t) * z_t; output o_t * c_t, without a tanh.

    Args:
        into: Width of the input.
        state: Width of the state, each direction.
        kernel_width: Tokens that a gate sees.
        bidirectional: Read backwards too.
        zoneout: Chance of an element to keep its state at a token, in training. Nothing is rescaled without it.
    """

    def __init__(self, into: int, state: int, *, kernel_width: int, bidirectional: bool, zoneout: float) -> None:
        super().__init__()
        self.state, self.kernel_width, self.zoneout = state, kernel_width, zoneout
        self.directions = 2 if bidirectional else 1
        gates = 3 * self.directions
        self.weight = nn.Parameter(torch.empty(gates, state, kernel_width * into))  # z, f, o forwards, then backwards
        self.bias = nn.Parameter(torch.zeros(gates, state))
        nn.init.uniform_(self.weight, -((kernel_width * into) ** -0.5) * 3**0.5, (kernel_width * into) ** -0.5 * 3**0.5)
        self.norms = nn.ModuleList(MaskedBatchNorm(3 * state) for _ in range(self.directions))

    def forward(
        self, values: Float[Tensor, "texts tokens into"], is_token: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts tokens width"]:
        """Read texts; ``values`` must be 0 where there is no token. So is the output."""
        weight = fake_quantise_weight(self.weight)
        read = [self._gates(values, is_token, weight, direction) for direction in range(self.directions)]
        z, f, o = (torch.cat(parts, dim=-1) for parts in zip(*read, strict=True))
        there = torch.cat([_turned(is_token[..., None].expand(-1, -1, self.state), way) for way in range(self.directions)], dim=-1)
        keep, add = torch.where(there, f, 1.0), torch.where(there, (1 - f) * z, 0.0)
        if self.training and self.zoneout > 0:
            is_kept = torch.rand_like(keep) < self.zoneout
            keep, add = keep.masked_fill(is_kept, 1.0), add.masked_fill(is_kept, 0.0)
        states = torch.where(there, o * recur(keep, add), 0.0)
        turned_back = [_turned(part, way) for way, part in enumerate(states.split(self.state, dim=-1))]
        return fake_quantise(torch.cat(turned_back, dim=-1), scale=UNIT_SCALE, zero=UNIT_ZERO)

    def _gates(self, values: Tensor, is_token: Tensor, weight: Tensor, direction: int) -> tuple[Tensor, Tensor, Tensor]:
        """One direction's gates in reading order: what is read backwards comes turned."""
        gates = slice(3 * direction, 3 * direction + 3)
        read = windows(_turned(values, direction), self.kernel_width)
        sums = F.linear(read, weight[gates].flatten(0, 1), self.bias[gates].flatten())
        z, f, o = self.norms[direction](sums, _turned(is_token, direction)).split(self.state, dim=-1)
        return torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)


def windows(values: Float[Tensor, "texts tokens into"], kernel_width: int) -> Float[Tensor, "texts tokens wide"]:
    """Lay each token's predecessors before it, zeros before the first: (kernel width * into) numbers a token, the oldest first."""
    tokens = values.shape[1]
    padded = F.pad(values, (0, 0, kernel_width - 1, 0))
    return torch.cat([padded[:, start : start + tokens] for start in range(kernel_width)], dim=-1)


def _turned(values: Tensor, direction: int) -> Tensor:
    return values.flip(1) if direction else values


class PQRNN(nn.Module):
    """Features of hashed tokens to vectors, class logits or both text and token logits.

    Differs from the released code in this: its norms and moving averages are right, attention logits are not forced above 0, and the
    last layer has no batch norm, which would tie the outputs to how often each class occurs in a batch.

    Args:
        shape: Its sizes.
        zoneout: Chance p; layer l keeps states with p to the power of l.
    """

    def __init__(self, shape: StudentShape, *, zoneout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.bottleneck = QuantisedLinear(shape.features, shape.bottleneck)
        self.bottleneck_norm = MaskedBatchNorm(shape.bottleneck)
        self.bottleneck_range = MovingRange()
        widths = [shape.bottleneck, *[shape.width] * (shape.layers - 1)]
        self.layers = nn.ModuleList(
            QRNNLayer(
                into,
                shape.state,
                kernel_width=shape.kernel_width,
                bidirectional=shape.bidirectional,
                zoneout=zoneout_chance(zoneout, number),
            )
            for number, into in enumerate(widths, start=1)
        )
        self.attention = QuantisedLinear(shape.width, 1) if shape.text_outputs else None
        self.text_head = QuantisedLinear(shape.width, shape.text_outputs) if shape.text_outputs else None
        self.token_head = QuantisedLinear(shape.width, shape.token_outputs) if shape.token_outputs else None

    def forward(
        self, rows: Float[Tensor, "different features"], ids: Int[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts outputs"] | None, Float[Tensor, "texts tokens labels"] | None]:
        """Compute what the heads say.

        Args:
            rows: Features of the batch's different tokens, -1 to 1; row 0 is padding.
            ids: Each token's row; 0 behind a text's end.

        Returns:
            The text's outputs and the tokens'; None without that head.
        """
        states = self.states(rows, ids)
        text = self.text_head(self.pooled(states, ids > 0)) if self.text_head is not None else None
        return text, self.token_head(states) if self.token_head is not None else None

    def states(self, rows: Float[Tensor, "different features"], ids: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts tokens width"]:
        """The last layer's output, 0 behind a text's end."""
        is_token = ids > 0
        # each different token passes through the widest layer once, however often it occurs
        values = F.embedding(ids, self.bottleneck(rows))
        values = torch.relu(self.bottleneck_norm(values, is_token))
        values = torch.where(is_token[..., None], self.bottleneck_range(values, is_token), 0.0)
        for layer in self.layers:
            values = layer(values, is_token)
        return values

    def pooled(self, states: Float[Tensor, "texts tokens width"], is_token: Bool[Tensor, "texts tokens"]) -> Float[Tensor, "texts width"]:
        """Mean over a text's tokens, weighted by attention."""
        assert self.attention is not None
        logits = self.attention(states).masked_fill(~is_token[..., None], _NEVER)
        return fake_quantise((logits.softmax(dim=1) * states).sum(dim=1), scale=UNIT_SCALE, zero=UNIT_ZERO)
