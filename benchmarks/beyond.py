"""Does mirroring beat word counting? Every recipe beside what needs no model, and beside sentence-transformers' label-free recipes.

    python benchmarks/beyond.py --seeds 5 --work runs/beyond
    python benchmarks/beyond.py --split dev --rows best --seeds 1 --set anchor=0 --work runs/choice      (to choose by)
    python benchmarks/beyond.py --quick

Texts: the 10,000 STS-B training sentences that Mirror-BERT ships. ``best`` also takes neighbouring sentences from running text (--corpus:
Simple English Wikipedia, a sample of the English Wikipedia and novels). Everything is label-free, but all-MiniLM-L6-v2, which was trained
on a billion pairs and stands there for scale. Spearman x 100: with --split test the mean of STS12, 14, 15, STS-B and SICK-R, with --split dev
of STS-B dev and SICK trial. Rows are kept in --work line by line: a run that was cut off goes on.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from measuring import Claim, Rows, finish, minilm_folder, sts_sentences
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.report import evaluate
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.correct.recipe import correct
from tain.recipes.mirror.recipe import mirror
from tain.text.readers import read_sentences

RECIPES = {
    "mirror": {},
    "paper": {"recipe": "paper"},
    "fast": {"recipe": "fast"},
    "fast-joined": {"recipe": "fast", "join": True},
    "best": {"recipe": "best"},
}
RIVALS = ("simcse", "ct", "tsdae")
CORPUS = ("simplewiki.txt.xz", "enwiki_sample.txt.xz", "novels.txt.xz")


def scores(encoder, data):
    """Spearman x 100 of every set, by split and key."""
    found = {}
    for split in ("dev", "test"):
        (suite,) = evaluate([encoder], ("sts",), data, split=split, resamples=10).suites
        found[split] = {row.key: round(row.figures[0].value, 2) for row in suite.groups[0].rows}
    return found


def documents_of(corpus, *, most):
    """The corpus's training files as sentences with the mark of a document's begin."""
    return [line for name in CORPUS for line in islice(read_sentences(corpus / name), most)]


class Theirs:
    """A sentence-transformers model as ``evaluate`` takes encoders."""

    def __init__(self, model, name):
        self.model, self.name = model, name

    def encode(self, texts, /):
        return self.model.encode(list(texts), batch_size=64, show_progress_bar=False)


def rival(kind, model, texts, seed, work, *, rate=None):
    """Train sentence-transformers' own label-free recipe, as its documentation has it but for the learning rate, on the same weights and texts."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer import modules as models

    torch.manual_seed(seed)
    transformer = models.Transformer(str(model), max_seq_length=50)
    # ModernBERT's layout would be compiled at the first step, which takes minutes on a CPU and gains nothing here
    transformer.auto_model.config.reference_compile = False
    for module in transformer.modules():
        if isinstance(module, torch.nn.Dropout) and module.p == 0:
            module.p = 0.1  # SimCSE's views differ by dropout alone, and this model's config has none
    encoder = SentenceTransformer(modules=[transformer, models.Pooling(transformer.auto_model.config.hidden_size, "mean")], device="cpu")
    texts = list(np.random.default_rng(seed).permutation(texts))
    if kind == "simcse":
        data, loss = Dataset.from_dict({"anchor": texts, "positive": texts}), losses.MultipleNegativesRankingLoss(encoder)
        batch, documented = 128, 3e-5
    elif kind == "ct":
        other = list(np.random.default_rng(seed + 1).permutation(texts))
        half = len(texts) // 8
        pairs = [(text, text, 1) for text in texts[:half]] + [
            (a, b, 0) for a, b in zip(texts[: 7 * half], other[: 7 * half], strict=True) if a != b
        ]
        data = Dataset.from_dict({"a": [p[0] for p in pairs], "b": [p[1] for p in pairs], "label": [p[2] for p in pairs]}).shuffle(seed)
        loss, batch, documented = losses.ContrastiveTensionLoss(encoder), 64, 1e-5
    else:
        from random import Random

        rng = Random(seed)
        noisy = [" ".join(kept) if (kept := [w for w in text.split() if rng.random() > 0.6]) else text.split()[0] for text in texts]
        data = Dataset.from_dict({"noisy": noisy, "text": texts})
        loss, batch, documented = losses.DenoisingAutoEncoderLoss(encoder, tie_encoder_decoder=True), 8, 3e-5
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work), num_train_epochs=1, per_device_train_batch_size=batch, learning_rate=rate or documented, warmup_steps=0.1, seed=seed,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=20, bf16=False,
    )  # fmt: skip
    SentenceTransformerTrainer(model=encoder, args=arguments, train_dataset=data, loss=loss).train()
    encoder.save(str(work / "saved"))
    return Theirs(encoder, kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tain-mini")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=13, help="a second process can do other seeds")
    parser.add_argument("--rows", nargs="+", choices=(*RECIPES, *RIVALS, "baselines"), default=("baselines", *RECIPES, "simcse"))
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[20_000], help="pairs of neighbours that best trains on; several draw a curve"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of best")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.0], help="learning rates of the rivals; 0 is the documented one (3e-5, CT 1e-5)"
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--corpus", type=Path, default=Path(__file__).parents[2] / "shared" / "corpus")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off goes on")
    parser.add_argument("--name", default="beyond", help="write benchmarks/results/NAME.json")
    parser.add_argument("--quick", action="store_true", help="end within minutes: few texts, one seed, no results file")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.pairs, chosen.split = 1, [800], "dev"
        chosen.rows = ("baselines", "fast", "best")
    texts = sts_sentences(chosen.data)[: 2000 if chosen.quick else None]
    settings = {name: json.loads(value) for name, _, value in (item.partition("=") for item in chosen.set)}
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)
    documents = documents_of(chosen.corpus, most=20_000 if chosen.quick else None) if "best" in chosen.rows else []

    def measure(row, seed, make, pairs=0, what=None):
        if not rows.lacks(row=row, seed=seed, pairs=pairs, model=chosen.model, settings=what or {}):
            return
        began_s = time.perf_counter()
        encoder = make()
        seconds = time.perf_counter() - began_s
        found = scores(encoder, chosen.data)
        means = {split: round(float(np.mean(list(by_set.values()))), 2) for split, by_set in found.items()}
        rows.add(
            row=row, seed=seed, pairs=pairs, model=chosen.model, settings=what or {}, seconds=round(seconds, 1), means=means, scores=found
        )

    def mirrored(name, seed, **more):
        work = Path(tempfile.mkdtemp())
        progress = Progress.for_terminal(json=False, quiet=True)
        mirror(chosen.model, texts, work / "encoder", seed=seed, progress=progress, **RECIPES[name], **more)
        encoder = Embedder.load(work / "encoder")  # the plain folder, as any reader has it
        shutil.rmtree(work)
        return encoder

    for row in chosen.rows:
        if row == "baselines":
            measure("lexical", 0, lambda: Lexical(texts))
            measure("characters", 0, Lexical.of_characters)
            measure(f"static:{chosen.model}", 0, lambda: Static.load(chosen.model, texts))
            measure("raw", 0, lambda: Embedder.load(chosen.model, pooling="mean"))
            measure("whitened", 0, lambda: correct(chosen.model, texts, method="whiten", power=0.5).embedder)
            measure("all-MiniLM-L6-v2 (labels)", 0, lambda: Embedder.load(minilm_folder()))
        for seed in (
            range(chosen.first_seed, chosen.first_seed + (1 if row.startswith("fast") else chosen.seeds)) if row != "baselines" else ()
        ):
            if row == "best":
                for pairs in chosen.pairs:
                    more = {"documents": documents, "max_pairs": pairs, **settings}
                    measure(row, seed, lambda seed=seed, more=more: mirrored("best", seed, **more), pairs, settings)
            elif row in RECIPES:
                measure(row, seed, lambda row=row, seed=seed: mirrored(row, seed))
            else:
                for rate in chosen.rates:
                    what = {"learning_rate": rate} if rate else {}
                    measure(row, seed, lambda row=row, seed=seed, rate=rate: _rival(row, chosen.model, texts, seed, rate), what=what)
    report(rows, chosen)


