"""Tokens a second of masked language modelling against transformers' Trainer with its masking collator.

Both train the same model from the same weights on the same blocks in the same order, in bfloat16 (the Trainer by autocast, as its
``bf16`` does; ours with bfloat16 weights over float32 masters), AdamW with weight decay 0.01, no gradient clipping, a level rate
after a short warm-up. Text is tokenised beforehand; building batches and masks counts in both. Each rival runs in a process of
its own and takes its steps in turn with the others.
"""

import multiprocessing
import statistics
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from measuring import Claim, arguments, finish, in_turns, product_s, ratio_of, sts_sentences
from tain.batches.shards import Sources, tokenised
from tain.encoders.dropout import quicken_dropout, set_dropout
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.machine import keep_freed_memory
from tain.models.saved import locate
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import OBJECTIVES, Masker, MaskingContext, block_order
from tain.recipes.pretrain.start import new_model
from tain.training.optimizer import MasterWeights, adamw

SHARED = {"batch_blocks": 24, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "warmup_steps": 10, "device": "cpu"}
SHAPES = {
    "tain-mini": PretrainConfig(masking_rate=0.3, **SHARED),
    "BERT 6 x 384": PretrainConfig(
        architecture="bert", layers=6, hidden_size=384, heads=12, intermediate_size=1536, masking_rate=0.15, dropout=0.1, **SHARED
    ),
}
STEPS_HELD = 20  # more than any run takes


def same_start(config):
    """Tokenizer and model, the same weights in every process."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(locate("tain-mini"), trust_remote_code=False)
    torch.manual_seed(config.seed)
    return tokenizer, new_model(config, tokenizer)


def shards_of(folder, tokenizer):
    return tokenised(folder / "shards", Sources((str(folder / "texts.txt"),)), tokenizer)


class Ours:
    def __init__(self, config, folder, *, compiled):
        keep_freed_memory()  # as the recipe does
        tokenizer, model = same_start(config)
        if compiled:
            config = replace(config, compile=True)
        quicken_dropout(model)
        network = MaskedLanguageModel(model).train()
        weights = MasterWeights(model, dtype=torch.bfloat16)
        self.optimizer = adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        context = MaskingContext(network, weights, tokenizer, shards_of(folder, tokenizer), config, torch.device("cpu"))
        self.objective = OBJECTIVES["random"](context)
        self.warmup_steps = config.warmup_steps

    def serve(self, pipe):
        number = 0
        while pipe.recv() == "step":
            loss = self.objective.gradient(number)
            self.optimizer.step(rate_factor=min(1.0, (number + 1) / self.warmup_steps))
            number += 1
            pipe.send(loss)


class Theirs:
    def __init__(self, config, folder):
        self.config = config
        self.tokenizer, self.model = same_start(config)
        order = block_order(shards_of(folder, self.tokenizer).tokens, self.tokenizer, config)
        self.blocks = [{"input_ids": row} for step in range(STEPS_HELD) for row in order.batch(step)]

    def serve(self, pipe):
        class InTurns(transformers.TrainerCallback):
            """Hands over a step's loss, then waits for the next turn, so that the next batch is built in its own time."""

            def on_log(self, args, state, control, logs=None, **_):
                if logs and "loss" in logs:
                    pipe.send(logs["loss"])
                    if pipe.recv() != "step":
                        control.should_training_stop = True

        with tempfile.TemporaryDirectory() as scratch:
            settings = transformers.TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=self.config.batch_blocks,
                max_steps=STEPS_HELD,
                bf16=True,
                use_cpu=True,
                learning_rate=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=self.config.warmup_steps,
                max_grad_norm=0.0,
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            collator = transformers.DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=self.config.masking_rate)
            data: Any = self.blocks  # a list serves as well
            trainer = transformers.Trainer(self.model, settings, data_collator=collator, train_dataset=data, callbacks=[InTurns()])
            trainer.remove_callback(transformers.PrinterCallback)
            if pipe.recv() == "step":
                trainer.train()


RIVALS = {"Trainer": Theirs, "ours": partial(Ours, compiled=False), "ours compiled": partial(Ours, compiled=True)}


def serve(pipe, name, config, folder):
    rival = RIVALS[name](config, folder)
    pipe.send("ready")
    rival.serve(pipe)


