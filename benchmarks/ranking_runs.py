"""Bi-, poly- and cross-encoders on dialogue responses and answer sentences: quality against latency.

    python benchmarks/ranking_runs.py --seeds 3
    python benchmarks/ranking_runs.py --quick          (a few steps of each kind, no results file)
    python benchmarks/ranking_runs.py --plot           (draws docs/ranking.svg from the results)

sgd: the next system turn given the dialogue so far. ubuntu_irc: a message given the one it answers, and those before it.
trec_qa: the sentences that answer a question, among those listed. convai2: the next turn of a persona given the persona and the turns before it; only
the official validation part is at hand, so it is split by dialogue, and wrong candidates are drawn, not the official 19. Settings are the same for all rankers of a kind, and all kinds read about as
many tokens: a cross-encoder reads a context with four candidates each, so it gets a quarter of the contexts. What is best on the dev part is
kept, the test part is measured once. tain-mini is taken as it is and mirrored on the 10,000 STS sentences. Rows go to WORK/rows.jsonl as they are found, and a row that is there with the same settings is not
measured again, so that a run can be cut off.
"""

import argparse
import itertools
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

from measuring import RESULTS, Rows, command_line, machine, minilm_folder
from tain.evaluation.baselines import BaselineRanker, Lexical, Static
from tain.foundation.machine import fastest_dtype
from tain.models.rankers import Ranker
from tain.ranking.evaluation import given_lists, latencies, list_figures, list_scores, sampled_lists
from tain.recipes.mirror.recipe import mirror
from tain.recipes.rank.recipe import rank
from tain.text.ranking_pairs import read_ranking_examples
from tain.text.readers import read_rows
from tain.text.records import RankingExample

KINDS = {
    "bi": {"type": "bi"},
    "poly-16": {"type": "poly", "codes": 16},
    "poly-64": {"type": "poly", "codes": 64},
    "poly-360": {"type": "poly", "codes": 360, "code_kind": "first"},
    "cross": {"type": "cross"},
    "poly-64, lists": {"type": "poly", "codes": 64, "negatives": 7},  # what a taught one has beside its teacher
    "poly-64, taught": {"type": "poly", "codes": 64, "negatives": 7},  # by the cross-encoder of the same task, model and seed
}
MODELS = {"tain-mini": {}, "tain-mini, mirrored": {}, "all-MiniLM-L6-v2": {"learning_rate": 1e-4}}  # tain-mini's own rate and dropout
MIRRORED_ON = "mirror_corpus/stsbenchmark_train_10k_sents_random_sampled.txt"
MARKS = dict(zip(KINDS, ("o", "^", "s", "D", "X", "v", "*"), strict=True))  # of matplotlib
TASKS = ("sgd", "ubuntu_irc", "trec_qa", "convai2")
HISTORY_TURNS = 20  # the paper's
CROSS_LIST = 4  # candidates of a context in a cross-encoder's batch


