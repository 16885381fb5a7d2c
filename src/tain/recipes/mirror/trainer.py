"""Train an encoder on positive pairs: batches, the gradient of a step, and the loop of one seed."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tain.batches.ahead import Ahead
from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.types import PackedTexts
from tain.encoders.masked_lm import PredictionHead
from tain.encoders.sentence_decoder import SentenceDecoder
from tain.encoders.training_head import TrainingHead
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.probing import unchanged
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.curve import Curve, WithBest
from tain.recipes.mirror.data import TrainingSet
from tain.recipes.mirror.objectives import StepVectors, total_loss
from tain.recipes.mirror.queue import MomentumQueue, WithQueue, further_negatives, noise_vectors
from tain.recipes.mirror.restoring import (
    DECODER_RATE,
    MASKING_RATE,
    DecodedBatch,
    MaskedBatch,
    MaskedText,
    decoded_batch,
    decoder_gradient,
    mask_texts,
    masked_batch,
    mlm_gradient,
)
from tain.recipes.mirror.static import TokenVectors
from tain.recipes.mirror.views import Views, tokenise_pairs
from tain.training import distributed
from tain.training.gradcache import cached_gradients
from tain.training.loop import Saving, Stepped, Trained, train
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw

# numbers of random states that no micro-batch of the contrast has
_MASKED_PARTS, _DECODED_PARTS, _MASKS, _DECODER_MASKS = 100_000, 200_000, 2**32 - 1, 2**32 - 2
FEWEST_STEPS = 16  # fewer steps teach little, so a small budget gets smaller batches


@dataclass(frozen=True)
class Plan:
    """Length of a run.

    Attributes:
        batch_texts: Pairs per step.
        steps: Steps, or an upper bound of them.
        enough: Called with the number of steps done; True ends the run. None: it ends after ``steps``.
    """

    batch_texts: int
    steps: int
    enough: Callable[[int], bool] | None = None


@dataclass(frozen=True)
class Batch:
    """Both views of a step's pairs, as this process encodes them.

    Attributes:
        parts: Micro-batches.
        rows: For each part, the indices of its texts among this process's.
        total: Views over all processes.
        is_same: Which pairs share a text; None if no two do.
        indices: The pairs.
        anchors: Token vectors of all processes' texts; None without an anchor.
        whole: The left views alone; None where no part of the step needs them.
        masked: The left views with masked tokens; None without an MLM loss.
        decoded: The left views for the decoder; None without one.
    """

    parts: list[PackedTexts]
    rows: list[list[int]]
    total: int
    is_same: Tensor | None
    indices: np.ndarray
    anchors: Tensor | None = None
    whole: "Whole | None" = None
    masked: MaskedBatch | None = None
    decoded: DecodedBatch | None = None


@dataclass(frozen=True)
class Whole:
    """The left views of a step's pairs, as this process encodes them.

    Attributes:
        parts: Micro-batches.
        rows: For each part, the indices of its texts among this process's.
    """

    parts: list[PackedTexts]
    rows: list[list[int]]


class MirrorTrainer:
    """Trains an encoder on positive pairs.

    Args:
        encoder: The encoder, whose weights are trained in place.
        views: Makes the views of the pairs.
        config: The resolved settings.
        dtype: Data type of the computation; the weights that are stepped stay in float32.
        masked_lm: The model as a masked LM, whose head ``mlm_weight`` and ``decoder_weight`` need; None without them.

    Attributes:
        anchors: Token vectors that the encoder is kept close to; None for none.
        head: Dense layer that only training has; None for none.
        queue: Vectors of earlier texts; None for none.
        prediction: The model's prediction head; None for none.
        decoder: Decoder of texts from their vectors, which only training has; None for none.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        views: Views,
        config: ResolvedMirrorConfig,
        *,
        dtype: torch.dtype = torch.float32,
        masked_lm: Any = None,
    ) -> None:
        self.masked_lm = masked_lm
        self.encoder, self.views, self.config, self.dtype = encoder, views, config, dtype
        self.anchors: TokenVectors | None = None
        self.head: TrainingHead | None = None
        self.queue: MomentumQueue | None = None
        self.prediction: PredictionHead | None = None
        self.decoder: SentenceDecoder | None = None
        self.trained: nn.Module = encoder.model
        self.weights = MasterWeights(encoder.model, dtype=torch.float32)  # until a seed makes its own

    def start(self, *, seed: int | None = None) -> None:
        """Prepare the encoder for training: train mode, weights in the data type of the computation, and new training-only parts.

        Args:
            seed: Seed of the training-only parts; default: that of the settings.
        """
        config, encoder = self.config, self.encoder
        generator = torch.Generator().manual_seed(step_seed(config.seed if seed is None else seed, 0, 998))
        self.head = TrainingHead(encoder.dim, generator=generator).to(encoder.device) if config.head == "mlp" else None
        if config.queue_texts and config.momentum is not None:
            self.queue = MomentumQueue(encoder, self.head, texts=config.queue_texts, momentum=config.momentum)
        if config.mlm_weight or config.decoder_weight:
            self.prediction = PredictionHead(deepcopy(self.masked_lm), encoder.model).to(encoder.device)
        if config.decoder_weight:
            heads = int(encoder.model.config.num_attention_heads)
            own_seed = int(torch.randint(2**62, (), generator=generator))
            self.decoder = SentenceDecoder(encoder.dim, heads=heads, max_tokens=config.max_tokens, seed=own_seed).to(encoder.device)
        beside: dict[str, nn.Module] = {"head": self.head} if self.head is not None else {}
        beside |= {"prediction": self.prediction} if self.prediction is not None else {}
        beside |= {"decoder": self.decoder} if self.decoder is not None else {}
        # names in checkpoints: those of the encoder alone where nothing is trained beside it
        self.trained = nn.ModuleDict({"encoder": encoder.model, **beside}) if beside else encoder.model
        self.weights = MasterWeights(self.trained, dtype=self.dtype)
        if self.queue is not None:
            self.queue.follow(self.weights.parameters, self.weights.masters)
        self.trained.train()
        encoder.train()

    def train(
        self, plan: Plan, *, seed: int, progress: Progress, name: str, saving: Saving | None = None, curve: Curve | None = None
    ) -> Trained:
        """Train one seed after ``start``; the encoder is in eval mode and float32 afterwards.

        Args:
            plan: Batch size and number of steps.
            seed: Seed of order, views and dropout.
            progress: Receives the loss of every step.
            name: Name of the run in the progress display.
            saving: Checkpoints; None keeps none.
            curve: Measures the encoder during training, and may end it or keep the best weights; None measures nothing.

        Raises:
            UserError: Some processes would have no texts, or the loss is not finite.
        """
        if self.needs_whole:
            distributed.refuse_idle_processes(plan.batch_texts, what="texts")
        distributed.refuse_idle_processes(2 * plan.batch_texts, what="views")
        order = ShuffledOrder(len(self.views.data.left), batch_texts=plan.batch_texts, seed=seed)
        optimizer: Stepped = self.optimizer()
        if self.queue is not None:
            optimizer = WithQueue(optimizer, self.queue)
        if curve is not None:
            curve.begin()
        # one thread, because tokenizers are not thread-safe; none on a CPU, where all cores are busy
        workers = 0 if self.encoder.device.type == "cpu" else 1
        with Ahead(lambda step: self.batch(order.batch(step), step=step, seed=seed), workers=workers) as coming:
            trained = train(
                lambda step: self.gradient_step(coming(step), step=step, seed=seed),
                optimizer if curve is None else WithBest(optimizer, curve),
                steps=plan.steps,
                progress=progress,
                name=name,
                saving=saving,
                enough=plan.enough if curve is None else lambda done: curve.enough(done) or (plan.enough is not None and plan.enough(done)),
                after_step=None if curve is None else curve.after_step,
                memory=None if curve is None else curve.memory,
            )
        if curve is not None:
            curve.finish(trained.steps)
        self.weights.restore(self.trained)
        self.encoder.eval()
        return trained

    @property
    def needs_whole(self) -> bool:
        """Whether a step encodes the left views once more."""
        return self.queue is not None

    def batch(self, indices: np.ndarray, *, step: int, seed: int) -> Batch:
        """Sample the views of some pairs and pack them."""
        left, right = self.views(indices, step=step, seed=seed)
        ids = [ids for pair in zip(left, right, strict=True) for ids in pair]  # rows: left 0, right 0, left 1, right 1, ...
        mine = ids[distributed.share_of(len(ids))]
        parts, rows = self._packed(mine)
        bags = ids if not self.views.prompt_tokens else [text[self.views.prompt_tokens :] for text in ids]
        anchors = None if self.anchors is None else self.anchors.encode(bags)
        own = distributed.share_of(len(left))
        whole = Whole(*self._packed(left[own])) if self.needs_whole else None
        size = {"mine": own, "batch_tokens": self.config.micro_batch_tokens, "share_rows": self.encoder.layout == "packed"}
        masked = masked_batch(self._masked(left, MASKING_RATE, step_seed(seed, step, _MASKS)), **size) if self.config.mlm_weight else None
        decoded = None
        if self.config.decoder_weight:
            texts = self._masked(left, DECODER_RATE, step_seed(seed, step, _DECODER_MASKS), is_bare=True)
            decoded = decoded_batch(left, texts, **size)
        return Batch(parts, rows, len(ids), self.views.pairs.is_same(indices), indices, anchors, whole, masked, decoded)

    def _masked(self, ids: list[list[int]], rate: float, seed: int, *, is_bare: bool = False) -> list[MaskedText]:
        generator = torch.Generator().manual_seed(seed)
        return mask_texts(ids, self.views.tokenizer, rate=rate, generator=generator, skipped=self.views.prompt_tokens, is_bare=is_bare)

    def _packed(self, ids: list[list[int]]) -> tuple[list[PackedTexts], list[list[int]]]:
        """Micro-batches of some texts, and the indices of each one's texts."""
        rows = list(batches_by_tokens([len(text) for text in ids], batch_tokens=self.config.micro_batch_tokens))
        return [pack([ids[row] for row in part], share_rows=self.encoder.layout == "packed") for part in rows], rows

    def gradient_step(self, batch: Batch, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch, leave it in the model, and return the loss."""
        config, encoder = self.config, self.encoder
        is_same = None if batch.is_same is None else batch.is_same.to(encoder.device)
        keys = self.views.pairs.left_keys[batch.indices], self.views.pairs.right_keys[batch.indices]
        noise = noise_vectors(config.noise_negatives, encoder.dim, seed=seed, step=step, device=encoder.device)
        further, is_same_further = further_negatives(self.queue, noise, lambda queue: queue.is_same(*keys))

        def embed(part: PackedTexts) -> Tensor:
            vectors = encoder(part, drophead=config.drophead, skipped=self.views.skipped)
            return vectors if self.head is None else self.head(vectors)

        def loss(vectors: Tensor) -> Tensor:
            return total_loss(StepVectors(vectors, batch.anchors, is_same, further, is_same_further), config)

        def reseed(part: int) -> None:
            torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))

        take = self.weights.take_gradients  # sum parts and processes in float32: bfloat16 sums lose small terms
        value = cached_gradients(batch.parts, rows=batch.rows, embed=embed, loss=loss, reseed=reseed, total=batch.total, after_part=take)
        value += self._restore(batch, reseed, take)
        if self.queue is not None and batch.whole is not None:
            vectors = self.queue.read(
                batch.whole.parts, batch.whole.rows, total=len(batch.indices), dtype=self.dtype, skipped=self.views.skipped
            )
            self.queue.propose(vectors, keys[0])
        self.weights.sum_over_processes()
        return value

    def _restore(self, batch: Batch, reseed: Callable[[int], object], take: Callable[[], None]) -> float:
        """Add the gradients of the losses that restore tokens; return these losses, over all processes."""
        if self.prediction is None:
            return 0.0
        take()
        value, drophead = 0.0, self.config.drophead
        if batch.masked is not None:
            weight = self.config.mlm_weight
            own = partial(_reseed_from, reseed, _MASKED_PARTS)
            value += mlm_gradient(
                self.encoder, self.prediction, batch.masked, weight=weight, drophead=drophead, reseed=own, after_part=take
            )
        if batch.decoded is not None and self.decoder is not None:
            value += decoder_gradient(
                self.encoder,
                self.decoder,
                self.prediction,
                batch.decoded,
                weight=self.config.decoder_weight,
                drophead=drophead,
                skipped=self.views.skipped,
                reseed=partial(_reseed_from, reseed, _DECODED_PARTS),
                after_part=take,
            )
        return distributed.summed(value)

    def optimizer(self) -> Optimizer:
        """Build the optimizer of the current weights."""
        config, weights = self.config, self.weights
        if config.matrix_learning_rate is None:  # it is set for Muon only
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        return muon_and_adamw(
            weights,
            matrix_learning_rate=config.matrix_learning_rate,
            embedding_learning_rate=config.learning_rate,
            other_learning_rate=config.learning_rate,
            embeddings=[name for name in weights.names if "embedding" in name],
            weight_decay=config.weight_decay,
        )

    def measure_text_s(self, seed: int) -> float:
        """Time gradient steps on a few pairs, in seconds per pair; weights, gradients and random state are unchanged."""
        indices = np.arange(min(len(self.views.data.left), 2 * FEWEST_STEPS))
        taken_s = []
        with unchanged(self.encoder, masters=self.weights.masters):
            for trial in range(3):
                began_s = time.monotonic()
                self.gradient_step(self.batch(indices, step=trial, seed=seed), step=trial, seed=seed)
                taken_s.append(time.monotonic() - began_s)
        return min(taken_s[1:]) / len(indices)

    def measure_update_s(self) -> float:
        """Time the optimizer's part of a step, in seconds; weights and gradients are unchanged."""
        optimizer = self.optimizer()
        taken_s = []
        with unchanged(self.trained, masters=self.weights.masters, optimizer=optimizer):
            for _ in range(2):
                for master in self.weights.masters:
                    master.grad = torch.zeros_like(master)
                began_s = time.monotonic()
                optimizer.step(rate_factor=0.0)
                taken_s.append(time.monotonic() - began_s)
        return min(taken_s)


def _reseed_from(reseed: Callable[[int], object], first: int, part: int) -> None:
    """Set the random state of the part that is numbered from ``first`` on."""
    reseed(first + part)


def trainer_for(
    embedder: Embedder,
    data: TrainingSet,
    config: ResolvedMirrorConfig,
    *,
    dtype: torch.dtype = torch.float32,
    masked_lm: Any = None,
) -> MirrorTrainer:
    """Tokenise the pairs and build the trainer of an embedder's encoder.

    Raises:
        UserError: All texts have the same tokens, or spans are to be erased and the tokenizer has no mask token.
    """
    pairs = tokenise_pairs(data, embedder.tokenizer, max_tokens=config.max_tokens, prompt=config.prompt or "")
    views = Views(data, pairs, embedder.tokenizer, config)
    return MirrorTrainer(embedder.encoder, views, config, dtype=dtype, masked_lm=masked_lm)
