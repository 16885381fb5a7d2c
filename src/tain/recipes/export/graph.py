"""Trace an encoder, or a model that scores pairs, into one ONNX graph.

The graph holds everything from token ids to the finished vector: pooling, token weights, corrections and normalising. It comes from the
TorchScript exporter, which needs no package besides ``onnx``; see ``docs/export.md`` for what each exporter can do.
"""

import io
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tain.encoders.transformer import FOREIGN_ERRORS
from tain.encoders.zero_blocks import HalfLinear
from tain.foundation.errors import UserError
from tain.models.correction import LinearCorrection
from tain.models.layers import LayerStack

OPSET = 17  # the first with LayerNormalization as one operator
LARGEST_BYTES = 2**31 - 2**24  # of one ONNX file, some room left for the graph itself
_ATTENTION = "tain_export"
_HIDDEN = -1e9  # a finite number: a padded token may see nothing at all, and two of these must not become -inf


class VectorGraph(nn.Module):
    """Token ids to token vectors and the finished text vector.

    Args:
        model: A transformers encoder.
        pooling: One of ``encoders.pooling.MODES``, or several joined by ``+``.
        token_weights: Weight of each token id; None weighs all alike.
        correction: A matrix and a shift, or layers, after pooling; None for none.
        normalize: Scale vectors to length 1.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pooling: str,
        token_weights: Tensor | None,
        correction: LinearCorrection | LayerStack | None,
        normalize: bool,
    ) -> None:
        super().__init__()
        self.token_weights: Tensor | None
        self.matrix: Tensor | None
        self.shift: Tensor | None
        self.model, self.pooling, self.normalize = model, pooling, normalize
        self.register_buffer("token_weights", None if token_weights is None else token_weights.float())
        linear = correction if isinstance(correction, LinearCorrection) else None
        self.register_buffer("matrix", None if linear is None else torch.from_numpy(linear.weight).float().T.contiguous())
        self.register_buffer("shift", None if linear is None else torch.from_numpy(linear.bias).float())
        self.layers = correction.network if isinstance(correction, LayerStack) else None

    def forward(
        self, input_ids: Int[Tensor, "texts tokens"], attention_mask: Int[Tensor, "texts tokens"], *segments: Int[Tensor, "texts tokens"]
    ) -> tuple[Float[Tensor, "texts tokens width"], Float[Tensor, "texts dim"]]:
        """Compute ``last_hidden_state`` and ``sentence_embedding``."""
        more = {"token_type_ids": segments[0]} if segments else {}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        pooled = self._pooled(hidden, attention_mask.to(hidden.dtype), input_ids)
        if self.layers is not None:
            pooled = self.layers(pooled)
        if self.matrix is not None:
            assert self.shift is not None
            pooled = pooled @ self.matrix + self.shift
        if self.normalize:
            pooled = pooled / pooled.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        return hidden, pooled

    def _pooled(
        self, hidden: Float[Tensor, "texts tokens width"], is_token: Float[Tensor, "texts tokens"], ids: Int[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts pooled"]:
        """Pool as ``encoders.pooling.pooled`` does."""
        weights = is_token if self.token_weights is None else is_token * F.embedding(ids, self.token_weights[:, None])[..., 0]
        of_token = hidden if self.token_weights is None else hidden * weights[..., None]
        positions = is_token.cumsum(1) * is_token
        totals = weights.sum(1, keepdim=True).clamp(min=1e-9)
        found = []
        for mode in self.pooling.split("+"):
            if mode == "cls":
                found.append(of_token[:, 0])
            elif mode == "max":
                found.append((of_token + (1.0 - is_token)[..., None] * _HIDDEN).amax(1))
            elif mode == "lasttoken":
                is_last = (positions == is_token.sum(1, keepdim=True)).to(hidden.dtype)
                found.append((is_last[:, None] @ of_token)[:, 0])
            elif mode == "weightedmean":
                divisor = totals if self.token_weights is not None else positions.sum(1, keepdim=True).clamp(min=1e-9)
                found.append((positions[:, None] @ of_token)[:, 0] / divisor)
            else:
                divisor = totals.sqrt() if mode == "mean_sqrt_len_tokens" else totals
                found.append((weights[:, None] @ hidden)[:, 0] / divisor)
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class PairGraph(nn.Module):
    """Token ids of pairs of texts to their logits, before any activation.

    Args:
        model: A transformers model with a head, or an encoder.
        weight: Of a score of the first token, (width,); None where the model has a head.
        bias: Of the same, ().
    """

    def __init__(self, model: nn.Module, *, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight: Tensor | None
        self.bias: Tensor | None
        self.model = model
        self.register_buffer("weight", None if weight is None else weight.detach().float().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(
        self, input_ids: Int[Tensor, "pairs tokens"], attention_mask: Int[Tensor, "pairs tokens"], *segments: Int[Tensor, "pairs tokens"]
    ) -> Float[Tensor, "pairs outputs"]:
        """Compute ``logits``."""
        more = {"token_type_ids": segments[0]} if segments else {}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        if self.weight is None:
            return output.logits
        assert self.bias is not None
        return output.last_hidden_state[:, 0] @ self.weight[:, None] + self.bias


def traced(graph: nn.Module, config: Any, *, outputs: list[str], has_segments: bool, vocabulary: int, name: str) -> onnx.ModelProto:
    """Trace a graph for any batch size and length.

    Args:
        graph: Takes ids, mask and perhaps segments.
        config: Of the transformers model inside; its attention is exchanged meanwhile.
        outputs: Names of the outputs.
        has_segments: The model takes ``token_type_ids``.
        vocabulary: Number of token ids.
        name: The model's name, for messages.

    Raises:
        UserError: It is larger than one ONNX file can be, or has an operator that ONNX lacks.
    """
    unused = {id(module.weight) for module in graph.modules() if isinstance(module, HalfLinear) and module.part is not None}
    weights = {id(each): each for each in (*graph.parameters(), *graph.buffers()) if id(each) not in unused}
    size = sum(each.numel() * 4 for each in weights.values())
    if size > LARGEST_BYTES:
        raise UserError(
            f"model {name!r} has {size / 1e9:.1f} GB of float32 weights, more than the 2 GB of one ONNX file: give a smaller model"
        )
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if has_segments else [])]
    tokens = _example_tokens(config)
    ids = torch.arange(2 * tokens).reshape(2, tokens) % vocabulary
    is_token = torch.ones_like(ids)
    is_token[1, 4:] = 0
    example = (ids, is_token, *([torch.zeros_like(ids)] if has_segments else []))
    axes = {each: {0: "batch", 1: "tokens"} for each in inputs}
    axes |= {each: {0: "batch", **({1: "tokens"} if each == "last_hidden_state" else {})} for each in outputs}
    graph.eval()
    shown = io.StringIO()  # the exporter prints a whole graph over an operator that ONNX lacks
    with (
        tempfile.TemporaryDirectory() as folder,
        _plain_attention(graph, config),
        _fourier_as_products(graph),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        file = Path(folder) / "model.onnx"
        warnings.simplefilter("ignore")  # the tracer's own: what is wrong with a trace shows in the check
        try:
            with redirect_stdout(shown), redirect_stderr(shown):
                torch.onnx.export(
                    graph, example, file, input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=OPSET, dynamo=False
                )
        except (*FOREIGN_ERRORS, torch.onnx.errors.OnnxExporterError) as error:
            raise UserError(f"model {name!r} cannot be exported ({_reason(error)}): keep it in torch, or give another model") from None
        return _with_matrices_as_weights(onnx.load(str(file)))


def _with_matrices_as_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn constant matrices, such as parts of a joined encoder's, into initializers: only those are quantised."""
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        value = next((each.t for each in node.attribute if each.name == "value"), None)
        if value is not None and len(value.dims) == 2:
            weight = model.graph.initializer.add()
            weight.CopyFrom(value)
            weight.name = node.output[0]
            model.graph.node.remove(node)
    return model


