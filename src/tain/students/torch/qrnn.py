"""pQRNN student: features of hashed tokens through a bottleneck and quasi-recurrent layers.

Kaliamoorthi et al. 2021 (pQRNN); Bradbury et al. 2017 (QRNN, fo-pooling). Trained for eight-bit products; see ``quantisation``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tain.students.torch.quantisation import (
    UNIT_SCALE,
    UNIT_ZERO,
    MovingRange,
    QuantisedLinear,
    TokenBatchNorm,
    fake_quantise,
    quantised_product,
    whole_numbers,
)
from tain.students.torch.timesteps import Timesteps, forgetting

_NEVER = -1e6  # attention logit of padding; -inf would give nan for a text without tokens


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """Sizes of a pQRNN.

    Attributes:
        features: Features per token.
        bottleneck: Width of the first layer's output.
        state: Width of a layer's state, per direction.
        layers: Number of quasi-recurrent layers.
        kernel_width: Tokens that a gate sees.
        bidirectional: Read in both directions; if False, a text can be read while it is being typed.
        text_outputs: Outputs per text (dimensions or classes); 0 for none.
        token_outputs: Outputs per token; 0 for none.
        skip: Skip connection: the text head also sees the attention-weighted mean of the bottleneck outputs.
    """

    features: int
    bottleneck: int
    state: int
    layers: int
    kernel_width: int = 2
    bidirectional: bool = True
    text_outputs: int = 0
    token_outputs: int = 0
    skip: bool = False

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        return self.directions * self.state


def zoneout_chance(chance: float, layer: int) -> float:
    """Zoneout probability of a layer (from 1): p in the first, p squared in the second, and so on."""
    return chance**layer


class QRNNLayer(nn.Module):
    """Quasi-recurrent layer with fo-pooling, in one or both directions.

    Each direction and gate has a convolution over this token and the preceding ones (in reading direction), and its own norm:
    z = tanh, f = sigmoid, o = sigmoid; c_t = f_t * c_(t-1) + (1 - f_t) * z_t; output o_t * c_t, without a tanh.

    Args:
        into: Width of the input.
        state: Width of the state, per direction.
        kernel_width: Tokens that a gate sees.
        bidirectional: Also read backwards.
        zoneout: Probability that an element keeps its state at a token, in training. Outputs are not rescaled without it.

    Attributes:
        dtype: Compute type in training; otherwise float32.
    """

    dtype = torch.float32

    def __init__(self, into: int, state: int, *, kernel_width: int, bidirectional: bool, zoneout: float) -> None:
        super().__init__()
        self.state, self.kernel_width, self.zoneout = state, kernel_width, zoneout
        self.directions = 2 if bidirectional else 1
        gates = 3 * self.directions
        self.weight = nn.Parameter(torch.empty(gates, state, kernel_width * into))  # z, f, o forwards, then backwards
        self.bias = nn.Parameter(torch.zeros(gates, state))
        nn.init.uniform_(self.weight, -((kernel_width * into) ** -0.5) * 3**0.5, (kernel_width * into) ** -0.5 * 3**0.5)
        self.norm = TokenBatchNorm(gates * state)  # z of all directions, then all f, then all o

    def forward(
        self, values: Float[Tensor, "steps into"], steps: Timesteps, *, scale: Tensor | float = UNIT_SCALE
    ) -> Float[Tensor, "steps width"]:
        """Read texts; ``values`` are on a grid of step ``scale``."""
        dtype = self.dtype if self.training else torch.float32
        if dtype == torch.bfloat16:
            values = whole_numbers(values, scale=scale)
        seen = windows(values, steps, self.kernel_width, directions=self.directions)
        weight, bias = self._product()
        sums = self.norm(quantised_product(seen, weight, bias, scale=scale, dtype=dtype))
        z, f, o = sums.split(self.directions * self.state, dim=-1)
        z, f, o = torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)
        if self.training and self.zoneout > 0:
            f = f.masked_fill(torch.rand_like(f) < self.zoneout, 1.0)
        states = o * forgetting(f, z, steps, directions=self.directions)
        return fake_quantise(states, scale=UNIT_SCALE, zero=UNIT_ZERO, is_inside=True)

    def _by_gate(self, gates: Float[Tensor, "gates state *dim"]) -> Float[Tensor, "rows *dim"]:
        """Reorder to z of all directions, then all f, then all o."""
        return gates.unflatten(0, (self.directions, 3)).transpose(0, 1).flatten(0, 2)

    def _product(self) -> tuple[Float[Tensor, "rows seen"], Float[Tensor, " rows"]]:
        """One matrix for all gates and directions, with zeros for tokens that a direction does not see."""
        weight = self.weight
        if self.directions == 2:
            forwards, backwards = weight.unflatten(-1, (self.kernel_width, -1)).split(3)
            unseen = forwards.new_zeros(*forwards.shape[:2], self.kernel_width - 1, forwards.shape[-1])
            weight = torch.cat([torch.cat([forwards, unseen], dim=2), torch.cat([unseen, backwards.flip(2)], dim=2)]).flatten(2)
        return self._by_gate(weight), self._by_gate(self.bias)

    def scale_and_shift(self, direction: int) -> tuple[Float[Tensor, " gates"], Float[Tensor, " gates"]]:
        """Effect of the norm on a direction's z, f and o outside training: values * scale + shift."""
        scale, shift = (each.view(3, self.directions, self.state)[:, direction].flatten() for each in self.norm.scale_and_shift())
        return scale, shift


