"""A step of identity fine-tuning against the reference recipe, and against what the matrix products alone would take.

The reference: two passes padded to 50 tokens in float32, NT-Xent over 400 views, AdamW on every parameter (Liu et al. 2021,
released code). Both train the same MiniLM shape (6 x 384) on the same batches of 200 STS sentences, dropout 0.1, span mask 5.
Span masks and their tokenising count in both; ours tokenises the untouched texts once, in its first step, as a run does beforehand.
"""

import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from measuring import Claim, arguments, finish, in_turns, minilm_folder, product_s, ratio_of, sts_sentences
from tain.batches.views import twin_views
from tain.encoders.dropout import set_dropout
from tain.foundation.machine import keep_freed_memory
from tain.models.embedder import Embedder
from tain.objectives.contrastive import info_nce
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.data import training_set
from tain.recipes.mirror.preparing import set_limits
from tain.recipes.mirror.trainer import trainer_for
from tain.training.optimizer import MasterWeights, adamw

BATCH, PADDED, LEARNING_RATE, SEED = 200, 50, 2e-5, 13
STEPS_A_TURN = {"reference": 1, "ours": 4, "ours float32": 2}  # about alike in seconds: training runs its steps one after the other


class Reference:
    """The released recipe, written with plain transformers."""

    def __init__(self, folder, texts):
        self.texts = texts
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModel.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        self.number = 0

    def gradient(self):
        batch = self.texts[self.number * BATCH : (self.number + 1) * BATCH]
        views = twin_views(batch, chars=5, floor=30, mask_token="[MASK]", rng=np.random.default_rng([SEED, 3, self.number]))
        torch.manual_seed(self.number)
        vectors = []
        for view in views:
            padded = self.tokenizer(view, padding="max_length", truncation=True, max_length=PADDED, return_tensors="pt")
            hidden = self.model(**padded).last_hidden_state
            is_token = padded["attention_mask"][..., None]
            vectors.append((hidden * is_token).sum(1) / is_token.sum(1))
        loss = info_nce(*vectors, temperature=0.04)
        loss.backward()
        return loss.item()

    def step(self):
        loss = self.gradient()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1
        return loss


class Ours:
    def __init__(self, folder, texts, dtype):
        config = MirrorConfig(held_out=0, keep_duplicates=True, max_texts=0, learning_rate=LEARNING_RATE)
        embedder = Embedder.load(folder, dtype="float32", device="cpu")
        resolved = config.resolved(width=embedder.dim, weight_rms=0.063)
        set_limits(embedder.encoder, resolved)
        self.trainer = trainer_for(embedder, training_set(texts, resolved), resolved)
        set_dropout(embedder.encoder.model, hidden=0.1, attention=0.1)
        self.optimizer = adamw(MasterWeights(embedder.encoder.model, dtype=dtype), learning_rate=LEARNING_RATE, weight_decay=0.01)
        embedder.encoder.train()
        self.number = 0

    def step(self):
        loss = self.gradient()
        self.optimizer.step()
        self.number += 1
        return loss

    def gradient(self):
        batch = self.trainer.batch(np.arange(self.number * BATCH, (self.number + 1) * BATCH), step=self.number, seed=SEED)
        return self.trainer.gradient_step(batch, step=self.number, seed=SEED)


RIVALS = {
    "reference": Reference,
    "ours": partial(Ours, dtype=torch.bfloat16),
    "ours float32": partial(Ours, dtype=torch.float32),
}


