"""Continue tain-mini with contrast on neighbouring sentences: the second stage of the shipped model.

    python benchmarks/contrast_mini.py --cpu-s 6000 --output runs/mini-contrast
    python benchmarks/contrast_mini.py --quick
    python benchmarks/contrast_mini.py --plot      (draws docs/second-stage.svg from results/contrast_mini.json)

Each step draws 200 pairs of neighbouring sentences (5 to 36 tokens) from the corpora, pools their tokens by SIF weights and adds three losses:
contrast between the two sides (temperature 0.05), the squared difference of all cosines to those of token vectors trained as a bag of words
(weight 20, falling to 10), and masked language modelling on eight blocks of 128 tokens (weight 0.1), which keeps the prediction head usable. Muon
steps the matrices, AdamW the rest; rates fall linearly over the processor time given. The figures printed on the way are Spearman x 100 of
STS-B dev and SICK trial: of plain weighted means, and whitened by the power 0.5 on the STS-B training sentences. One thread.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from measuring import RESULTS, sts_sentences
from plotting import BLUE, BROWN, GREY, save, start
from tain.batches.masking import mask_at_random
from tain.batches.packing import pack
from tain.batches.tokenizing import tokenise_once
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.encoders.pooling import sif_weights
from tain.encoders.transformer import TransformerEncoder
from tain.evaluation.report import evaluate
from tain.foundation.machine import keep_freed_memory
from tain.foundation.progress import Progress
from tain.models.correction_fitting import Moments, fit_whitening
from tain.models.embedder import Embedder
from tain.models.masked_lm import load_masked_lm
from tain.objectives.contrastive import paired_info_nce, similarity_gap
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.mirror.static import taken, train_token_vectors
from tain.text.readers import read_sentences
from tain.text.sentences import split_sentences
from tain.training.optimizer import MasterWeights, muon_and_adamw

SHARED = Path(__file__).parents[2] / "shared"
CORPORA = ("corpus/simplewiki", "corpus/enwiki_sample", "corpus_more/enwiki_more", "corpus/novels", "corpus/enwiki_core")
FEWEST_TOKENS, MOST_TOKENS = 5, 36  # of a sentence, special tokens included
MARKS = (25, 50, 100, 200, 400, 800, 1600, 3200)
SMOOTHING, TEMPERATURE, ANCHOR, MLM, BLOCKS, BLOCK_TOKENS, MASKING_RATE = 1e-3, 0.05, 20.0, 0.1, 8, 128, 0.2


def dev_figures(encoder, tokenizer, data, sts):
    """STS-B dev and SICK trial, with the weighted mean as it is, and whitened on ``sts``."""
    plain = Embedder(encoder, tokenizer, name="plain", max_tokens=BLOCK_TOKENS)
    moments = Moments(encoder.dim)
    moments.add(plain.encode(sts))
    correction = fit_whitening(moments, power=0.5).correction
    whitened = Embedder(encoder, tokenizer, name="whitened", max_tokens=BLOCK_TOKENS, correction=correction)
    found = []
    for made in (plain, whitened):
        (suite,) = evaluate([made], ("sts",), data, split="dev", resamples=10, progress=False).suites
        found.append(float(np.mean([row.figures[0].value for row in suite.groups[0].rows])))
    return f"dev plain {found[0]:.2f}, whitened {found[1]:.2f}"


def blocks_of(stream, rng, tokenizer, generator):
    """Masked blocks of running text."""
    starts = rng.integers(0, len(stream) - BLOCK_TOKENS, size=BLOCKS)
    ids = torch.from_numpy(np.stack([stream[start : start + BLOCK_TOKENS] for start in starts]).astype(np.int64))
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    special = torch.tensor(tokenizer.all_special_ids)
    return mask_at_random(
        ids,
        is_maskable=~torch.isin(ids, special),
        rate=MASKING_RATE,
        mask_id=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
        first_ordinary_id=int(special.max()) + 1,
        generator=generator,
    )


def draw(content):
    """Mean of the dev sets against the number of pairs, beside what needs no model."""
    figure, (axes,) = start(
        "Neighbouring sentences help most in the first 10,000 pairs, and again as rates fall",
        note="STS-B dev and SICK trial, mean Spearman x 100; dotted: no training. One run; rates fall over the last 209 steps",
        height=3.6,
    )
    rows = content["points"][1:]  # the first has no place on a log scale
    pairs = [row["pairs"] for row in rows]
    for name, colour in (("joined", BLUE), ("whitened", BROWN), ("plain", GREY)):
        values = [row[name] for row in rows]
        axes.plot(pairs, values, "-o", color=colour, linewidth=2, markersize=5)
        words = f"{name} {values[-1]:.1f} ({content['points'][0][name]:.1f} before)"
        axes.annotate(words, (pairs[-1], values[-1]), xytext=(9, 0), textcoords="offset points", va="center", color=colour)
    for name, value in content["baselines"].items():
        axes.axhline(value, color="#888888", linestyle=":")
        axes.annotate(name, (pairs[0], value), xytext=(0, 3), textcoords="offset points", fontsize=8, color=GREY)
    axes.set_xscale("log")
    axes.set_xlim(pairs[0] * 0.9, pairs[-1] * 6)
    axes.set_xticks(pairs[:-1], [f"{each // 1000}k" for each in pairs[:-1]])
    axes.minorticks_off()
    axes.set_xlabel("pairs")
    axes.grid(axis="y")
    save(figure, "second-stage.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tain-mini", help="a masked language model")
    parser.add_argument("--cpu-s", type=float, default=6000, help="processor seconds of training")
    parser.add_argument("--pairs", type=int, default=200, help="pairs per step")
    parser.add_argument("--anchor-pairs", type=int, default=4_900_000, help="pairs that the token vectors are trained on")
    parser.add_argument("--matrix-learning-rate", type=float, default=0.006)
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--corpora", type=Path, default=SHARED)
    parser.add_argument("--output", type=Path, default=Path("runs/mini-contrast"))
    parser.add_argument("--quick", action="store_true", help="little text and time")
    parser.add_argument("--plot", action="store_true", help="only draw the picture")
    chosen = parser.parse_args()
    if chosen.plot:
        draw(json.loads((RESULTS / "contrast_mini.json").read_text(encoding="utf-8")))
        return
    if chosen.quick:
        chosen.cpu_s, chosen.pairs, chosen.anchor_pairs = 60, 32, 20_000
    torch.manual_seed(chosen.seed)
    torch.set_num_threads(1)
    keep_freed_memory()
    loaded = load_masked_lm(chosen.model)
    model, tokenizer = loaded.model, loaded.tokenizer

    sentences, is_followed = [], []
    for name in CORPORA:
        for line in islice(read_sentences(chosen.corpora / f"{name}.txt.xz"), 20_000 if chosen.quick else None):
            parts = split_sentences(line.text)
            sentences += parts
            is_followed += [True] * (len(parts) - 1) + [False]
    texts = tokenise_once(tokenizer, sentences, max_tokens=BLOCK_TOKENS)
    del sentences
    lengths = np.diff(texts.starts)
    fits = (lengths >= FEWEST_TOKENS) & (lengths <= MOST_TOKENS)
    is_long = lengths >= FEWEST_TOKENS
    followed = np.array(is_followed)[:-1]
    pairs = np.flatnonzero(followed & fits[:-1] & fits[1:])
    all_pairs = np.flatnonzero(followed & is_long[:-1] & is_long[1:])
    print(f"{len(lengths):,} sentences, {len(pairs):,} pairs of {FEWEST_TOKENS} to {MOST_TOKENS} tokens", flush=True)

    special = tokenizer.all_special_ids
    teacher = train_token_vectors(
        model.get_input_embeddings().weight.detach(), taken(texts, all_pairs), taken(texts, all_pairs + 1),
        special=special, max_pairs=chosen.anchor_pairs, seed=chosen.seed, progress=Progress.for_terminal(),
    )  # fmt: skip
    counts = torch.from_numpy(np.bincount(texts.ids, minlength=len(tokenizer)))
    encoder = TransformerEncoder(
        model.base_model, pooling="mean", pad_id=tokenizer.pad_token_id, token_weights=sif_weights(counts, smoothing=SMOOTHING)
    )
    network = MaskedLanguageModel(model)
    weights = MasterWeights(model, dtype=torch.bfloat16)
    optimizer = muon_and_adamw(
        weights,
        matrix_learning_rate=chosen.matrix_learning_rate,
        embedding_learning_rate=chosen.learning_rate,
        other_learning_rate=chosen.learning_rate,
        embeddings=[name for name in weights.names if "tok_embeddings" in name],
        weight_decay=0.01,
    )
    sts = sts_sentences(chosen.data)[:4000]
    rng, generator = np.random.default_rng(chosen.seed), torch.Generator().manual_seed(chosen.seed)
    order, spent_s, step, recent = rng.permutation(pairs), 0.0, 0, []
    print(f"before: {dev_figures(encoder, tokenizer, chosen.data, sts)}", flush=True)
    model.train()
    while spent_s < chosen.cpu_s:
        began_s = time.process_time()
        share = spent_s / chosen.cpu_s
        start = step * chosen.pairs % (len(order) - chosen.pairs)
        left = order[start : start + chosen.pairs]
        ids = [texts[int(text)] for text in (*left, *(left + 1))]
        vectors = encoder(pack(ids, share_rows=True))
        contrast = paired_info_nce(vectors[: len(left)], vectors[len(left) :], temperature=TEMPERATURE)
        gap = similarity_gap(vectors, teacher.encode(ids))
        (contrast + ANCHOR * (1 - 0.5 * share) * gap).backward()
        masked = blocks_of(texts.ids, rng, tokenizer, generator)
        mlm = masked_cross_entropy(network(masked.ids, masked.indices).float(), masked.targets)
        (MLM * mlm).backward()
        optimizer.step(rate_factor=min(1.0, (step + 1) / 20) * (0.05 + 0.95 * (1 - share)))
        step += 1
        recent.append((contrast.item(), gap.item(), mlm.item()))
        spent_s += time.process_time() - began_s
        if step in MARKS or step % 50 == 0:
            losses = "loss {:.3f}, gap {:.5f}, masked LM {:.3f}".format(*np.mean(recent[-25:], axis=0))
            figures = dev_figures(encoder, tokenizer, chosen.data, sts) if step in MARKS else ""
            print(f"{step} steps, {step * chosen.pairs:,} pairs, {spent_s:.0f} s: {losses} {figures}", flush=True)
    print(f"after {step} steps: {dev_figures(encoder, tokenizer, chosen.data, sts)}", flush=True)
    weights.restore(model)
    chosen.output.mkdir(parents=True, exist_ok=True)
    model.eval().float().save_pretrained(chosen.output)
    tokenizer.save_pretrained(chosen.output)
    stage = {"steps": step, "pairs": step * chosen.pairs, "batch_pairs": chosen.pairs, "processor_s": round(spent_s), "seed": chosen.seed}
    (chosen.output / "stage.json").write_text(json.dumps(stage) + "\n", encoding="utf-8")
    print(f"{chosen.output}: {step} steps, {step * chosen.pairs:,} pairs; ship it with benchmarks/ship_mini.py")


if __name__ == "__main__":
    main()
