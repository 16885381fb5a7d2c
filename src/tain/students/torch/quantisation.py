"""Quantization-aware training: values rounded to a grid of 256 steps, with straight-through gradients.

Kaliamoorthi et al. 2021 (pQRNN). All weight matrices and all inputs of matrix products are quantized. Everything in between (gates,
norms, the recurrence) stays in float32: it costs little, while eight bits pay off in the products.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, Int, Int8, UInt8
from torch import Tensor, nn

_TOP = 255  # stored values are 0 to 255
_WEIGHT_TOP = 63  # stored weights are -63 to 63

UNIT_SCALE, UNIT_ZERO = 1 / 127, 128
"""Fixed grid of states, pooled states and features, which lie within -1 and 1."""


@runtime_checkable
class Combine(Protocol):
    """Combines a tensor with those of the other processes that share a batch, element by element."""

    def __call__(self, part: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class SharedBatch:
    """Statistics over a batch that several processes share.

    Attributes:
        total: Sum over processes, with a gradient.
        highest: Maximum over processes, without one.
    """

    total: Combine
    highest: Combine


def grid_of(
    low: Float[Tensor, "*positions"], high: Float[Tensor, "*positions"]
) -> tuple[Float[Tensor, "*positions"], Int[Tensor, "*positions"]]:
    """Fit a grid of 256 steps to a range, widened to include 0 and shifted so that 0 is a grid point.

    Padding must be exactly zero, and so must a weight that training has driven to 0.

    Returns:
        The step, and the stored value that represents 0.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / _TOP).clamp(min=1e-8)
    return scale, (-low / scale).round().clamp(0, _TOP).to(torch.int32)


def fake_quantise(
    values: Float[Tensor, "..."], *, scale: Tensor | float, zero: Tensor | int, is_inside: bool = False
) -> Float[Tensor, "..."]:
    """Round values to their grid; the gradient passes through inside its range and is zero outside.

    Args:
        values: Values to round.
        scale: Step of the grid.
        zero: Stored value that represents 0.
        is_inside: No value lies outside the range, so nothing must be saved for the gradient.
    """
    return _Rounded.apply(values, scale, zero, is_inside)  # pyright: ignore[reportReturnType]


class _Rounded(torch.autograd.Function):
    """Equivalent of ``torch.fake_quantize_per_tensor_affine`` that takes a seventh of its time on a CPU."""

    @staticmethod
    def forward(context: Any, values: Tensor, scale: Tensor | float, zero: Tensor | int, is_inside: bool) -> Tensor:
        whole = (values / scale).round_()
        low, high = -zero, _TOP - zero
        if not is_inside:
            context.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp_(low, high).mul_(scale)  # pyright: ignore[reportCallIssue, reportArgumentType] - a tensor of no dimensions will do

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (is_inside,) = context.saved_tensors or (None,)
        return gradients[0] if is_inside is None else gradients[0] * is_inside, None, None, None