@contextmanager
def worker(name, folder, texts):
    """Run a rival in a process of its own; yields a function that has it take its steps of a turn and returns the losses."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, name, folder, texts), daemon=True)
    process.start()
    assert here.recv() == "ready"

    def steps():
        here.send(STEPS_A_TURN[name])
        return here.recv()

    try:
        yield steps
    finally:
        here.send(None)
        process.join()


def serve(pipe, name, folder, texts):
    if name != "reference":
        keep_freed_memory()  # as the recipe does
    rival = RIVALS[name](folder, texts)
    pipe.send("ready")
    while (steps := pipe.recv()) is not None:
        pipe.send([rival.step() for _ in range(steps)])


def product_rate(dtype):
    """Multiply-add operations a second, times two, at the shapes of the feed-forward part."""
    return 2 * 5760 * 384 * 1536 / product_s(5760, 384, 1536, dtype)


def product_operations(tokens):
    """Operations in the matrix products of one step: 6 layers, forward and twice that backward."""
    return 3 * tokens * 6 * (4 * 384 * 384 + 2 * 384 * 1536) * 2


def main():
    chosen = arguments(__doc__)
    folder = minilm_folder()
    texts = sts_sentences(chosen.data)
    rounds = 1 if chosen.quick else 5
    losses: dict[str, list[float]] = {name: [] for name in RIVALS}

    # first that the gradients agree: dropout off, one batch
    equal_within = gradients_apart(folder, texts)
    print(f"largest difference of the gradients, over the largest entry: {equal_within:.1e}")

    # a process each, as users would run them: memory settings of one must not help or hinder another
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name, folder, texts)) for name in RIVALS}
        turns: dict[str, Callable[[], object]] = {name: (lambda n=name, ask=ask: losses[n].extend(ask())) for name, ask in workers.items()}
        rates: list[float] = []
        turns["products"] = lambda: rates.append(product_rate(torch.bfloat16))
        times = in_turns(turns, repeats=rounds)
    times = {name: [taken_s / STEPS_A_TURN[name] for taken_s in times[name]] for name in RIVALS}
    tokens = mean_tokens(Ours(folder, texts, torch.float32).trainer, len(losses["ours"]))
    floor_s = [product_operations(tokens) / rate for rate in rates[-rounds:]]
    ratio, spread = ratio_of(times["reference"], times["ours"])
    ratio32, spread32 = ratio_of(times["reference"], times["ours float32"])
    share, share_spread = ratio_of(floor_s, times["ours"])
    for name, values in losses.items():
        print(f"loss curve, {name}: {' '.join(f'{value:.3f}' for value in values[:12])}")
    together = min(map(len, losses.values()))
    apart = float(np.abs(np.array(losses["reference"][:together]) - np.array(losses["ours"][:together])).max())
    claims = [
        Claim("a training step, default data type", ratio, "times the reference recipe", 10.0, spread, equal_within),
        Claim("a training step, float32", ratio32, "times the reference recipe", 5.0, spread32, equal_within),
        Claim("share of the matrix-product floor", share, "of one step's time", 0.6, share_spread, None),
    ]
    details = {"times_s": times, "losses": losses, "largest_loss_difference": apart, "tokens_a_step": tokens, "floor_s": floor_s}
    finish("mirror_speed", claims, details, quick=chosen.quick)


def mean_tokens(trainer, steps):
    return float(
        np.mean(
            [
                sum(map(len, [*left, *right]))
                for left, right in (trainer.views(np.arange(n * BATCH, (n + 1) * BATCH), step=n, seed=SEED) for n in range(steps))
            ]
        )
    )


def gradients_apart(folder, texts):
    """Dropout off: the reference's gradient of the first batch against ours in float32."""
    reference, ours = Reference(folder, texts), Ours(folder, texts, torch.float32)
    set_dropout(reference.model, hidden=0.0, attention=0.0)
    set_dropout(ours.trainer.encoder.model, hidden=0.0, attention=0.0)
    reference.gradient()
    ours.gradient()
    pairs = zip(reference.model.parameters(), ours.trainer.encoder.model.parameters(), strict=True)
    both = [(left.grad, right.grad) for left, right in pairs if left.grad is not None and right.grad is not None]
    # over the largest entry of all: a key's bias has no gradient but rounding, and noise over noise says nothing
    return max((left - right).abs().max().item() for left, right in both) / max(left.abs().max().item() for left, _ in both)


if __name__ == "__main__":
    main()
