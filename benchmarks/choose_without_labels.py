"""Can one choose among encoders without labels? Over forty encoders, good and bad, ranked by label-free figures and by labels.

    python benchmarks/choose_without_labels.py --work runs/choice
    python benchmarks/choose_without_labels.py --quick

Each row is a way to make an encoder from tain-mini and 2,000 STS-B training sentences (or neighbouring sentences of Simple English Wikipedia);
bad ones (rates far too high, no dropout, temperatures far off) are in on purpose. Ways that train are run with two seeds. Label-free figures
come from 1,000 further sentences: self-retrieval (do the halves of a text find each other?), alignment + uniformity, mean cosine, and how far
the two seeds agree (Spearman of their cosines between texts). Labels: mean Spearman x 100 of STS-B dev and SICK trial. The result is the rank
correlation of each figure with the labelled order, with a bootstrap interval over the encoders.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from measuring import Claim, Rows, finish, sts_sentences
from tain.evaluation.baselines import Lexical
from tain.evaluation.label_free import label_free_report, label_free_score
from tain.evaluation.metrics import spearman
from tain.evaluation.report import evaluate
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror
from tain.text.readers import read_sentences

TEXTS, HELD_OUT = 2000, 1000
TRAINED = {"batch_texts": 100, "max_texts": 1000, "held_out": 0}
NEIGHBOURS = {**TRAINED, "recipe": "best", "join": False}

# name -> settings of mirror; None is the model as it is
WAYS = {
    "raw, mean": None,
    **{f"fast, sif {a:g}": {"recipe": "fast", "sif_smoothing": a} for a in (1e-1, 1e-2, 1e-3, 1e-4)},
    **{f"fast, whitened {power:g}": {"recipe": "fast", "whiten": power} for power in (0.0, 0.25, 1.0)},
    "fast, no weights": {"recipe": "fast", "token_weights": "none"},
    "fast, 50,000 neighbours": {"recipe": "fast", "documents": True, "anchor_pairs": 50_000},
    **{f"identity, rate x{factor:g}": {**TRAINED, "learning_rate": 3e-4 * factor} for factor in (0.03, 0.3, 1, 3, 10, 40)},
    **{f"identity, temperature {each:g}": {**TRAINED, "temperature": each} for each in (0.005, 0.2, 1.0)},
    **{f"identity, dropout {each:g}": {**TRAINED, "dropout": each} for each in (0.2, 0.5)},
    "identity, nothing erased": {**TRAINED, "erased_chars": 0},
    "identity, 30 erased": {**TRAINED, "erased_chars": 30},
    "identity, first token": {**TRAINED, "pooling": "cls"},
    "identity, no dropout, nothing erased": {**TRAINED, "dropout": 0.0, "erased_chars": 0, "allow_identical_views": True},
    **{f"identity, whitened {power:g}": {**TRAINED, "whiten": power} for power in (0.25, 0.5, 1.0)},
    "identity, weighted": {**TRAINED, "token_weights": "sif"},
    "identity, weighted, whitened 0.5": {**TRAINED, "token_weights": "sif", "whiten": 0.5},
    "crops": {**TRAINED, "positives": "crops"},
    "crops, whitened 0.5": {**TRAINED, "positives": "crops", "whiten": 0.5},
    "crops and identity, weighted, whitened 0.5": {**TRAINED, "positives": "crops+identity", "token_weights": "sif", "whiten": 0.5},
    **{f"neighbours, {pairs}": {**NEIGHBOURS, "documents": True, "max_pairs": pairs, "anchor": 0.0} for pairs in (300, 1000, 2000)},
    **{f"neighbours, anchor {each:g}": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "anchor": each} for each in (20.0, 200.0)},
    "neighbours, not whitened": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "anchor": 0.0, "whiten": 0.0},
    "neighbours, not weighted": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "anchor": 0.0, "token_weights": "none"},
    "neighbours, Muon x5": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "anchor": 0.0, "matrix_learning_rate": 0.03},
    "neighbours, AdamW": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "anchor": 0.0, "optimizer": "adamw"},
    "neighbours, joined": {**NEIGHBOURS, "documents": True, "max_pairs": 1000, "join": True},
}
FIGURES = ("self-retrieval MRR", "label-free score", "alignment + uniformity", "mean cosine", "agreement of seeds")


def cosines(encoder, texts):
    vectors = encoder.encode(texts)
    return encoder.similarity(vectors, vectors)[np.triu_indices(len(texts), 1)]


def measured(encoder, held, data):
    report = label_free_report(encoder, held, max_texts=HELD_OUT, rng=np.random.default_rng(3))
    (suite,) = evaluate([encoder], ("sts",), data, split="dev", resamples=10).suites
    labels = float(np.mean([row.figures[0].value for row in suite.groups[0].rows]))
    return {
        "self-retrieval MRR": report.self_retrieval_mrr,
        "label-free score": label_free_score(report),
        "alignment + uniformity": -(report.alignment + report.uniformity),  # higher is better, as everywhere here
        "mean cosine": -report.mean_cosine,
        "labels": labels,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--corpus", type=Path, default=Path(__file__).parents[2] / "shared" / "corpus")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off continues")
    parser.add_argument("--quick", action="store_true", help="four ways, no results file")
    chosen = parser.parse_args()
    texts = sts_sentences(chosen.data)
    texts, held = texts[:TEXTS], texts[-HELD_OUT:]
    documents = list(islice(read_sentences(chosen.corpus / "simplewiki.txt.xz"), 20_000))
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)

    def made(settings, seed):
        if settings is None:
            return Embedder.load("tain-mini", pooling="mean")
        settings = dict(settings)
        passages = documents if settings.pop("documents", False) else None
        return mirror("tain-mini", texts, seed=seed, documents=passages, progress=Progress.mute(), **settings).embedder

    ways = dict(list(WAYS.items())[:: 12 if chosen.quick else 1])
    if rows.lacks(way="lexical"):
        rows.add(way="lexical", figures=measured(Lexical(texts), held, chosen.data))
    for way, settings in ways.items():
        if not rows.lacks(way=way):
            continue
        trains = settings is not None and settings.get("recipe") != "fast"
        encoders = [made(settings, seed) for seed in ((13, 14) if trains else (13,))]
        found = [measured(encoder, held, chosen.data) for encoder in encoders]
        figures = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        if trains:
            figures["agreement of seeds"] = spearman(*(cosines(encoder, held[:300]) for encoder in encoders))
        rows.add(way=way, figures=figures)
    report(rows.found, chosen)


def report(rows, chosen):
    """Print all encoders in the order of their labels, and how each figure orders them."""
    rows = sorted(rows, key=lambda row: -row["figures"]["labels"])
    print(f"{'':46}{'labels':>8}" + "".join(f"{name:>24}" for name in FIGURES))
    for row in rows:
        cells = "".join(f"{row['figures'][name]:24.3f}" if name in row["figures"] else f"{'':>24}" for name in FIGURES)
        print(f"{row['way']:46}{row['figures']['labels']:8.1f}{cells}")
    found, rng = {}, np.random.default_rng(1)
    for name in FIGURES:
        mine = [(row["figures"][name], row["figures"]["labels"]) for row in rows if name in row["figures"] and row["way"] != "lexical"]
        pairs = np.array(mine)
        resampled = [spearman(*pairs[rng.integers(len(pairs), size=len(pairs))].T) for _ in range(1000)]
        chosen_by = pairs[pairs[:, 0].argmax(), 1]
        low, high = np.percentile(resampled, [2.5, 97.5])
        found[name] = {
            "encoders": len(pairs),
            "rank correlation": round(spearman(*pairs.T), 3),
            "interval": [round(float(low), 3), round(float(high), 3)],
            "labels of the encoder that it chooses": round(float(chosen_by), 1),
            "labels of the best one": round(float(pairs[:, 1].max()), 1),
        }
        print(f"{name}: {found[name]}")
    claims = [Claim(f"rank correlation of {name} with labels", each["rank correlation"], "", None, tuple(each["interval"]), None)
              for name, each in found.items()]  # fmt: skip
    finish("choose_without_labels", claims, {"figures": found, "rows": rows}, quick=chosen.quick)


if __name__ == "__main__":
    main()