def _rival(kind, model, texts, seed, rate):
    work = Path(tempfile.mkdtemp())
    embedder = Embedder.load(model)
    embedder.encoder.model.config._attn_implementation = "sdpa"
    embedder.encoder.model.save_pretrained(work / "start")
    embedder.tokenizer.save_pretrained(work / "start")
    return rival(kind, work / "start", texts, seed, work, rate=rate)


def report(rows, chosen):
    """Print a table of means over seeds, and the claims."""
    mine = [
        row | {"scores": row["scores"][chosen.split], "mean": row["means"][chosen.split]}
        for row in rows.found
        if row["model"] == chosen.model
    ]
    groups = {}
    for row in mine:
        groups.setdefault((row["row"], row["pairs"], json.dumps(row.get("settings", {}))), []).append(row)
    keys = list(mine[0]["scores"])
    print(f"{'':34}" + "".join(f"{key:>12}" for key in keys) + f"{'mean':>14}{'seeds':>7}{'seconds':>9}")
    table = {}
    for (name, pairs, what), found in groups.items():
        label = ", ".join([name, *([f"{pairs:,} pairs"] if pairs else []), *(f"{key} {value}" for key, value in json.loads(what).items())])
        by_set = [np.mean([row["scores"][key] for row in found]) for key in keys]
        means = [row["mean"] for row in found]
        spread = np.std(means, ddof=1) if len(means) > 1 else 0.0
        table[label] = {"mean": round(float(np.mean(means)), 2), "deviation": round(float(spread), 2), "seeds": len(means), "all": means}
        table[label] |= {"scores": dict(zip(keys, (round(float(each), 2) for each in by_set), strict=True))}
        table[label] |= {"seconds": round(float(np.median([row["seconds"] for row in found])), 1)}
        line = "".join(f"{each:12.1f}" for each in by_set)
        print(f"{label:34}{line}{np.mean(means):8.2f} ±{spread:4.2f}{len(means):7}{table[label]['seconds']:9.1f}")
    sys.stdout.flush()
    baselines = [each["mean"] for label, each in table.items() if label in ("lexical", "characters") or label.startswith("static:")]
    no_model = max(baselines, default=float("nan"))
    claims = [
        Claim(f"{label}: points above the best row without a model", round(each["mean"] - no_model, 2), "points", 3.0 if "best" in label else None,
              (round(min(each["all"]) - no_model, 2), round(max(each["all"]) - no_model, 2)), None)
        for label, each in table.items() if baselines and label.startswith(("best", "fast"))
    ]  # fmt: skip
    finish(chosen.name, claims, {"split": chosen.split, "model": chosen.model, "table": table}, quick=chosen.quick)


if __name__ == "__main__":
    main()