def _example_tokens(config: Any) -> int:
    """Length of the rows that are traced. DeBERTa sets the bounds of its relative positions by them, so they are its longest."""
    return int(config.max_position_embeddings) if getattr(config, "relative_attention", False) else 7


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(first[-1 if len(first) == 1 else 0].split())[:200]


@contextmanager
def _plain_attention(graph: nn.Module, config: Any) -> Iterator[None]:
    """Let a model run attention as two plain products and a softmax while it is traced."""
    supported = any(getattr(module, "_supports_attention_backend", False) for module in graph.modules())
    before = config._attn_implementation
    config._attn_implementation = _ATTENTION if supported else "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens width"],
    key: Float[Tensor, "rows kv_heads tokens width"],
    value: Float[Tensor, "rows kv_heads tokens value_width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = (_repeated(states, query) for states in (key, value))
    scores = (query * scale) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    if sliding_window is not None:
        positions = torch.arange(query.shape[2], device=query.device)
        is_far = (positions[:, None] - positions).abs() >= sliding_window
        scores = scores + is_far.to(scores.dtype) * _HIDDEN
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def _repeated(states: Tensor, query: Tensor) -> Tensor:
    """Share key and value heads among the query heads."""
    (rows, own, tokens, width), heads = states.shape, query.shape[1]
    if own == heads:
        return states
    return states[:, :, None].expand(rows, own, heads // own, tokens, width).reshape(rows, heads, tokens, width)


def _mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """What is added to the scores, (rows, 1, 1, tokens)."""
    return None if attention_mask is None else (1.0 - attention_mask.to(torch.float32))[:, None, None] * _HIDDEN


@contextmanager
def _fourier_as_products(graph: nn.Module) -> Iterator[None]:
    """Let FNet mix tokens by two matrix products: ONNX has no Fourier transform that runs along two axes."""
    changed: list[Any] = [module for module in graph.modules() if type(module).__name__ == "FNetBasicFourierTransform"]
    before = [module.fourier_transform for module in changed]
    for module in changed:
        module.fourier_transform = _fourier
    try:
        yield
    finally:
        for module, transform in zip(changed, before, strict=True):
            module.fourier_transform = transform


def _fourier(hidden: Float[Tensor, "texts tokens width"]) -> SimpleNamespace:
    """The two-dimensional discrete Fourier transform of each text; only its real part, which is all that FNet keeps."""
    along, across = (_waves(hidden.shape[axis]) for axis in (1, 2))
    return SimpleNamespace(real=along[0] @ hidden @ across[0] - along[1] @ hidden @ across[1])


def _waves(size: Any) -> tuple[Tensor, Tensor]:
    # while a model is traced its sizes are tensors, not whole numbers
    steps = torch.arange(size)
    angles = (steps[:, None] * steps % size).to(torch.float32) * (2 * math.pi / size)
    return angles.cos(), angles.sin()


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, _mask)
