"""What mirroring gains: a model untouched and mirrored, several seeds, on sentence or word similarity.

    python benchmarks/mirror_gain.py --model tain-mini --level sentence --seeds 5
    python benchmarks/mirror_gain.py --model tain-mini --level word --seeds 5
    python benchmarks/mirror_gain.py --model tain-mini --split dev --seeds 1 --rates 1e-5 3e-5 1e-4 3e-4     (a search on the dev sets)

Sentences: the 10,000 STS-B training sentences that Mirror-BERT ships. Words: its 10,000 most frequent English words. The
untouched model is read with the masked mean. Beside it and the mirrored model stand two baselines that need no training: word
overlap (lexical) and the model's own input embeddings (static), fitted on the same texts.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from measuring import RESULTS, command_line, machine
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.report import evaluate
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror

TEXTS = {"sentence": "stsbenchmark_train_10k_sents_random_sampled.txt", "word": "en_words_top_10k.txt"}


def scores(embedder, level, data, split):
    """Spearman x 100 of every English set, by key."""
    suites = evaluate([embedder], ("sts",) if level == "sentence" else ("words",), data, split=split, resamples=10).suites
    english = {"", "English"} if level == "sentence" else {"English"}
    return {
        row.key: round(row.figures[0].value, 2)
        for suite in suites
        for group in suite.groups
        if level == "sentence" or any(group.title.startswith(name) for name in english)
        for row in group.rows
    }


def mean_of(found):
    """Mean over sets; undefined figures (no pair of a set shares a piece) make it undefined."""
    return float(np.mean(list(found.values())))


def without_nan(content):
    """The same for JSON, None where a figure is undefined."""
    if isinstance(content, dict):
        return {key: without_nan(inner) for key, inner in content.items()}
    if isinstance(content, list):
        return [without_nan(inner) for inner in content]
    return None if isinstance(content, float) and np.isnan(content) else content


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tain-mini")
    parser.add_argument("--level", choices=TEXTS, default="sentence")
    parser.add_argument("--split", choices=("test", "dev"), default="test")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[None], help="learning rates; default: the recipe's own")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of the recipe")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--name", help="write benchmarks/results/NAME.json")
    chosen = parser.parse_args()
    texts = (chosen.data / "mirror_corpus" / TEXTS[chosen.level]).read_text(encoding="utf-8").splitlines()
    settings = {name: json.loads(value) for name, _, value in (item.partition("=") for item in chosen.set)}
    baselines = {
        "lexical": scores(Lexical(texts), chosen.level, chosen.data, chosen.split),
        "static": scores(Static.load(chosen.model, texts), chosen.level, chosen.data, chosen.split),
    }
    for name, found in baselines.items():
        print(name, json.dumps(found), f"mean {mean_of(found):.2f}", file=sys.stderr, flush=True)
    raw = scores(Embedder.load(chosen.model, pooling="mean"), chosen.level, chosen.data, chosen.split)
    print("raw", json.dumps(raw), f"mean {np.mean(list(raw.values())):.2f}", file=sys.stderr, flush=True)
    outcomes = []
    for rate in chosen.rates:
        runs, seconds, rates = [], [], []
        for seed in range(13, 13 + chosen.seeds):
            began_s = time.perf_counter()
            result = mirror(chosen.model, texts, level=chosen.level, seed=seed, learning_rate=rate, **settings)
            rates.append(result.config.learning_rate)
            seconds.append(time.perf_counter() - began_s)
            runs.append(scores(result.embedder, chosen.level, chosen.data, chosen.split))
            print(rate, seed, json.dumps(runs[-1]), f"mean {np.mean(list(runs[-1].values())):.2f}", file=sys.stderr, flush=True)
        mean = {key: round(float(np.mean([run[key] for run in runs])), 2) for key in raw}
        deviation = {key: round(float(np.std([run[key] for run in runs], ddof=1)), 2) if len(runs) > 1 else 0.0 for key in raw}
        outcomes.append({"learning_rate": rates[-1], "mirrored": mean, "deviation": deviation, "seconds": seconds})
    columns = {**baselines, "raw": raw}
    print(f"{'set':24}" + "".join(f"{name:>9}" for name in columns) + "".join(f"{outcome['learning_rate']:>16.1e}" for outcome in outcomes))
    for key in raw:
        print(
            f"{key:24}"
            + "".join(f"{found[key]:9.1f}" for found in columns.values())
            + "".join(f"{o['mirrored'][key]:9.1f} ±{o['deviation'][key]:5.2f}" for o in outcomes)
        )
    means = [float(np.mean(list(o["mirrored"].values()))) for o in outcomes]
    print(f"{'mean':24}" + "".join(f"{mean_of(found):9.1f}" for found in columns.values()) + "".join(f"{value:16.1f}" for value in means))
    if chosen.name:
        RESULTS.mkdir(exist_ok=True)
        content = {"command": command_line(), "machine": machine(), **columns, "runs": outcomes}
        (RESULTS / f"{chosen.name}.json").write_text(json.dumps(without_nan(content), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