@contextmanager
def worker(name, config, folder):
    """Run a rival in a process of its own; yields a function that has it take a step and returns the loss."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, name, config, folder), daemon=True)
    process.start()
    there.close()  # a rival that dies must end the wait for it
    assert here.recv() == "ready"

    def step():
        here.send("step")
        return here.recv()

    try:
        yield step
    finally:
        here.send("stop")
        process.join()


def gradients_apart(config, folder):
    """Dropout off, float32, one batch: the loss as the Trainer computes it against ours; largest difference over the largest entry."""
    gradients = []
    for ours in (False, True):
        tokenizer, model = same_start(config)
        set_dropout(model, hidden=0.0, attention=0.0)
        ids = block_order(shards_of(folder, tokenizer).tokens, tokenizer, config).batch(0)
        masked = Masker(tokenizer, rate=config.masking_rate).at_random(ids, seed=1)
        if ours:
            logits = MaskedLanguageModel(model)(masked.ids, masked.indices)
            torch.nn.functional.cross_entropy(logits, masked.targets).backward()
        else:
            labels = torch.full_like(ids, -100).flatten().scatter_(0, masked.indices, masked.targets).view(ids.shape)
            model(input_ids=masked.ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    largest = max(gradient.abs().max().item() for gradient in gradients[0])
    return max((left - right).abs().max().item() for left, right in zip(*gradients, strict=True)) / largest


def product_floor_s(config, vocabulary):
    """Seconds that the matrix products of one step alone would take, forward and twice that backward, at the shapes that occur."""
    tokens = config.batch_blocks * config.block_tokens
    masked = round(config.masking_rate * config.batch_blocks * (config.block_tokens - 2))
    width, inner = config.hidden_size, config.intermediate_size
    gates = 2 if config.architecture == "modernbert" else 1  # its feed-forward part multiplies two projections
    attention = [(tokens, width, 3 * width), (tokens, width, width)]
    layer = [*attention, (tokens, width, gates * inner), (tokens, inner, width)]
    head = [(masked, width, width), (masked, width, vocabulary)]
    shapes = [*layer * config.layers, *head]
    return 3 * sum(product_s(rows, depth, columns, torch.bfloat16) for rows, depth, columns in shapes)


def measured(shape, config, folder, *, rivals, rounds):
    """One shape: gradients compared, then all rivals' steps in turn."""
    tokenizer, _ = same_start(config)
    equal_within = gradients_apart(config, folder)
    print(f"{shape}: largest difference of the gradients, over the largest entry: {equal_within:.1e}", flush=True)
    losses = {name: [] for name in rivals}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name, config, folder)) for name in rivals}
        steps = {name: (lambda n=name, ask=ask: losses[n].append(ask())) for name, ask in workers.items()}
        times = in_turns(steps, repeats=rounds, warmups=3)
    tokens = config.batch_blocks * config.block_tokens
    floor_s = product_floor_s(config, len(tokenizer))
    for name, values in losses.items():
        rate = tokens / statistics.median(times[name])
        print(f"{name}: {rate:,.0f} tokens/s, {floor_s / statistics.median(times[name]):.0%} of a step in matrix products at their best")
        print(f"  loss curve {' '.join(f'{value:.2f}' for value in values)}", flush=True)
    apart = {name: float(np.abs(np.subtract(losses["Trainer"], values)).max()) for name, values in losses.items() if name != "Trainer"}
    claims = []
    for name in rivals[1:]:
        ratio, spread = ratio_of(times["Trainer"], times[name])
        claims.append(Claim(f"a pretraining step, {shape}, {name}", ratio, "times transformers' Trainer", 1.8, spread, equal_within))
        share, share_spread = ratio_of([floor_s] * rounds, times[name])
        claims.append(Claim(f"share of the matrix-product floor, {shape}, {name}", share, "of one step's time", None, share_spread, None))
    rates = {name: round(tokens / statistics.median(values)) for name, values in times.items()}
    details = {"tokens_a_second": rates, "times_s": times, "losses": losses, "largest_loss_difference": apart, "floor_s": floor_s}
    return claims, details


def main():
    chosen = arguments(__doc__)
    transformers.logging.set_verbosity_error()
    claims, details = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "texts.txt").write_text("\n".join(sts_sentences(chosen.data)), encoding="utf-8")
        shards_of(folder, same_start(SHAPES["tain-mini"])[0])
        for shape, config in list(SHAPES.items())[: 1 if chosen.quick else None]:
            # compiling alone takes longer than a quick run may
            rivals, rounds = (("Trainer", "ours"), 2) if chosen.quick else (tuple(RIVALS), 12)
            found, details[shape] = measured(shape, config, folder, rivals=rivals, rounds=rounds)
            claims += found
    finish("pretrain_speed", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()
