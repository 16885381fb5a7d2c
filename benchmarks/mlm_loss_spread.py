"""The validation loss by full exploration against the usual one by random masks: how far each moves from seed to seed.

Both look at the same blocks of held-out text with the same model, hide the same share of the tokens with the mask token, and take
the same number of passes: seven disjoint masks that cover every token once, or seven masks drawn one by one.
"""

import argparse
import statistics
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from measuring import Claim, finish
from tain.batches.masking import disjoint_indices
from tain.models.masked_lm import MaskedPredictor
from tain.text.readers import read_texts

PASSES, BLOCK_TOKENS = 7, 128


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: one text, fewer seeds, no results file")
    corpus = Path(__file__).parents[2] / "shared" / "corpus"
    parser.add_argument("--corpus", type=Path, default=corpus, help="folder with files named valid_*")
    parser.add_argument("--model", default="tain-mini", help="a masked language model")
    return parser.parse_args()


def random_loss(model, batches, seed):
    """Mean loss over seven independent masks of each row, of the explored ones' sizes: overlap is all that differs."""
    generator = torch.Generator().manual_seed(seed)
    total, tokens = 0.0, 0
    for rows in batches:
        is_maskable = model.is_maskable(rows)
        for _ in range(PASSES):
            draws = torch.rand(rows.shape, generator=generator)
            (indices,) = disjoint_indices(draws, is_maskable=is_maskable, parts=1, rate=1 / PASSES, each_row=True)
            total += model.nats(rows, indices).double().sum().item()
            tokens += len(indices)
    return total / tokens


def main():
    chosen = arguments()
    files = sorted(chosen.corpus.glob("valid_*"))
    if not files:
        sys.exit(f"error: {chosen.corpus} has no file named valid_*: give the corpus by --corpus")
    lines, seeds = (6, 12) if chosen.quick else (6, 40)
    model = MaskedPredictor.load(chosen.model)
    texts = {path.name.split(".")[0]: list(islice(read_texts(path), lines)) for path in (files[:1] if chosen.quick else files)}
    found, spreads = {}, {}
    for name, text in texts.items():
        batches = model.blocks(text, block_tokens=BLOCK_TOKENS)
        losses = {
            "explored": [model.explored_loss(text, block_tokens=BLOCK_TOKENS, passes=PASSES, seed=seed).loss for seed in range(seeds)],
            "random": [random_loss(model, batches, seed) for seed in range(seeds)],
        }
        again = model.explored_loss(text, block_tokens=BLOCK_TOKENS, passes=PASSES, seed=0).loss
        assert again == losses["explored"][0], "the same seed must give the same loss"
        spreads[name] = {kind: statistics.stdev(values) for kind, values in losses.items()}
        found[name] = {"blocks": sum(map(len, batches)), "losses": losses, "standard_deviation": spreads[name]}
        apart = statistics.mean(losses["explored"]) - statistics.mean(losses["random"])
        chance = sum(value**2 / seeds for value in spreads[name].values()) ** 0.5
        print(
            f"{name}: {found[name]['blocks']} blocks, {seeds} seeds; standard deviation explored {spreads[name]['explored']:.4f},"
            f" random {spreads[name]['random']:.4f} nats; means apart by {apart:+.4f}, {abs(apart) / chance:.1f} standard errors",
            flush=True,
        )
    ratios = sorted(spread["random"] / spread["explored"] for spread in spreads.values())
    ratio, spread = round(float(np.median(ratios)), 2), (round(ratios[0], 2), round(ratios[-1], 2))
    unit = "times the standard deviation of full exploration"
    claims = [Claim("spread over seeds of the loss by random masks, equal passes", ratio, unit, 1.0, spread, None)]
    finish("mlm_loss_spread", claims, {"model": chosen.model, "passes": PASSES, "texts": found}, quick=chosen.quick)


if __name__ == "__main__":
    main()
