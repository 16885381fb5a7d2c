"""A cross-encoder trained on lists, beside the bi-encoder it must beat, its students, and sentence-transformers' CrossEncoderTrainer.

    python benchmarks/cross_encoder.py --task ubuntu_irc --pairs 1000 3000 --work runs/cross
    python benchmarks/cross_encoder.py --task ubuntu_irc --choose 3e-5 1e-4 3e-4 --pairs 1000 --work runs/cross      (rates, on the dev part)
    python benchmarks/cross_encoder.py --quick

All rows read the same texts (the last --context-chars of a context) and, for each pair, the same list: the correct answer, half of --negatives mined by
the untouched model as a bi-encoder (from its 50 best, without the 5 best, which are often correct too), the others drawn at random. R@1 and MRR x 100
of 20 candidates of the test part; the settings were chosen on the dev part. ``taught`` students learn from the cross-encoder's scores of the same lists.
trec_qa has lists of its own; they are used as they are. Finished rows are kept in --work: a run that was cut off continues.
"""

import argparse
import itertools
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import ranking_runs
from measuring import Claim, Rows, finish, minilm_folder
from tain.evaluation.baselines import BaselineRanker, Lexical, Static
from tain.foundation.machine import fastest_dtype
from tain.models.embedder import Embedder
from tain.models.rankers import Ranker
from tain.ranking.evaluation import list_figures, list_scores
from tain.recipes.rank.recipe import rank
from tain.text.records import RankingExample