def main():
    chosen = arguments()
    if chosen.plot:
        draw()
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    rows = Rows(chosen.work / "rows.jsonl", is_kept=not chosen.quick)
    folders = {"tain-mini": "tain-mini", "tain-mini, mirrored": chosen.work / "mirrored", "all-MiniLM-L6-v2": str(minilm_folder())}
    if "tain-mini, mirrored" in chosen.models and not (chosen.work / "mirrored").exists():
        texts = (chosen.data / MIRRORED_ON).read_text(encoding="utf-8").splitlines()
        mirror("tain-mini", texts, chosen.work / "mirrored", level="sentence", dtype="float32")
    parts = {(task, part): examples(task, part, chosen) for task in chosen.tasks for part in ("train", "dev", "test")}
    for seed in range(13, 13 + chosen.seeds):
        for task, model, kind in itertools.product(chosen.tasks, chosen.models, chosen.kinds):
            settings = settings_of(model, kind, chosen)
            name = {"task": task, "model": model, "kind": kind, "seed": seed, "settings": settings}
            if rows.lacks(**name):
                mine = {part: parts[task, part] for part in ("train", "dev", "test")}
                cross = chosen.work / "cross" / f"{task}, {model}, {seed}"
                if kind == "poly-64, taught":
                    if not cross.exists():
                        trained(folders[model], seed, mine, settings_of(model, "cross", chosen), chosen, output=cross)
                    rows.add(**name, **measured(folders[model], seed, mine, settings, chosen, teacher=str(cross)))
                else:
                    rows.add(**name, **measured(folders[model], seed, mine, settings, chosen, output=cross if kind == "cross" else None))
    found = [row for row in rows.found if row["settings"] == settings_of(row["model"], row["kind"], chosen)]
    summary = summed_up(found)
    show(summary)
    untrained = {task: without_training(parts[task, "test"], chosen) for task in chosen.tasks}
    for task, of_task in untrained.items():
        for name, figures in of_task.items():
            print(f"{task}, {name}, no training: {figures}")
    if not chosen.quick:
        RESULTS.mkdir(exist_ok=True)
        content = {"command": command_line(), "machine": machine(), "summary": summary, "rows": found, "without training": untrained}
        (RESULTS / f"{chosen.results}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3000, help="training pairs of a task, at most")
    parser.add_argument("--queries", type=int, default=200, help="test contexts of a task, at most; half of them rank 100 candidates")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-contexts", type=int, default=64, help="of bi and poly; of cross a quarter")
    parser.add_argument("--work", type=Path, default=Path("runs/ranking"), help="folder for rows")
    parser.add_argument("--results", default="ranking_runs", help="name of the results file; another one for other settings")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="few pairs, one epoch, one seed, tain-mini; no results file")
    parser.add_argument("--plot", action="store_true", help="only draw the plot")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.pairs, chosen.queries, chosen.epochs, chosen.seeds, chosen.batch_contexts = 96, 24, 1, 1, 16
        chosen.models = ["tain-mini"]
    return chosen


