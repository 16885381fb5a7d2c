"""Optimizers over float32 master weights of a model that computes in bfloat16."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tain.foundation.errors import UserError
from tain.foundation.machine import set_dtype
from tain.training import distributed


class MasterWeights:
    """Float32 copies of a model's parameters, which are updated and written back in the model's data type.

    A pure bfloat16 model avoids the casts that autocast adds around every product. It loses nothing over fifty steps, provided
    updates far smaller than a bfloat16 step can accumulate, which needs the copies. Parameters already in float32 are updated in place.

    Args:
        model: The model; parameters without gradient are ignored.
        dtype: Data type for the model's computation. The copies are made before the conversion.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters: list[Tensor] = [parameter for _, parameter in named]
        if dtype == torch.float32:
            self.masters = self.parameters.copy()
        else:
            self.masters = [parameter.detach().float().clone().requires_grad_() for parameter in self.parameters]
            set_dtype(model, dtype)
        self.is_copied = dtype != torch.float32
        self._gradients: list[Tensor | None] = [None] * len(self.masters)  # reused in every step, since fresh memory is slow

    def take_gradients(self) -> None:
        """Add the model's gradients to those of the masters, in float32, and clear the model's.

        Call it after each backward pass if a step has several: sums in bfloat16 would lose small gradients.
        """
        if not self.is_copied:
            return
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for index, (master, parameter) in enumerate(zip(self.masters, self.parameters, strict=True)):
            if parameter.grad is None:
                continue
            if master.grad is None:
                kept = self._gradients[index]
                self._gradients[index] = master.grad = torch.empty_like(master) if kept is None else kept
                targets.append(master.grad)
                sources.append(parameter.grad)
            else:
                master.grad += parameter.grad
            parameter.grad = None
        if targets:  # all at once: on a GPU, launching single copies would take longer than copying
            torch._foreach_copy_(targets, sources)

    def sum_over_processes(self) -> None:
        """Add the gradients of all processes that share a batch, in float32."""
        if distributed.world_size() > 1:
            self.take_gradients()
            distributed.sum_gradients(self.masters)

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the updated masters into the model and clear the gradients."""
        for master in self.masters:
            master.grad = None
        if self.is_copied:
            torch._foreach_copy_(self.parameters, self.masters)

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Convert the model back to float32 with the values of the masters."""
        if self.is_copied:
            set_dtype(model, torch.float32)
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        return {name: master.detach() for name, master in zip(self.names, self.masters, strict=True)}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        if set(state) != set(self.names):
            raise UserError(
                "the checkpoint belongs to another model: its parameters have other names; start over with --overwrite and without --resume"
            )
        resized = [name for name, master in zip(self.names, self.masters, strict=True) if state[name].shape != master.shape]
        if resized:
            raise UserError(
                f"the checkpoint belongs to another model: {resized[0]} has the shape {tuple(state[resized[0]].shape)} there;"
                " start over with --overwrite and without --resume"
            )
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(state[name])
        if self.is_copied:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                parameter.copy_(master)


class Optimizer:
    """One or more torch optimizers over master weights, stepped together, with a common learning rate factor.

    Args:
        weights: The weights to update.
        parts: The torch optimizers, built over ``weights.masters``.
        max_grad_norm: Clip the gradient norm over all parameters to this length; None disables clipping.
        buffers: Moving statistics that steps also change, saved with the state.
    """

    def __init__(
        self,
        weights: MasterWeights,
        parts: Iterable[torch.optim.Optimizer],
        *,
        max_grad_norm: float | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.weights = weights
        self.max_grad_norm = max_grad_norm
        self.buffers = dict(buffers or {})
        self.parts = list(parts)
        self._base_rates = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, *, rate_factor: float = 1.0) -> None:
        """Apply one step with all learning rates multiplied by ``rate_factor``, then clear the gradients."""
        self.weights.take_gradients()
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.weights.masters, self.max_grad_norm)
        for part, rates in zip(self.parts, self._base_rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * rate_factor
            part.step()
        self.weights.write_back()

    def state(self) -> dict[str, Tensor]:
        """State needed to resume, as flat tensors."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.state().items()}
        tensors |= {f"buffers/{name}": tensor for name, tensor in self.buffers.items()}
        for number, part in enumerate(self.parts):
            for index, values in part.state_dict()["state"].items():
                for key, value in values.items():
                    tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Load a state returned by ``state``.

        Raises:
            UserError: The tensors belong to another model.
        """
        prefix = "weights/"
        self.weights.load_state({name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)})
        for name, buffer in self.buffers.items():
            buffer.copy_(tensors[f"buffers/{name}"])
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Any]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer/{number}/"):
                    _, _, index, key = name.split("/")
                    state.setdefault(int(index), {})[key] = tensor
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


_Muon: Any = getattr(torch.optim, "Muon", torch.optim.Optimizer)  # available in torch since 2.9; only pretraining needs it