def windows(
    values: Shaped[Tensor, "steps into"], steps: Timesteps, kernel_width: int, *, directions: int = 1
) -> Shaped[Tensor, "steps wide"]:
    """Concatenate each token with its predecessors, oldest first, and with two directions also its successors; zeros where there are none."""
    found = [values]
    for _ in range(kernel_width - 1):
        found.insert(0, steps.shifted(found[0]))
        if directions == 2:
            found.append(steps.shifted(found[-1], is_ahead=True))
    return torch.cat(found, dim=-1) if len(found) > 1 else values


class PQRNN(nn.Module):
    """Maps features of hashed tokens to vectors, class logits, or both text and token logits.

    Differences to the released code: its norms and moving averages are corrected, attention logits are not forced above 0, and the
    last layer has no batch norm, which would make the outputs depend on the class frequencies of a batch.

    Args:
        shape: Its sizes.
        zoneout: Probability p; layer l keeps states with p to the power of l.
        dtype: Compute type in training; see ``quantised_product``.
    """

    def __init__(self, shape: StudentShape, *, zoneout: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape = shape
        self.bottleneck = QuantisedLinear(shape.features, shape.bottleneck)
        self.bottleneck_norm = TokenBatchNorm(shape.bottleneck)
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
        has_skip = shape.skip and shape.text_outputs > 0
        self.skip_head = QuantisedLinear(shape.bottleneck, shape.text_outputs) if has_skip else None
        self.skip_range = MovingRange() if has_skip else None
        for module in self.modules():
            if isinstance(module, QRNNLayer | QuantisedLinear):
                module.dtype = dtype

    def forward(
        self, rows: Float[Tensor, "different features"], ids: Int[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts outputs"] | None, Float[Tensor, "texts tokens labels"] | None]:
        """Compute the outputs of the heads.

        Args:
            rows: Features of the distinct tokens of the batch, -1 to 1; row 0 is padding.
            ids: Row of each token; 0 after a text's end.

        Returns:
            Text outputs and token outputs, zeros after a text's end; None for a missing head.
        """
        steps = Timesteps(ids > 0)
        words = self.words(rows, steps.packed(ids))
        states = self.states(words, steps)
        text = self._text(words, states, steps) if self.text_head is not None else None
        return text, steps.padded(self.token_head(states)) if self.token_head is not None else None

    def words(self, rows: Float[Tensor, "different features"], ids: Int[Tensor, " steps"]) -> Float[Tensor, "steps bottleneck"]:
        """Output of the first layer, which is independent of a token's neighbours."""
        # each distinct token passes through the widest layer once
        values = F.embedding(ids, self.bottleneck(rows))
        return self.bottleneck_range(torch.relu(self.bottleneck_norm(values)))

    def states(self, words: Float[Tensor, "steps bottleneck"], steps: Timesteps) -> Float[Tensor, "steps width"]:
        """Output of the last layer."""
        values, scale = words, self.bottleneck_range.grid()[0]
        for layer in self.layers:
            values, scale = layer(values, steps, scale=scale), UNIT_SCALE
        return values

    def _text(
        self, words: Float[Tensor, "steps bottleneck"], states: Float[Tensor, "steps width"], steps: Timesteps
    ) -> Float[Tensor, "texts outputs"]:
        """Outputs for whole texts, from attention-weighted means over their tokens."""
        assert self.attention is not None and self.text_head is not None
        weights = steps.packed(steps.padded(self.attention(states), fill=_NEVER).softmax(dim=1))
        pooled = steps.padded(weights * states).sum(dim=1)
        text = self.text_head(fake_quantise(pooled, scale=UNIT_SCALE, zero=UNIT_ZERO, is_inside=True))
        if self.skip_head is None or self.skip_range is None:
            return text
        skipped = self.skip_range(steps.padded(weights * words).sum(dim=1))
        return text + self.skip_head(skipped, scale=self.skip_range.grid()[0])