def fake_quantise_table(table: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Round a table of vectors, used for lookups only, to a grid fitted to its current range."""
    scale, zero = grid_of(*table.detach().aminmax())
    return fake_quantise(table, scale=scale, zero=zero)


def stored_table(table: Float[Tensor, "rows dim"]) -> tuple[UInt8[Tensor, "rows dim"], float, int]:
    """Stored bytes of a table, with the step and the byte that represents 0."""
    scale, zero = grid_of(*table.detach().aminmax())
    stored = (table.detach() / scale).round() + zero
    return stored.clamp(0, _TOP).to(torch.uint8), scale.item(), int(zero.item())


def fake_quantise_weight(weight: Float[Tensor, "*matrices out into"]) -> Float[Tensor, "*matrices out into"]:
    """Round weights to 63 steps on either side of 0, with a separate step size per output.

    The paper uses one range of 256 steps per matrix. Here weights have seven bits in a signed byte: processors without dedicated
    instructions add two such products in sixteen bits, which would silently saturate with eight bits, on some machines only. A step per
    output makes up for the lost bit at no cost, since outputs are scaled separately anyway.
    """
    rows = weight.flatten(0, -2)
    zeros = torch.zeros(len(rows), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(rows, _weight_steps(rows), zeros, 0, -_WEIGHT_TOP, _WEIGHT_TOP).view_as(weight)


def stored_weight(weight: Float[Tensor, "out into"]) -> tuple[Int8[Tensor, "out into"], Float[Tensor, " out"]]:
    """Stored bytes of a weight matrix, with the step per output."""
    steps = _weight_steps(weight)
    return (weight.detach() / steps[:, None]).round().clamp(-_WEIGHT_TOP, _WEIGHT_TOP).to(torch.int8), steps


def _weight_steps(rows: Float[Tensor, "out into"]) -> Float[Tensor, " out"]:
    return (rows.detach().abs().amax(dim=1) / _WEIGHT_TOP).clamp(min=1e-8)


class MovingRange(nn.Module):
    """Rounds activations to a grid fitted to the moving average of their minimum and maximum.

    The average is new = decay * old + (1 - decay) * batch, initialized with the first batch. The released code swaps the two factors, so
    its average is little more than the last batch.

    Args:
        decay: Weight of the old range at each step.

    Attributes:
        shared: Combines the extremes of several processes; None if this one has the whole batch.
    """

    shared: SharedBatch | None = None

    low: Tensor
    high: Tensor
    is_begun: Tensor

    def __init__(self, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("is_begun", torch.zeros((), dtype=torch.bool))

    def forward(self, values: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps dim"]:
        if self.training and (len(values) or self.shared is not None):
            with torch.no_grad():
                low, high = values.aminmax() if len(values) else (values.new_tensor(torch.inf), values.new_tensor(-torch.inf))
                if self.shared is not None:
                    high, low = self.shared.highest(torch.stack([high, -low])) * high.new_tensor([1.0, -1.0])
                decay = torch.where(self.is_begun, self.decay, 0.0)
                self.low.copy_(decay * self.low + (1 - decay) * low)
                self.high.copy_(decay * self.high + (1 - decay) * high)
                self.is_begun.fill_(True)
        scale, zero = self.grid()
        return fake_quantise(values, scale=scale, zero=zero)

    @torch.no_grad()
    def begin(self, low: float, high: float) -> None:
        """Set the initial average that the first batch updates."""
        self.low.fill_(low)
        self.high.fill_(high)
        self.is_begun.fill_(True)

    def grid(self) -> tuple[Tensor, Tensor]:
        return grid_of(self.low, self.high)


def whole_numbers(values: Float[Tensor, "rows into"], *, scale: Tensor | float) -> BFloat16[Tensor, "rows into"]:
    """Convert rounded values to integer steps in bfloat16: half the memory traffic, and exact, since bfloat16 holds integers up to 256."""
    return _Whole.apply(values, torch.as_tensor(scale, dtype=values.dtype, device=values.device))  # pyright: ignore[reportReturnType]


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, scale: Tensor) -> Tensor:
        context.scale, context.dtype = scale, values.dtype
        return (values / scale).bfloat16()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0].to(context.dtype).div_(context.scale), None


def quantised_product(
    values: Float[Tensor, "rows into"],
    weight: Float[Tensor, "out into"],
    bias: Float[Tensor, " out"],
    *,
    scale: Tensor | float,
    dtype: torch.dtype,
) -> Float[Tensor, "rows out"]:
    """Multiply rounded values by the rounded weights: values @ weight.T + bias.

    Args:
        values: On a grid of step ``scale``; or, in bfloat16, integer steps from ``whole_numbers``.
        weight: Unrounded weight, rounded here.
        bias: Added unchanged.
        scale: Step of the values.
        dtype: float32; or bfloat16, which is two to three times as fast if the processor supports it. The products of stored bytes are
            exact; only their sums, and the gradients, are rounded to eight bits of mantissa.

    Returns:
        The sums in float32.
    """
    if dtype == torch.float32:
        return F.linear(values, fake_quantise_weight(weight), bias)
    whole = values if values.dtype == torch.bfloat16 else whole_numbers(values, scale=scale)
    return _WholeProduct.apply(whole, weight, bias, torch.as_tensor(scale, dtype=weight.dtype, device=weight.device))  # pyright: ignore[reportReturnType]


class _WholeProduct(torch.autograd.Function):
    """Product of integers in bfloat16; the gradient passes straight through the rounding of weights."""

    @staticmethod
    def forward(context: Any, whole: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        steps, rows = _weight_steps(weight), len(whole)
        whole_weight = (weight / steps[:, None]).round_().bfloat16()
        whole = F.pad(whole, (0, 0, 0, _few_sizes(rows) - rows))
        context.save_for_backward(whole, whole_weight, steps, scale)
        return torch.addcmul(bias, (whole @ whole_weight.T)[:rows].to(weight.dtype), steps * scale)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole, whole_weight, steps, scale = context.saved_tensors
        rows = len(gradients[0])
        gradient = whole.new_empty(len(whole), gradients[0].shape[1])
        gradient[:rows] = gradients[0]
        gradient[rows:] = 0
        to_weight = (gradient.T @ whole).to(steps.dtype).mul_(scale)
        to_whole = None
        if context.needs_input_grad[0]:
            to_whole = (gradient @ (whole_weight * (steps * scale)[:, None]).bfloat16())[:rows]
        return to_whole, to_weight, gradients[0].sum(dim=0), None


def _few_sizes(rows: int) -> int:
    """Round up by at most an eighth: oneDNN compiles code for every new shape, which takes longer than most products."""
    unit = max(16, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // unit) * unit


class QuantisedLinear(nn.Linear):
    """Linear layer with weights rounded as they will be stored; its input must be on a grid of step ``scale``.

    Attributes:
        dtype: Compute type in training; otherwise float32.
    """

    dtype = torch.float32

    def forward(self, input: Float[Tensor, "rows into"], *, scale: Tensor | float = UNIT_SCALE) -> Float[Tensor, "rows out"]:
        dtype = self.dtype if self.training else torch.float32
        return quantised_product(input, self.weight, self.bias, scale=scale, dtype=dtype)


class TokenBatchNorm(nn.Module):
    """Batch norm over real tokens only, so that padding has no effect. A single token is normalized with the moving statistics.

    Unlike the released code, it divides by the variance rather than the second moment, and weights its moving averages the
    right way round.

    Args:
        dim: Channels.
        momentum: Weight of the current batch in the moving averages.
        eps: Added to the variance.

    Attributes:
        shared: Sums over the tokens of several processes; None if this one has the whole batch.
    """

    shared: SharedBatch | None = None

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.1, eps: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, values: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps dim"]:
        if self.training and self.shared is not None:
            return self._over_processes(values, self.shared)
        is_learning = self.training and len(values) > 1
        return F.batch_norm(
            values, self.mean, self.variance, self.weight, self.bias, training=is_learning, momentum=self.momentum, eps=self.eps
        )

    def _over_processes(self, values: Float[Tensor, "steps dim"], shared: SharedBatch) -> Float[Tensor, "steps dim"]:
        """Normalise by the mean and variance over the tokens of all processes; the same as ``F.batch_norm`` on all of them."""
        sums = shared.total(torch.cat([values.sum(0), values.new_tensor([len(values)])]))
        steps = sums[-1].detach()
        if steps < 2:
            scale, shift = self.scale_and_shift()
            return values * scale + shift
        mean = sums[:-1] / steps
        variance = shared.total((values - mean).square().sum(0)) / steps
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance * (steps / (steps - 1)), self.momentum)
        return (values - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def scale_and_shift(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Its effect outside training: values * scale + shift."""
        scale = self.weight * (self.variance + self.eps).rsqrt()
        return scale, self.bias - self.mean * scale