class StackedMuon(_Muon):
    """torch's Muon, with the same state and settings, but all matrices of one shape are updated together.

    This takes some dozens of kernels per step instead of thousands, whose launch time dominates on a GPU.

    Args:
        dtype: Data type of the iteration that orthogonalises updates; torch's is always bfloat16. A processor that emulates bfloat16
            takes fifty times as long for a step as in float32.
        parameters: Matrices, and the settings of torch's Muon by name.
    """

    def __init__(self, parameters: Any, *, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in of_shape.items():
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                for matrix in matrices:
                    if "momentum_buffer" not in self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
                stacked = torch.stack(updates).to(self.dtype)
                turned = _orthogonal(stacked, group["ns_coefficients"], group["ns_steps"], smallest=group["eps"])
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                torch._foreach_add_(matrices, list(turned.float().unbind()), alpha=-rate)


def _orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, *, smallest: float) -> Tensor:
    """Orthogonalise a stack of matrices (singular values near 1) by a fifth-order Newton-Schulz iteration in their data type.

    Every step multiplies a matrix X by a polynomial of X X'. In float32, for matrices at least twice as wide as high, the steps run on
    X X' alone, and X is multiplied once at the end: same result, fewer operations. bfloat16 is too coarse for that.
    """
    first, third, fifth = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if is_tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=smallest)
    if found.dtype == torch.float32 and found.shape[2] >= 2 * found.shape[1]:
        gram = found @ found.mT
        product = torch.eye(found.shape[1], device=found.device).expand_as(gram)
        for _ in range(steps):
            factor = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
            factor.diagonal(dim1=1, dim2=2).add_(first)
            product = factor @ product
            gram = factor @ gram @ factor
        found = product @ found
    else:
        for _ in range(steps):
            gram = found @ found.mT
            factor = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
            found = torch.baddbmm(found, factor, found, beta=first)
    return found.mT if is_tall else found


def adamw(
    weights: MasterWeights,
    *,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float | None = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> Optimizer:
    """AdamW on all parameters, including biases and layer norms, as in the Mirror-BERT reference."""
    stepped = torch.optim.AdamW(weights.masters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    return Optimizer(weights, [stepped], max_grad_norm=max_grad_norm, buffers=buffers)


def two_rates(
    weights: MasterWeights,
    *,
    method: Literal["adamax", "adamw"],
    learning_rate: float,
    head_learning_rate: float,
    head_prefix: str,
    weight_decay: float,
) -> Optimizer:
    """Adamax or AdamW with a separate learning rate for a new head on a pretrained encoder.

    Args:
        weights: The weights to update.
        method: Adamax as in the released commands of the poly-encoders; AdamW as in their paper with BERT's weights.
        learning_rate: Learning rate of the encoder.
        head_learning_rate: Learning rate of the head; its parameters have no weight decay.
        head_prefix: Prefix of the head's parameter names.
        weight_decay: Weight decay of the encoder.
    """
    named = list(zip(weights.names, weights.masters, strict=True))
    head = [master for name, master in named if name.startswith(head_prefix)]
    encoder = [master for name, master in named if not name.startswith(head_prefix)]
    groups: list[dict[str, Any]] = [
        {"params": encoder, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": head, "lr": head_learning_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if method == "adamax":
        return Optimizer(weights, [torch.optim.Adamax(groups)])
    return Optimizer(weights, [torch.optim.AdamW(groups, fused=True)])


def muon_and_adamw(
    weights: MasterWeights,
    *,
    matrix_learning_rate: float,
    embedding_learning_rate: float,
    other_learning_rate: float,
    embeddings: Iterable[str],
    weight_decay: float,
    max_grad_norm: float | None = None,
) -> Optimizer:
    """Muon on the matrices of hidden layers, AdamW on embeddings, norms and biases.

    All updates of Muon have the same size, so without decay the matrices grow in every step, queries and keys included, until
    attention is so sharp that one step can make training diverge (``docs/LOG.md``).

    Args:
        weights: The weights to update.
        matrix_learning_rate: Muon's learning rate; updates are orthogonal matrices.
        embedding_learning_rate: AdamW's learning rate of token embeddings (tied to the output).
        other_learning_rate: AdamW's learning rate of norms and biases.
        embeddings: Names of the parameters treated as embeddings.
        weight_decay: Decay of matrices per step, relative to the learning rate; other parameters have none.
        max_grad_norm: See ``Optimizer``.

    Raises:
        UserError: The installed torch is too old to have Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            f"optimizer muon needs torch 2.9 or newer, and this is {torch.__version__}: upgrade torch, or give --optimizer adamw"
        )
    embedding_names = set(embeddings)
    named = list(zip(weights.names, weights.masters, strict=True))
    matrices = [master for name, master in named if master.ndim == 2 and name not in embedding_names]
    tables = [master for name, master in named if name in embedding_names]
    others = [master for name, master in named if master.ndim != 2 and name not in embedding_names]
    settings: dict[str, Any] = {"lr": matrix_learning_rate, "momentum": 0.95, "weight_decay": weight_decay}
    if weights.masters[0].device.type != "cpu":
        muon = StackedMuon(matrices, **settings)
    elif weights.is_copied:  # the model computes in bfloat16, so the processor does not emulate it
        muon = torch.optim.Muon(matrices, **settings)
    else:
        muon = StackedMuon(matrices, dtype=torch.float32, **settings)
    groups = [{"params": others, "lr": other_learning_rate}, {"params": tables, "lr": embedding_learning_rate}]
    adam = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=other_learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    return Optimizer(weights, [muon, adam], max_grad_norm=max_grad_norm)
