"""Layers after pooling that are no linear correction: Dense with an activation, LayerNorm, scaling between layers."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors.torch import save_file
from torch import Tensor, nn

from tain.foundation.errors import UserError
from tain.models.correction import dense_weights

_ACTIVATION = "torch.nn.modules.activation."
_IDENTITY = "torch.nn.modules.linear.Identity"
# without parameters that a config could not hold
_ACTIVATIONS = ("ELU", "GELU", "Hardtanh", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh")


class Dense(nn.Module):
    """A linear map with an activation, and optionally the input added to its output."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, *, residual: nn.Linear | None = None, has_residual: bool = False) -> None:
        super().__init__()
        self.linear, self.activation, self.residual, self.has_residual = linear, activation, residual, has_residual

    def forward(self, vectors: Float[Tensor, "texts width"]) -> Float[Tensor, "texts dim"]:
        found = self.activation(self.linear(vectors))
        if self.has_residual:
            found = found + (vectors if self.residual is None else self.residual(vectors))
        return found


class Unit(nn.Module):
    """Scaling to length 1."""

    def forward(self, vectors: Float[Tensor, "texts width"]) -> Float[Tensor, "texts width"]:
        return vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


class LayerStack:
    """The layers after pooling, in order.

    Args:
        layers: Each a ``Dense``, ``nn.LayerNorm`` or ``Unit``; at least one of the first two.
        name: The model's name, for messages.

    Attributes:
        network: All layers, float32.
        width: Dimension of the pooled vectors.
        dim: Dimension of a finished vector.

    Raises:
        UserError: A layer needs vectors of another dimension than the layer before it gives.
    """

    def __init__(self, layers: Sequence[nn.Module], *, name: str) -> None:
        self.network = nn.Sequential(*layers).eval().requires_grad_(False)
        sizes = [_sizes(layer) for layer in layers if not isinstance(layer, Unit)]
        for (_, given), (needed, _) in pairwise(sizes):
            if given != needed:
                raise UserError(
                    f"model {name!r} has a layer for vectors of dimension {needed} after one that gives {given}: save the model again"
                )
        self.width, self.dim = sizes[0][0], sizes[-1][1]

    @torch.inference_mode()
    def apply(self, vectors: Float32[np.ndarray, "texts width"], *, in_order: bool = False) -> Float32[np.ndarray, "texts dim"]:
        """Run the layers on pooled vectors; ``in_order`` needs nothing more than one thread and one row at a time."""
        return self.network(torch.from_numpy(np.ascontiguousarray(vectors))).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the layers."""
        return {f"layers.{name}": tensor.numpy() for name, tensor in self.network.state_dict().items()}

    def save(self, folders: Sequence[Path]) -> None:
        """Write each layer into an existing folder, as sentence-transformers does."""
        for layer, folder in zip(self.network, folders, strict=True):
            config: dict[str, Any] = {}
            if isinstance(layer, Dense):
                name = type(layer.activation).__name__
                config = {
                    "in_features": layer.linear.in_features,
                    "out_features": layer.linear.out_features,
                    "bias": layer.linear.bias is not None,
                    "activation_function": _IDENTITY if name == "Identity" else f"{_ACTIVATION}{name}",
                } | ({"use_residual": True} if layer.has_residual else {})
                tensors = {name: tensor for name, tensor in layer.state_dict().items() if name.startswith(("linear.", "residual."))}
            elif isinstance(layer, nn.LayerNorm):
                config = {"dimension": int(layer.normalized_shape[0])}
                tensors = {f"norm.{name}": tensor for name, tensor in layer.state_dict().items()}
            else:
                tensors = {}
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if tensors:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")

    def kinds(self) -> list[str]:
        """The name that sentence-transformers has for each layer."""
        return ["Normalize" if isinstance(layer, Unit) else type(layer).__name__ for layer in self.network]


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Dimensions of the vectors that a layer takes and gives."""
    if isinstance(layer, Dense):
        return layer.linear.in_features, layer.linear.out_features
    assert isinstance(layer, nn.LayerNorm)
    return int(layer.normalized_shape[0]), int(layer.normalized_shape[0])


def read_dense(config: dict[str, Any], tensors: dict[str, np.ndarray], *, name: str) -> Dense:
    """Read a Dense layer of a sentence-transformers folder.

    Args:
        config: Its ``config.json``.
        tensors: Its weights.
        name: The model's name, for messages.

    Raises:
        UserError: Its activation is unknown, or its weights are damaged.
    """
    activation = str(config.get("activation_function", f"{_ACTIVATION}Tanh"))
    kind = activation.removeprefix(_ACTIVATION)
    if activation != _IDENTITY and (kind == activation or kind not in _ACTIVATIONS):
        raise UserError(
            f"model {name!r} has a Dense layer with the activation {activation}, which tain does not support: use sentence-transformers"
            f" for it, or one of {', '.join(_ACTIVATIONS)}"
        )
    weight, bias = dense_weights(config, tensors, name=name)
    linear = _linear(weight, bias)
    has_residual = bool(config.get("use_residual"))
    of_residual = None
    if has_residual and weight.shape[0] != weight.shape[1]:
        found = tensors.get("residual.weight")
        if found is None or found.shape != weight.shape:
            shape = "missing" if found is None else f"of the shape {found.shape}, not {weight.shape}"
            raise UserError(f"model {name!r} has a Dense layer whose residual.weight is {shape}: save the model again")
        of_residual = _linear(found, None)
    module = nn.Identity() if activation == _IDENTITY else getattr(nn, kind)()
    return Dense(linear, module, residual=of_residual, has_residual=has_residual)


def read_layer_norm(tensors: dict[str, np.ndarray], *, name: str) -> nn.LayerNorm:
    """Read a LayerNorm module of a sentence-transformers folder from its weights.

    Raises:
        UserError: They are damaged.
    """
    weight, bias = (tensors.get(f"norm.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 1 or weight.shape != bias.shape:
        raise UserError(f"model {name!r} has a LayerNorm layer without norm.weight and norm.bias: save the model again")
    norm = nn.LayerNorm(len(weight))
    norm.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return norm


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    outs, ins = weight.shape
    linear = nn.Linear(ins, outs, bias=bias is not None)
    linear.load_state_dict({"weight": torch.from_numpy(weight)} | ({} if bias is None else {"bias": torch.from_numpy(bias)}))
    return linear
