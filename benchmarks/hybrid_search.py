"""BM25, vectors and both joined in three ways, on three retrieval tasks with the whole pool as candidates.

trec_qa: the sentences that answer a question. ubuntu_irc: the message that answers one, given the messages before it. docstrings: the
rest of a docstring, given its first sentence, from the Python packages of this machine. Each side is cut at 100 hits before joining, as
``tain rank search --hybrid`` does: by standard scores (the default), with a weight that halves of the pool's texts suggest, and by
reciprocal ranks. Intervals are 95% bootstrap intervals over queries; differences are to BM25, on the same resamples.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from measuring import RESULTS, command_line, machine
from ranking_runs import examples as ranking_examples
from tain.demo.docstrings import gather_docstrings, python_roots
from tain.evaluation.metrics import bootstrap_means, percentile_interval
from tain.models.embedder import Embedder
from tain.models.rankers import DualRanker
from tain.ranking.bm25 import Bm25
from tain.ranking.evaluation import list_figures, whole_pool
from tain.ranking.fusion import Spread, joined, joined_scores
from tain.ranking.hybrid import DEPTH
from tain.ranking.weights import found_weight
from tain.text.records import RankingExample

TASKS = ("trec_qa", "ubuntu_irc", "docstrings")
FIGURES = ("R@1", "R@10", "MRR")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="folder of the evaluation data")
    parser.add_argument("--model", default="tain-mini", help="encoder for the vectors")
    parser.add_argument("--name", help="its name in the results; default: as given")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--queries", type=int, default=1000, help="at most this many queries a task")
    parser.add_argument("--resamples", type=int, default=1000)
    chosen = parser.parse_args()
    encoder = Embedder.load(chosen.model)
    found = {task: measured(task, encoder, chosen) for task in chosen.tasks}
    target = RESULTS / "hybrid_search.json"
    content = json.loads(target.read_text()) if target.exists() else {}
    name = chosen.name or chosen.model
    command = command_line().replace(chosen.model, name)
    tasks = content.get(name, {}).get("tasks", {}) | {task: {"command": command, **of} for task, of in found.items()}
    content[name] = {"machine": machine(), "depth": DEPTH, "tasks": tasks}
    target.write_text(json.dumps(content, indent=2) + "\n")
    show(found)


def examples(task, chosen):
    """The queries of a task with their answers."""
    if task != "docstrings":
        return ranking_examples(task, "test", argparse.Namespace(data=chosen.data, queries=None))
    corpus = gather_docstrings(python_roots(), sentences=600, functions=chosen.queries)
    return [RankingExample(each.description, (each.rest,)) for each in corpus.functions]


def measured(task, encoder, chosen):
    lists = whole_pool(examples(task, chosen))
    order = np.random.default_rng(13).permutation(len(lists))[: chosen.queries]
    asked = [lists.contexts[query] for query in order]
    right = [lists.right[query] for query in order]
    pool = lists.lists[0]
    print(f"{task}: {len(asked):,} queries, {len(pool):,} candidates", file=sys.stderr, flush=True)
    ranker = DualRanker.around(encoder, name=chosen.model)
    vectors = ranker.encode_candidates(list(pool))
    similar = ranker.score(list(asked), list(pool))
    lexical = Bm25(pool)
    by_words = np.stack([lexical.scores(text) for text in asked])
    found = found_weight(ranker, list(pool), vectors)
    ways = {"ranks": np.zeros_like(similar)} | {way: np.full_like(similar, -1e9) for way in ("scores", "weighted")}
    for query, text in enumerate(asked):
        nearest = np.argsort(-similar[query], kind="stable")[:DEPTH]
        worded = [row for row, _ in lexical.best(text, k=DEPTH)]
        for row, score in joined(nearest.tolist(), worded, k=2 * DEPTH):
            ways["ranks"][query, row] = score
        union = np.union1d(nearest, np.array(worded, dtype=np.int64))
        sides = [Spread.of(scores[query]).standard(scores[query, union]) for scores in (similar, by_words)]
        ways["scores"][query, union] = joined_scores(*sides)
        ways["weighted"][query, union] = joined_scores(*sides, weight=found.weight)
    some = type(lists)(tuple(asked), (pool,) * len(asked), tuple(right), lists.kind)
    figures = {name: list_figures(scores, some) for name, scores in (("bm25", by_words), ("vectors", similar), *ways.items())}
    return {
        "queries": len(asked),
        "candidates": len(pool),
        "weight": asdict(found) | {"is_found": found.is_found},
        "figures": summed_up(figures, chosen.resamples),
    }


def summed_up(figures, resamples):
    """Means with intervals, and differences to BM25 on the same resamples."""
    summary = {}
    for figure in FIGURES:
        values = 100 * np.stack([each[figure] for each in figures.values()])
        replicates = bootstrap_means(values, resamples=resamples, rng=np.random.default_rng(7))
        for name, row, again in zip(figures, values, replicates, strict=True):
            interval, apart = percentile_interval(again), percentile_interval(again - replicates[0])
            summary.setdefault(name, {})[figure] = {
                "value": round(float(row.mean()), 1),
                "interval": [round(interval.low, 1), round(interval.high, 1)],
                "to_bm25": [round(float(row.mean() - values[0].mean()), 1), round(apart.low, 1), round(apart.high, 1)],
            }
    return summary


def show(found):
    for task, result in found.items():
        print(f"\n{task}: {result['queries']:,} queries, {result['candidates']:,} candidates, weight {result['weight']}")
        for name, figures in result["figures"].items():
            cells = [f"{figure} {of['value']} {of['interval']} ({of['to_bm25'][0]:+})" for figure, of in figures.items()]
            print(f"{name:8} " + "  ".join(cells))


if __name__ == "__main__":
    main()
