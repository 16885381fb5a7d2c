"""What CMLM's second task, finding translations, does: retrieval of translations before and after, beside rows that need no model.

    python benchmarks/bitext_retrieval.py
    python benchmarks/bitext_retrieval.py --quick      (fewer steps and test commands, no results file)

tain-mini, an English model, is continued by ``tain pretrain --objective cmlm --bitext`` on the validation commands of xSID in five languages and on a
part of Simple English Wikipedia. The figures are of its test commands, which are other commands: the share of commands whose nearest command of the
other language, by cosine, is their translation.

A text may be in one pair a side, so the languages form a ring: English beside Danish, Danish beside German, and so on to Dutch beside English.
"""

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from language_bias import commands
from measuring import Claim, finish
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.metrics import unit_rows
from tain.models.embedder import Embedder
from tain.recipes.pretrain.recipe import pretrain
from tain.text.readers import read_sentences

MODEL = "tain-mini"
RING = ("en", "da", "de", "it", "nl")  # those of xSID that tain-mini's tokenizer can write, and that are in English's order
WIKIPEDIA_LINES = 4000
SETTINGS = {
    "objective": "cmlm",
    "block_tokens": 64,
    "batch_blocks": 8,
    "bitext_pairs": 32,
    "bitext_weight": 1.0,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "warmup_steps": 10,
    "decay_share": 1.0,
    "masking_rate": 0.15,
    "save_dtype": "float32",
}
SAME_COSINE = 1e-6  # smaller differences are ties


def main():
    chosen = arguments()
    valid, test = commands(chosen.data, "valid"), commands(chosen.data, "test")
    test = {language: test[language][: 60 if chosen.quick else None] for language in RING}
    with tempfile.TemporaryDirectory() as work:
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        pairs, text = write_pairs(valid, Path(work) / "pairs.tsv"), write_text(chosen.corpus, Path(work) / "text.txt")
        tokens = 2e4 if chosen.quick else chosen.tokens
        pretrain(MODEL, [text], Path(work) / "model", bitext=pairs, tokens=tokens, seed=chosen.seed, **SETTINGS)
        seconds = {"wall": round(time.monotonic() - began_s), "processor": round(time.process_time() - began_cpu_s)}
        at_hand = [command for language in RING for command in test[language]]
        rivals = {"lexical": Lexical(at_hand), f"static:{MODEL}": Static.load(MODEL, at_hand)}
        found = {name: accuracies(lambda left, right, by=by: by.index(right).cosines(left), test) for name, by in rivals.items()}
        for name, model in (("before", MODEL), ("after", Path(work) / "model")):
            embedder = Embedder.load(model, pooling="mean", dtype="float32")
            found[name] = accuracies(lambda left, right, by=embedder: unit_rows(by.encode(left)) @ unit_rows(by.encode(right)).T, test)
    show(found, len(test["en"]))
    before, after = (mean_of(found[name]) for name in ("before", "after"))
    claim = Claim(
        "accuracy of translation retrieval after CMLM with translations, less before",
        round(after - before, 1),
        "points",
        None,
        (0, 0),
        None,
    )
    details = {
        "commands": len(test["en"]),
        "languages": RING,
        "settings": {**SETTINGS, "tokens": tokens, "seed": chosen.seed},
        "training_seconds": seconds,
        "accuracy": found,
        "mean": {name: round(mean_of(row), 1) for name, row in found.items()},
    }
    finish("bitext_retrieval", [claim], details, quick=chosen.quick)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).parents[2] / "shared"
    parser.add_argument("--quick", action="store_true", help="a few steps, fewer test commands, no results file")
    parser.add_argument("--tokens", type=float, default=3e5, help="tokens to train on, those of the pairs counted")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--corpus", type=Path, default=shared / "corpus")
    return parser.parse_args()


def write_pairs(valid, path):
    """The validation commands, each language beside the next one of the ring."""
    pairs = [pair for left, right in zip(RING, (*RING[1:], RING[0]), strict=True) for pair in zip(valid[left], valid[right], strict=True)]
    path.write_text("left\tright\n" + "".join(f"{left}\t{right}\n" for left, right in pairs), encoding="utf-8")
    return path


def write_text(corpus, path):
    """A beginning of Simple English Wikipedia, an empty line between documents."""
    lines = []
    for sentence in islice(read_sentences(str(corpus / "simplewiki.txt.xz")), WIKIPEDIA_LINES):
        lines += [""] if sentence.begins_document and lines else []
        lines.append(sentence.text)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def accuracies(cosines, test):
    """For each other language, the share of English commands that find their translation, and of translations that find the English one."""
    found = {}
    for language in RING[1:]:
        scores = cosines(test["en"], test[language])
        found[language] = [round(100 * first_share(each), 1) for each in (scores, scores.T)]
    return found


def first_share(scores):
    """Share of rows whose own column is the best; several best ones share the place."""
    is_best = scores >= scores.max(axis=1, keepdims=True) - SAME_COSINE
    return float((is_best.diagonal() / is_best.sum(axis=1)).mean())


def mean_of(row):
    return float(np.mean(list(row.values())))


def show(found, count):
    print(f"accuracy x 100 among {count} commands, English to the language / the language to English", file=sys.stderr)
    print(f"{'':18}" + "".join(f"{language:>16}" for language in RING[1:]) + f"{'mean':>8}", file=sys.stderr)
    for name, row in found.items():
        cells = "".join(f"{f'{there:.1f} / {back:.1f}':>16}" for there, back in row.values())
        print(f"{name:18}{cells}{mean_of(row):8.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