UNTRAINED = ("tf-idf", "static", "untouched bi")
TRAINED = {
    "bi": {"type": "bi"},
    "poly-16": {"type": "poly", "codes": 16},
    "cross": {"type": "cross"},
    "bi, taught": {"type": "bi"},
    "poly-16, taught": {"type": "poly", "codes": 16},
}
RIVAL = "cross, sentence-transformers"
RATES = {"bi": 3e-5, "poly": 3e-5, "cross": 1e-4, RIVAL: 1e-4}  # of AdamW, chosen by --choose
MODELS = {"all-MiniLM-L6-v2": lambda: str(minilm_folder()), "tain-mini": lambda: "tain-mini"}
SKIPPED, MINED_FROM = 5, 50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=ranking_runs.TASKS, default="ubuntu_irc")
    parser.add_argument("--model", choices=MODELS, default="all-MiniLM-L6-v2")
    parser.add_argument("--rows", nargs="+", choices=(*UNTRAINED, *TRAINED, RIVAL), default=[*UNTRAINED, *TRAINED, RIVAL])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 3000], help="training pairs; several show a trend")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--batch-contexts", type=int, default=16)
    parser.add_argument("--context-chars", type=int, default=240)
    parser.add_argument("--queries", type=int, default=500, help="test contexts, at most")
    parser.add_argument(
        "--choose", type=float, nargs="+", default=[], help="learning rates to try on the dev part, one seed; no results file"
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for rows and cross-encoders")
    parser.add_argument("--name", help="write benchmarks/results/NAME.json; default: cross_encoder_TASK")
    parser.add_argument("--quick", action="store_true", help="a few steps of tain-mini, no results file")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.model, chosen.pairs, chosen.seeds, chosen.queries, chosen.negatives = "tain-mini", [64], 1, 20, 3
    work = chosen.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    rows = Rows(work / "rows.jsonl", is_kept=chosen.work is not None)
    model = MODELS[chosen.model]()
    parts = {part: examples(part, chosen) for part in ("train", "dev", "test")}
    lists = {
        part: next(iter(ranking_runs.test_lists(parts[part], argparse.Namespace(quick=chosen.quick)).values())) for part in ("dev", "test")
    }
    measured_on = lists["dev" if chosen.choose else "test"]
    common = {
        name: getattr(chosen, name) for name in ("task", "model", "epochs", "negatives", "batch_contexts", "context_chars", "queries")
    }
    common["part"] = "dev" if chosen.choose else "test"

    def measure(row, make, **what):
        name = {"row": row, **common, **what}
        if rows.lacks(**name):
            began_s = time.perf_counter()
            ranker = make()
            seconds = round(time.perf_counter() - began_s, 1)
            rows.add(**name, seconds=seconds, figures=figures_of(ranker, measured_on))

    makers = {
        "tf-idf": lambda: BaselineRanker(Lexical(weighting="tf-idf")),
        "static": lambda: BaselineRanker(Static.load(model)),
        "untouched bi": lambda: Ranker.load(model),
    }
    for row in (row for row in UNTRAINED if row in chosen.rows):
        measure(row, makers[row], pairs=0, seed=0, rate=0.0)
    for pairs, seed in itertools.product(chosen.pairs, range(13, 13 + (1 if chosen.choose else chosen.seeds))):
        train = with_lists(model, parts["train"], pairs, seed, chosen)
        for row in (row for row in (*TRAINED, RIVAL) if row in chosen.rows):
            kind = row if row == RIVAL else TRAINED[row]["type"]
            for rate in chosen.choose or [RATES[kind]]:
                cross = (
                    work
                    / f"cross {chosen.task} {chosen.model} {len(train)} {chosen.epochs} {seed} {rate if kind == 'cross' else RATES['cross']}"
                )
                if row == RIVAL:
                    make = partial(rival, model, train, seed, rate, chosen)
                else:
                    make = partial(ours, row, model, train, parts, seed, rate, cross, chosen)
                measure(row, make, pairs=len(train), seed=seed, rate=rate)
    report([row for row in rows.found if all(row[name] == value for name, value in common.items())], chosen)


def examples(part, chosen):
    """Examples of a part with shortened contexts: the last characters, from the start of a word."""
    options = argparse.Namespace(data=chosen.data, pairs=max(chosen.pairs), queries=chosen.queries)
    return [
        RankingExample(shortened(each.context, chosen.context_chars), each.answers, each.negatives)
        for each in ranking_runs.examples(chosen.task, part, options)
    ]


def shortened(text, chars):
    return text if len(text) <= chars else text[-chars:].partition(" ")[2] or text[-chars:]


def with_lists(model, train, count, seed, chosen):
    """Each pair with its list of wrong candidates, the same for every row."""
    rng = np.random.default_rng(seed)
    if any(example.negatives for example in train):
        found = [
            RankingExample(each.context, (answer,), _drawn(each.negatives, chosen.negatives, rng))
            for each in train
            for answer in each.answers
        ]
        return [found[index] for index in rng.permutation(len(found))[:count]]
    pairs = [(each.context, answer, set(each.answers)) for each in train for answer in each.answers]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))[:count]]
    texts = list(dict.fromkeys(answer for _, answer, _ in pairs))
    miner = Ranker.load(model)
    best = [np.argsort(-scores, kind="stable")[:MINED_FROM] for scores in miner.score_pool([context for context, _, _ in pairs], texts)]
    found = []
    for (context, answer, right), near in zip(pairs, best, strict=True):
        mined = [texts[index] for index in near[SKIPPED:] if texts[index] not in right]
        listed = _drawn(mined, chosen.negatives // 2, rng)
        others = [text for text in _drawn(texts, 4 * chosen.negatives, rng) if text not in right and text not in listed]
        found.append(RankingExample(context, (answer,), (*listed, *others[: chosen.negatives - len(listed)])))
    return found


def _drawn(texts, count, rng):
    return tuple(texts[index] for index in rng.permutation(len(texts))[:count])


def figures_of(ranker, lists):
    if isinstance(ranker, Ranker):
        ranker.compute_in(fastest_dtype("cpu"))  # as anyone loads it
    return {name: round(float(100 * values.mean()), 2) for name, values in list_figures(list_scores(ranker, lists), lists).items()}


def ours(row, model, train, parts, seed, rate, cross, chosen):
    taught = {"teacher": str(cross), "teacher_weight": 0.5} if "taught" in row else {}
    if taught and not cross.exists():
        raise SystemExit(f"error: {row!r} needs the cross-encoder of the same run: give cross in --rows as well")
    result = rank(
        model,
        train,
        cross if row == "cross" else None,
        validation=parts["dev"][: 20 if chosen.quick else 100],
        overwrite=True,
        seed=seed,
        epochs=chosen.epochs,
        batch_contexts=min(chosen.batch_contexts, len(train) // 2),
        negatives=chosen.negatives,
        optimizer="adamw",
        learning_rate=rate,
        schedule="linear",
        **TRAINED[row],
        **taught,
    )
    return result.ranker


class Theirs:
    """A CrossEncoder of sentence-transformers as tain's evaluation takes rankers."""

    name, type, vectors, truncated = RIVAL, "cross", 0, 0

    def __init__(self, model):
        self.model = model

    def score_lists(self, contexts, lists, *, progress=None):
        pairs = [(context, text) for context, listed in zip(contexts, lists, strict=True) for text in listed]
        scores = self.model.predict(pairs, batch_size=64, show_progress_bar=False)
        return np.split(scores, np.cumsum([len(listed) for listed in lists])[:-1])


def rival(model, train, seed, rate, chosen):
    """Train with CrossEncoderTrainer and its listwise cross-entropy, on the same lists, for as many steps."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    torch.manual_seed(seed)
    work = Path(tempfile.mkdtemp())
    if not Path(model).exists():  # the built-in model has no folder that sentence-transformers finds
        embedder = Embedder.load(model)
        embedder.encoder.model.config._attn_implementation = "sdpa"
        embedder.encoder.model.save_pretrained(work / "start")
        embedder.tokenizer.save_pretrained(work / "start")
    encoder = CrossEncoder(model if Path(model).exists() else str(work / "start"), num_labels=1, max_length=160, device="cpu")
    if hasattr(encoder.model.config, "reference_compile"):
        encoder.model.config.reference_compile = False  # it would be compiled at the first step, which takes minutes on a CPU
    data = Dataset.from_dict(
        {
            "query": [each.context for each in train],
            "docs": [[*each.answers, *each.negatives] for each in train],
            "labels": [[1.0, *[0.0] * len(each.negatives)] for each in train],
        }
    )
    settings = CrossEncoderTrainingArguments(
        output_dir=str(work), num_train_epochs=chosen.epochs, per_device_train_batch_size=min(chosen.batch_contexts, len(train) // 2),
        learning_rate=rate, warmup_steps=0.1, seed=seed, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=50,
    )  # fmt: skip
    CrossEncoderTrainer(model=encoder, args=settings, train_dataset=data, loss=ListNetLoss(encoder)).train()
    shutil.rmtree(work)
    return Theirs(encoder)


def report(found, chosen):
    table = {}
    for row, pairs, rate in dict.fromkeys((each["row"], each["pairs"], each["rate"]) for each in found):
        mine = [each for each in found if (each["row"], each["pairs"], each["rate"]) == (row, pairs, rate)]
        label = f"{row}, {pairs:,} pairs" if pairs else row
        label += f", rate {rate:g}" if chosen.choose and rate else ""
        figures = {
            name: ranking_runs.spread([each["figures"][name] for each in mine])
            for name in mine[0]["figures"]
            if name in ("R@1", "MRR", "MAP")
        }
        table[label] = {"seeds": len(mine), "seconds": round(float(np.median([each["seconds"] for each in mine])), 1), **figures}
        cells = "".join(
            f"{name:>6} {mean:5.1f} {'' if deviation is None else f'±{deviation:.1f}':5}" for name, (mean, deviation) in figures.items()
        )
        print(f"{label:48}{cells}  {table[label]['seeds']} seeds, {table[label]['seconds']:.0f} s")
    if chosen.choose:
        return
    claims = []
    for pairs in sorted({each["pairs"] for each in found} - {0}):
        cross, bi = (table.get(f"{row}, {pairs:,} pairs") for row in ("cross", "bi"))
        theirs = table.get(f"{RIVAL}, {pairs:,} pairs")
        for other, values in (
            ("the trained bi-encoder", bi),
            ("CrossEncoderTrainer", theirs),
            ("the untouched bi-encoder", table.get("untouched bi")),
        ):
            if cross and values:
                gain = round(cross["MRR"][0] - values["MRR"][0], 2)
                claims.append(Claim(f"{pairs:,} pairs: MRR of cross over {other}", gain, "points", 0.0, (gain, gain), None))
    finish(
        chosen.name or f"cross_encoder_{chosen.task}",
        claims,
        {"task": chosen.task, "model": chosen.model, "table": table},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