def settings_of(model, kind, chosen):
    """All that a row's figures depend on, beside task and seed."""
    is_cross = kind == "cross"
    return {
        **KINDS[kind],
        "pairs": chosen.pairs // CROSS_LIST if is_cross else chosen.pairs,
        "queries": chosen.queries,
        "epochs": chosen.epochs,
        **MODELS[model],
        "batch_contexts": max(2, chosen.batch_contexts // CROSS_LIST) if is_cross else chosen.batch_contexts,
        "negatives": CROSS_LIST - 1 if is_cross else KINDS[kind].get("negatives", 0),
        "schedule": "linear",
    }


# ---- the three tasks as contexts and answers


def examples(task, part, chosen):
    limit = chosen.pairs if part == "train" else chosen.queries
    stored = "valid" if task == "convai2" else part
    path = next((chosen.data / task).glob(f"{task}_{stored}.tsv*"), None)
    if path is None:
        sys.exit(f"error: {chosen.data / task} has no {task}_{stored}.tsv: give the evaluation data by --data")
    if task == "trec_qa":
        return read_ranking_examples(path, columns=("question", "answer"), label="label")[:limit]
    read = {"sgd": dialogue_pairs, "ubuntu_irc": reply_pairs, "convai2": partial(persona_pairs, part=part)}[task]
    pairs = list(read(path))
    order = np.random.default_rng(1).permutation(len(pairs))[:limit]
    joined = {}
    for index in sorted(order):
        context, answer = pairs[index]
        joined.setdefault(context, {})[answer] = None
    return [RankingExample(context, tuple(answers)) for context, answers in joined.items()]


def dialogue_pairs(path):
    """Every system turn with the turns before it."""
    before, dialogue = [], None
    for row in read_rows(path)[1]:
        if row["dialogue"] != dialogue:
            before, dialogue = [], row["dialogue"]
        if row["speaker"] == "SYSTEM" and before:
            yield "\n".join(before[-HISTORY_TURNS:]), row["text"]
        before.append(f"{row['speaker'].lower()}: {row['text']}")


def persona_pairs(path, *, part):
    """Every turn of the persona's own speaker, with the persona and the turns before it, in one part of the dialogues."""
    dialogues = {}
    for row in read_rows(path)[1]:
        dialogues.setdefault(row["dialogue"], []).append(row)
    for dialogue in part_of_dialogues(list(dialogues), part):
        persona = [f"persona: {row['text']}" for row in dialogues[dialogue] if row["kind"] == "persona"]
        before = []
        for row in dialogues[dialogue]:
            if row["kind"] != "turn":
                continue
            if row["speaker"] == "self" and before:
                yield "\n".join([*persona, *before[-HISTORY_TURNS:]]), row["text"]
            before.append(f"{row['speaker']}: {row['text']}")


def part_of_dialogues(dialogues, part):
    """Four fifths of the dialogues to train on, a tenth each for dev and test: the same whatever is run."""
    order = np.random.default_rng(2).permutation(len(dialogues))
    tenth = len(dialogues) // 10
    indices = {"test": order[:tenth], "dev": order[tenth : 2 * tenth], "train": order[2 * tenth :]}[part]
    return [dialogues[index] for index in sorted(indices)]


def reply_pairs(path):
    """Every message that answers others, with the last of these and what that one answered, as far back as links go."""
    messages = {(row["log"], row["message"]): row for row in read_rows(path)[1]}
    for (log, _), row in messages.items():
        chain, index = [], row["reply_to"]
        while index and len(chain) < HISTORY_TURNS:
            earlier = messages.get((log, index.split(",")[-1]))
            if earlier is None or earlier["text"] in chain:
                break
            chain.append(earlier["text"])
            index = earlier["reply_to"]
        if chain:
            yield "\n".join(reversed(chain)), row["text"]


# ---- one row


def trained(model, seed, parts, settings, chosen, **options):
    options |= {name: value for name, value in settings.items() if name not in ("pairs", "queries")}
    train = parts["train"][: settings["pairs"]]
    options["batch_contexts"] = min(options["batch_contexts"], len(train) // 2)
    if options.get("output") is not None:
        options["output"].parent.mkdir(exist_ok=True)
    return rank(model, train, validation=parts["dev"][: 20 if chosen.quick else 50], seed=seed, overwrite=True, **options)


def measured(model, seed, parts, settings, chosen, **options):
    result = trained(model, seed, parts, settings, chosen, **options)
    result.ranker.compute_in(fastest_dtype("cpu"))  # as anyone loads it
    found = {"seconds": round(result.runs[0].seconds, 1), "steps": result.runs[0].steps}
    lists = test_lists(parts["test"], chosen)
    for name, each in lists.items():
        figures = list_figures(list_scores(result.ranker, each), each)
        found[name] = {figure: round(float(100 * values.mean()), 2) for figure, values in figures.items()}
    some = next(iter(lists.values()))
    sizes = (1000,) if chosen.quick else (1000, 100_000)
    texts = list(dict.fromkeys(text for listed in some.lists for text in listed))
    found["ms"] = {str(each.candidates): round(each.ms, 2) for each in latencies(result.ranker, some.contexts, texts, sizes=sizes)}
    return found


def without_training(examples, chosen):
    """Figures of word overlap, of input embeddings, and of the untouched model as a bi-encoder, on the same lists."""
    rankers = {
        "lexical": BaselineRanker(Lexical(weighting="tf-idf")),
        "static:tain-mini": BaselineRanker(Static.load("tain-mini")),
        "tain-mini, untrained": Ranker.load("tain-mini"),
    }
    found = {}
    for name, ranker in rankers.items():
        found[name] = {}
        for size, each in test_lists(examples, chosen).items():
            figures = list_figures(list_scores(ranker, each), each)
            found[name][size] = {figure: round(float(100 * values.mean()), 2) for figure, values in figures.items()}
    return found


def test_lists(examples, chosen):
    if any(example.negatives for example in examples):
        return {"listed": given_lists(examples)}
    few = examples[: len(examples) // 2]  # a cross-encoder reads every one of a hundred candidates
    sizes = {5: examples} if chosen.quick else {20: examples, 100: few}
    pool = [answer for example in examples for answer in example.answers]
    return {f"of {size}": sampled_lists(some, size=size, rng=np.random.default_rng(size), pool=pool) for size, some in sizes.items()}


# ---- table and plot


def summed_up(rows):
    """Mean and standard deviation over seeds of every figure, by task, model and kind."""
    summary = []
    for task, model, kind in dict.fromkeys((row["task"], row["model"], row["kind"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["model"], row["kind"]) == (task, model, kind)]
        entry = {"task": task, "model": model, "kind": kind, "seeds": len(mine), "figures": {}}
        for name in (key for key in mine[0] if key == "listed" or key.startswith("of ")):
            for figure in mine[0][name]:
                entry["figures"][f"{figure} {name}"] = spread([row[name][figure] for row in mine])
        entry["ms"] = {size: spread([row["ms"][size] for row in mine]) for size in mine[0]["ms"]}
        entry["seconds"] = spread([row["seconds"] for row in mine])
        summary.append(entry)
    return summary


def spread(values):
    """Mean and standard deviation; None where there is one value alone."""
    return [round(float(np.mean(values)), 2), round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None]


def show(summary):
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in summary):
        mine = [row for row in summary if (row["task"], row["model"]) == (task, model)]
        print(f"\n{task}, from {model}; mean over seeds, standard deviation after ±")
        names = [*mine[0]["figures"], *(f"ms at {int(size):,}" for size in mine[0]["ms"])]
        print(f"{'':11}seeds" + "".join(f"{name:>18}" for name in names))
        for row in mine:
            cells = [*row["figures"].values(), *row["ms"].values()]
            said = (f"{mean:11.2f} {'' if deviation is None else f'±{deviation:5.2f}':6}" for mean, deviation in cells)
            print(f"{row['kind']:15}{row['seeds']:2}" + "".join(said))


def main_figure(row):
    """R@1 of 20 where candidates are drawn, MAP where they are listed."""
    return next(name for name in ("R@1 of 20", "MAP listed") if name in row["figures"])


def draw():
    """One panel a task: quality against the time of a query with 1,000 candidates; one shape a kind, one colour a model."""
    from matplotlib.lines import Line2D

    from plotting import BLUE, BROWN, GREY, save, start

    summary = json.loads((RESULTS / "ranking_runs.json").read_text(encoding="utf-8"))["summary"]
    tasks = list(dict.fromkeys(row["task"] for row in summary))
    looks = {
        "tain-mini": {"color": GREY, "markerfacecolor": "white"},
        "tain-mini, mirrored": {"color": BROWN},
        "all-MiniLM-L6-v2": {"color": BLUE},
    }
    figure, panels = start(
        headline(summary),
        note="milliseconds a query with 1,000 cached candidates (cross-encoders: extrapolated); bars: one standard deviation to either side",
        height=4.6,
        width=3.0 * len(tasks) + 1.6,
        panels=len(tasks),
    )
    for task, axes in zip(tasks, panels, strict=True):
        mine = [row for row in summary if row["task"] == task]
        figure_name = main_figure(mine[0])
        for row in mine:
            mean, deviation = row["figures"][figure_name]
            axes.errorbar(row["ms"]["1000"][0], mean, yerr=deviation, fmt=MARKS[row["kind"]], markersize=6.5, **looks[row["model"]])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y")
        axes.set_title(f"{task}: {figure_name}, x 100", loc="left", fontsize=9.5)
    models = [
        Line2D([], [], marker="o", linestyle="", label=f"from {name}", **looks[name])
        for name in looks
        if any(row["model"] == name for row in summary)
    ]
    kinds = [
        Line2D([], [], marker=MARKS[kind], linestyle="", color="#333333", label=kind)
        for kind in KINDS
        if any(row["kind"] == kind for row in summary)
    ]
    figure.legend(handles=[*models, *kinds], loc="outside right upper", frameon=False, fontsize=8.5)
    save(figure, "ranking.svg")


def headline(summary):
    """Say where poly-64 beat the bi-encoder by more than both spreads; one kind, for the best of three would win by chance."""
    won, others = [], []
    for task, model in dict.fromkeys((row["task"], row["model"]) for row in summary):
        mine = {row["kind"]: row["figures"][main_figure(row)] for row in summary if (row["task"], row["model"]) == (task, model)}
        if any(mine.get(kind, (0, None))[1] is None for kind in ("bi", "poly-64")):
            continue  # one seed says nothing of small differences
        (poly, poly_spread), (bi, bi_spread) = mine["poly-64"], mine["bi"]
        (won if poly - bi > poly_spread + bi_spread else others).append(f"{task} ({model})")
    return f"Poly-64 beats bi by more than both spreads in {len(won)} of {len(won) + len(others)} settings"


if __name__ == "__main__":
    main()
