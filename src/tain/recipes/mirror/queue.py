"""Queue of the vectors of earlier texts, and the momentum encoder that computes them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tain.batches.types import PackedTexts
from tain.encoders.transformer import TransformerEncoder
from tain.recipes.mirror.measuring import computing
from tain.training import distributed
from tain.training.loop import Stepped

_QUEUE = "queue/"  # prefix of its tensors in a checkpoint


class MomentumQueue:
    """Vectors of the texts of earlier batches, computed by a copy of the encoder that follows it slowly.

    He et al. 2020 (MoCo), section 3; for sentences Wu et al. 2022 (ESimCSE). The copy has no dropout. After each step its weights become
    ``momentum`` times themselves plus ``1 - momentum`` times the encoder's. Build it before the encoder's weights change their data type:
    the copy stays in float32, where small changes add up.

    Args:
        encoder: The encoder to follow.
        head: The training-only head on its vectors, which is followed too; None for none.
        texts: Length of the queue.
        momentum: Share of the copy's weights that stays in each step, 0 to below 1.

    Attributes:
        vectors: The queue, oldest first.
        keys: Equal numbers are texts that the model cannot tell apart, as in ``TokenisedPairs.left_keys``.
    """

    def __init__(self, encoder: TransformerEncoder, head: nn.Module | None, *, texts: int, momentum: float) -> None:
        self.texts, self.momentum = texts, momentum
        self.encoder = deepcopy(encoder).eval().requires_grad_(False)
        self.head = None if head is None else deepcopy(head).eval().requires_grad_(False)
        originals: dict[str, nn.Module] = {"encoder": encoder} | ({} if head is None else {"head": head})
        copies: dict[str, nn.Module] = {"encoder": self.encoder} | ({} if self.head is None else {"head": self.head})
        self._copies = _parameters(copies)
        self._followed: dict[str, Tensor] = _parameters(originals)
        self.vectors = torch.zeros(0, encoder.dim, device=encoder.device)
        self.keys = torch.zeros(0, dtype=torch.int64)
        self._pending: tuple[Tensor, Tensor] | None = None

    def follow(self, parameters: Sequence[Tensor], masters: Sequence[Tensor]) -> None:
        """Follow the float32 masters of the encoder's parameters.

        Args:
            parameters: The encoder's parameters.
            masters: Their masters, in the same order.
        """
        of = {id(parameter): master for parameter, master in zip(parameters, masters, strict=True)}
        self._followed = {name: of.get(id(parameter), parameter) for name, parameter in self._followed.items()}

    @torch.no_grad()
    def read(
        self, parts: Iterable[PackedTexts], rows: Sequence[Sequence[int]], *, total: int, dtype: torch.dtype, skipped: int = 0
    ) -> Float[Tensor, "texts dim"]:
        """Compute the copy's vectors of a batch's texts, of all processes.

        Args:
            parts: This process's micro-batches.
            rows: Indices of each part's texts among this process's.
            total: Texts over all processes.
            dtype: Data type of the computation.
            skipped: Tokens at the beginning of each text that are not pooled: a prompt.
        """
        with computing(self.encoder.device, dtype):
            found = [self.encoder(part, skipped=skipped) for part in parts]
            vectors = torch.cat(found)[torch.tensor([index for of_part in rows for index in of_part]).argsort()]
        if self.head is not None:
            vectors = self.head(vectors)
        return distributed.gathered(vectors.float(), total=total)

    def is_same(self, left: Int64[np.ndarray, " batch"], right: Int64[np.ndarray, " batch"]) -> Bool[Tensor, "batch queue"]:
        """Which texts of the queue are a text of a pair, and so not its negative.

        Args:
            left: Keys of the pairs' left texts.
            right: Keys of their right texts.
        """
        keys = self.keys.numpy()
        return torch.from_numpy((left[:, None] == keys) | (right[:, None] == keys)).to(self.vectors.device)

    def propose(self, vectors: Float[Tensor, "texts dim"], keys: Int64[np.ndarray, " texts"]) -> None:
        """Set the texts that ``advance`` adds; a trial step proposes and does not advance."""
        self._pending = vectors, torch.from_numpy(keys)

    @torch.no_grad()
    def advance(self) -> None:
        """Add the proposed texts, drop the oldest, and let the copy follow the encoder. Call it after each optimizer step."""
        if self._pending is not None:
            vectors, keys = self._pending
            self.vectors = torch.cat([self.vectors, vectors])[-self.texts :]
            self.keys = torch.cat([self.keys, keys])[-self.texts :]
            self._pending = None
        followed = [self._followed[name].detach() for name in self._copies]
        torch._foreach_lerp_(list(self._copies.values()), followed, 1 - self.momentum)

    def state(self) -> dict[str, Tensor]:
        """State needed to resume."""
        return {f"weights/{name}": copy for name, copy in self._copies.items()} | {"vectors": self.vectors, "keys": self.keys}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned."""
        for name, copy in self._copies.items():
            copy.copy_(tensors[f"weights/{name}"])
        self.vectors, self.keys = tensors["vectors"].to(self.vectors.device), tensors["keys"].cpu()


def _parameters(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}/{name}": parameter for part, module in parts.items() for name, parameter in module.named_parameters()}


class WithQueue:
    """An optimizer whose steps also advance a queue, and whose state includes it.

    Args:
        optimizer: The optimizer.
        queue: The queue.
    """

    def __init__(self, optimizer: Stepped, queue: MomentumQueue) -> None:
        self._optimizer, self._queue = optimizer, queue

    def step(self, *, rate_factor: float = 1.0) -> None:
        self._optimizer.step(rate_factor=rate_factor)
        self._queue.advance()

    def state(self) -> dict[str, Tensor]:
        return self._optimizer.state() | {f"{_QUEUE}{name}": tensor for name, tensor in self._queue.state().items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(_QUEUE)}
        self._optimizer.load_state({name: tensor for name, tensor in tensors.items() if name not in own})
        self._queue.load_state({name.removeprefix(_QUEUE): tensor for name, tensor in own.items()})


def further_negatives(
    queue: MomentumQueue | None, noise: Float[Tensor, "noise dim"] | None, is_same: Callable[[MomentumQueue], Tensor]
) -> tuple[Float[Tensor, "further dim"] | None, Bool[Tensor, "batch further"] | None]:
    """Join the queue and noise into one table of further negatives, with its mask; None for none.

    Args:
        queue: The queue.
        noise: Random vectors.
        is_same: Gives ``MomentumQueue.is_same`` of the batch.
    """
    if queue is None or not len(queue.keys):
        return noise, None
    masked = is_same(queue)
    if noise is None:
        return queue.vectors, masked
    return torch.cat([queue.vectors, noise]), torch.cat([masked, masked.new_zeros(len(masked), len(noise))], dim=1)


def noise_vectors(count: int, dim: int, *, seed: int, step: int, device: torch.device) -> Float[Tensor, "count dim"] | None:
    """Draw standard normal vectors, equal for equal seed and step; None if there are none.

    Wu et al. 2021 (GS-InfoNCE): noise as further negatives smooths the contrast, as a larger batch would.
    """
    if not count:
        return None
    drawn = np.random.default_rng([seed, 7, step]).standard_normal((count, dim), dtype=np.float32)
    return torch.from_numpy(drawn).to(device)
