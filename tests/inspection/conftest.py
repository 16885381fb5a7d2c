"""The plain way to take a block apart, with all n x n x dim vectors, from what transformers shows of its own attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tain.batches.packing import pack
from tain.encoders.transformer import TransformerEncoder
from tain.inspection.capturing import BlockStates, Watched


@dataclass(frozen=True)
class PlainBlock:
    """One layer and one text, every vector written out."""

    weights: Tensor  # (heads, tokens, tokens)
    sources: Tensor  # f^h(x_j): (heads, tokens, dim)
    inputs: Tensor  # x: (tokens, dim)
    bias: Tensor  # b_O
    norm: Any  # the module behind the residual connection; None for pre-LN
    outputs: Tensor  # the block's output as the model computed it

    @property
    def attention(self) -> Tensor:
        """Row i, column j: what token i takes from token j."""
        return torch.einsum("hij,hjd->ijd", self.weights, self.sources)

    @property
    def with_residual(self) -> Tensor:
        return self.attention + torch.eye(len(self.inputs), dtype=self.inputs.dtype)[..., None] * self.inputs

    @property
    def totals(self) -> Tensor:
        return self.with_residual.sum(1) + self.bias

    def through_norm(self, part: Tensor, totals: Tensor) -> Tensor:
        """g_y(u): centred by its own mean, divided by the total's standard deviation, scaled."""
        spread = (((totals - totals.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True) + self.norm.eps) ** 0.5
        return (part - part.mean(-1, keepdim=True)) / spread * self.norm.weight

    @property
    def normed(self) -> Tensor:
        if self.norm is None:
            return self.with_residual
        return torch.stack([self.through_norm(row, total) for row, total in zip(self.with_residual, self.totals, strict=True)])

    @property
    def constant(self) -> Tensor:
        """What belongs to no token: b_O behind the normalisation, and beta."""
        if self.norm is None:
            return self.bias.expand_as(self.inputs)
        shift = 0.0 if self.norm.bias is None else self.norm.bias
        return torch.stack([self.through_norm(self.bias, total) for total in self.totals]) + shift

    def parts(self, method: str) -> Tensor:
        return {"Attn-N": self.attention, "AttnRes-N": self.with_residual, "AttnResLn-N": self.normed}[method]

    def ratios(self, method: str) -> Tensor:
        by_weight = 1 - self.weights.mean(0).diagonal()
        if method.endswith("-W"):
            return by_weight / 2 if method == "AttnRes-W" else by_weight
        parts = self.parts(method)
        tokens = len(parts)
        own = torch.stack([parts[i, i] for i in range(tokens)]).norm(dim=-1)
        others = [[parts[i, j] for j in range(tokens) if j != i] for i in range(tokens)]
        context = torch.stack([torch.stack(row).sum(0).norm() if row else torch.zeros(()) for row in others])
        return context / (context + own)


@dataclass(frozen=True)
class Anatomy:
    """Where an architecture's layer keeps what the plain way needs."""

    layers: str
    value: str
    output: str
    norm: str | None
    block_output: str  # the module whose output (post-LN) or input (pre-LN) is the block's output


_BERT = Anatomy("encoder.layer", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm", "attention.output")
ANATOMIES = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "albert": Anatomy(
        "encoder.albert_layer_groups.0.albert_layers", "attention.value", "attention.dense", "attention.LayerNorm", "attention"
    ),
    "distilbert": Anatomy("transformer.layer", "attention.v_lin", "attention.out_lin", "sa_layer_norm", "sa_layer_norm"),
    "modernbert": Anatomy("layers", "attn.Wqkv", "attn.Wo", None, "mlp_norm"),
    "eurobert": Anatomy("layers", "self_attn.v_proj", "self_attn.o_proj", None, "post_attention_layernorm"),
    "roberta-prelayernorm": Anatomy("encoder.layer", "attention.self.value", "attention.output.dense", None, "intermediate.LayerNorm"),
}


@pytest.fixture(params=ANATOMIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every kind of encoder that can be taken apart, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def plain_blocks() -> Callable[..., list[PlainBlock]]:
    """Take every layer apart for one text, from eager attention's own output and hooks on the plain modules."""

    @torch.no_grad()
    def take_apart(model: Any, architecture: str, ids: list[int], *, padding: int = 0) -> list[PlainBlock]:
        anatomy = ANATOMIES[architecture]
        seen: list[dict[str, Tensor]] = []
        hooks = []
        layers = list(model.get_submodule(anatomy.layers))

        def keep(name: str, side: str) -> Callable[..., None]:
            def hook(_: nn.Module, given: tuple[Any, ...], result: Any = None) -> None:
                if name == "inputs":
                    seen.append({})
                shown = given[0] if side == "in" else result
                seen[-1][name] = (shown[0] if isinstance(shown, tuple) else shown)[0]

            return hook

        for layer in layers:
            hooks.append(layer.register_forward_pre_hook(keep("inputs", "in")))
            hooks.append(layer.get_submodule(anatomy.value).register_forward_hook(keep("values", "out")))
            marked = layer.get_submodule(anatomy.block_output)
            if anatomy.norm is None:
                hooks.append(marked.register_forward_pre_hook(keep("outputs", "in")))
            else:
                hooks.append(marked.register_forward_hook(keep("outputs", "out")))
        row = torch.tensor([ids + [model.config.pad_token_id] * padding])
        is_token = (torch.arange(row.shape[1]) < len(ids)).long()[None]
        shown = model(input_ids=row, attention_mask=is_token, output_attentions=True).attentions
        for hook in hooks:
            hook.remove()

        found = []
        for number, (states, weights) in enumerate(zip(seen, shown, strict=True)):
            layer = layers[number % len(layers)]
            output = layer.get_submodule(anatomy.output)
            heads = weights.shape[1]
            values = states["values"].chunk(3, dim=-1)[2] if architecture == "modernbert" else states["values"]
            width = output.in_features // heads
            values = values.unflatten(-1, (-1, width)).repeat_interleave(output.in_features // values.shape[-1], dim=1)
            sources = [values[:, head] @ output.weight[:, head * width : (head + 1) * width].T for head in range(heads)]
            norm = None if anatomy.norm is None else layer.get_submodule(anatomy.norm)
            bias = torch.zeros(output.out_features, dtype=output.weight.dtype) if output.bias is None else output.bias
            found.append(PlainBlock(weights[0], torch.stack(sources), states["inputs"], bias, norm, states["outputs"]))
        return found

    return take_apart


@pytest.fixture(scope="session")
def watched(tiny_encoder: Callable[..., Any]) -> Callable[..., Watched]:
    """A tiny random model of an architecture, ready to be looked into, in the number type asked for."""

    def build(architecture: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Watched:
        return Watched(TransformerEncoder(tiny_encoder(architecture, **changes).to(dtype)))

    return build


@pytest.fixture(scope="session")
def states_of() -> Callable[[Watched, list[list[int]]], list[BlockStates]]:
    """Run texts as one packed batch and keep every layer's states."""

    def run(model: Watched, ids: list[list[int]]) -> list[BlockStates]:
        shown: list[BlockStates] = []
        model.run(pack(ids), lambda _, states: shown.append(states))
        return shown

    return run


@pytest.fixture(scope="session")
def full_parts() -> Callable[[BlockStates], Tensor]:
    """Write out what each token has from every token before normalisation, of captured states of a single text."""

    def write_out(states: BlockStates) -> Tensor:
        ((_, weights, values),) = states.texts()
        output = states.block.output.weight.unflatten(1, (len(weights), -1))
        parts = torch.einsum("hij,hjw,dhw->ijd", weights, values, output)
        return parts + torch.eye(len(parts), dtype=parts.dtype)[..., None] * states.inputs

    return write_out
