"""Which switch of mirroring helps? Each alone beside the default recipe, with and without whitening, on development sets.

    python benchmarks/mirror_switches.py --seeds 1 --work runs/switches
    python benchmarks/mirror_switches.py --rows head queue --seeds 3 --work runs/switches
    python benchmarks/mirror_switches.py --quick

Texts: the 10,000 STS-B training sentences that Mirror-BERT ships. Spearman x 100 on STS-B dev and SICK trial. Beside the switches stand
word overlap (lexical), whitened input embeddings (static and ``--recipe fast``) and the untouched model, which need no training. Rows
are kept in --work line by line: a run that was cut off continues.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from measuring import Rows, finish, sts_sentences
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.report import evaluate
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.correct.recipe import correct
from tain.recipes.mirror.recipe import mirror

SWITCHES = {
    "default": {},
    "repeat 0.3": {"repeat_share": 0.3},
    "head": {"head": "mlp"},
    "MLM 0.1": {"mlm_weight": 0.1},
    "queue 500": {"queue_texts": 500},
    "noise 200": {"noise_negatives": 200},
    "prompt": {"prompt": "This sentence means the same as: "},
    "decoder 0.1": {"decoder_weight": 0.1},
    "batches of 512": {"batch_texts": 512},
    "batches of 1,024": {"batch_texts": 1024},
    # as many steps as the default, and so three and five times the time
    "batches of 512, 3 epochs": {"batch_texts": 512, "epochs": 3},
    "batches of 1,024, 5 epochs": {"batch_texts": 1024, "epochs": 5},
}
WHITEN = 0.5
BASELINES = ("lexical", "static", "untouched", "whitened", "fast")


def scores(encoder, data):
    """Spearman x 100 of each development set, by key."""
    (suite,) = evaluate([encoder], ("sts",), data, split="dev", resamples=10).suites
    return {row.key: round(row.figures[0].value, 2) for row in suite.groups[0].rows}


def mirrored(model, texts, **settings):
    """Train, save, and load the plain folder, as any reader has it.

    The learning curve is off: it takes time and changes nothing.
    """
    work = Path(tempfile.mkdtemp())
    settings = settings if settings.get("recipe") == "fast" else {"curve_steps": 0, **settings}
    mirror(model, texts, work / "encoder", progress=Progress.for_terminal(json=False, quiet=True), **settings)
    encoder = Embedder.load(work / "encoder")
    shutil.rmtree(work)
    return encoder


def main():
    chosen = arguments()
    texts = sts_sentences(chosen.data)[: 1000 if chosen.quick else None]
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)

    def measure(row, seed, make):
        if not rows.lacks(row=row, seed=seed, model=chosen.model):
            return
        began_s = time.perf_counter()
        encoder = make()
        seconds = round(time.perf_counter() - began_s, 1)
        found = scores(encoder, chosen.data)
        figures = {"mean": mean_of(found), "scores": found}
        if row in SWITCHES:  # whitening is fitted after training, so the vectors without it come from the same run
            encoder.correction = None
            plain = scores(encoder, chosen.data)
            figures = {"mean": mean_of(plain), "scores": plain, "whitened_mean": mean_of(found), "whitened_scores": found}
        rows.add(row=row, seed=seed, model=chosen.model, seconds=seconds, **figures)

    untrained = {
        "lexical": lambda: Lexical(texts),
        "static": lambda: Static.load(chosen.model, texts),
        "untouched": lambda: Embedder.load(chosen.model, pooling="mean"),
        "whitened": lambda: correct(chosen.model, texts, method="whiten", power=WHITEN).embedder,
        "fast": lambda: mirrored(chosen.model, texts, recipe="fast"),
    }
    for row in (name for name in BASELINES if name in chosen.rows):
        measure(row, 0, untrained[row])
    for seed in range(13, 13 + chosen.seeds):
        for row in (name for name in SWITCHES if name in chosen.rows):
            settings = {**SWITCHES[row], "whiten": WHITEN, "seed": seed}
            measure(row, seed, lambda settings=settings: mirrored(chosen.model, texts, **settings))
    report(rows, chosen)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tain-mini")
    parser.add_argument("--rows", nargs="+", choices=(*BASELINES, *SWITCHES), default=(*BASELINES, *SWITCHES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off continues")
    parser.add_argument("--quick", action="store_true", help="end within a minute or two: few texts and rows, no results file")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.rows = 1, ("lexical", "default", "head")
    return chosen


def mean_of(found):
    return round(float(np.mean(list(found.values()))), 2)


def report(rows, chosen):
    """Print means over seeds, plain and whitened, and write the results file."""
    groups = {}
    for row in rows.found:
        if row["model"] == chosen.model and row["row"] in chosen.rows:
            groups.setdefault(row["row"], []).append(row)
    keys = list(rows.found[0]["scores"])
    print(f"{'':30}" + "".join(f"{key:>12}" for key in keys) + f"{'mean':>14}{'whitened':>16}{'seeds':>7}{'seconds':>9}")
    for name, found in groups.items():
        sets = "".join(f"{np.mean([row['scores'][key] for row in found]):12.2f}" for key in keys)
        means = "".join(f"{spread(found, figure):>15}" for figure in ("mean", "whitened_mean"))
        print(f"{name:30}{sets}{means}{len(found):7}{np.mean([row['seconds'] for row in found]):9.0f}")
    finish("mirror_switches", [], {"model": chosen.model, "rows": rows.found}, quick=chosen.quick)


def spread(found, figure):
    """Mean over seeds and its standard deviation; empty for a row without the figure."""
    values = [row[figure] for row in found if figure in row]
    if not values:
        return ""
    return f"{np.mean(values):.2f}" + (f" ±{np.std(values, ddof=1):5.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
