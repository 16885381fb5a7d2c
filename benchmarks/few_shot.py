"""Classes from 1, 5 and 20 examples: encoders without labels as nearest-centroid classifiers of intents, beside word overlap and all-MiniLM.

    python benchmarks/few_shot.py --work runs/few_shot
    python benchmarks/few_shot.py --rows best --work runs/few_shot      (slower: trains)
    python benchmarks/few_shot.py --quick

The suite ``few-shot``: CLINC150, SLURP, SNIPS and ATIS, ten draws of examples, the same for every row. ``characters`` is TF-IDF of character n-grams.
``fast``, ``fast-joined`` (``fast --join``) and ``best`` mirror tain-mini on the texts of the sets' training parts, without their labels; the other
rows are fitted on the evaluated texts or not at all. all-MiniLM-L6-v2 was trained on a billion pairs. Finished rows are kept in --work, so a run that was cut off continues; rows that are not finished are left out.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from measuring import Claim, Rows, finish, minilm_folder
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.report import evaluate
from tain.evaluation.suites.tasks import read_columns
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror

SETS = ("few_shot_clinc150", "few_shot_slurp", "few_shot_snips", "few_shot_atis")
POOLS = ("clinc150/clinc150_train.tsv", "nlu_home/nlu_home.tsv", "snips/snips_train.tsv", "atis/atis_train.tsv")
MODEL = "tain-mini"


def mirrored(data, recipe, seed, **settings):
    """An encoder mirrored on the training texts of all sets."""
    texts = [text for pool in POOLS for (text,) in read_columns(data / pool, ("text",))]
    work = Path(tempfile.mkdtemp())
    try:
        mirror(MODEL, texts, work / "encoder", recipe=recipe, seed=seed, progress=Progress.mute(), **settings)
        return Embedder.load(work / "encoder")
    finally:
        shutil.rmtree(work)


def scores(encoder, data, sets):
    (suite,) = evaluate([encoder], sets, data, resamples=10).suites
    rows = [row for group in suite.groups for row in group.rows]
    return {row.key: (round(row.figures[0].value, 2), round(row.figures[0].deviation or 0.0, 2)) for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    makers = {
        "lexical": lambda data: Lexical(),
        "tf-idf": lambda data: Lexical(weighting="tf-idf", name="tf-idf"),
        "characters": lambda data: Lexical.of_characters(),
        f"static:{MODEL}": lambda data: Static.load(MODEL),
        "raw": lambda data: Embedder.load(MODEL, pooling="mean"),
        "fast": lambda data: mirrored(data, "fast", 13),
        "fast-joined": lambda data: mirrored(data, "fast", 13, join=True),
        "best": lambda data: mirrored(data, "best", 13),
        "all-MiniLM": lambda data: Embedder.load(str(minilm_folder())),
    }
    parser.add_argument("--rows", nargs="+", choices=list(makers), default=[name for name in makers if name != "best"])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off continues")
    parser.add_argument("--quick", action="store_true", help="end within a minute: SNIPS only, no results file")
    chosen = parser.parse_args()
    sets = SETS[2:3] if chosen.quick else SETS
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)
    for name in chosen.rows:
        for key in sets:
            if rows.lacks(row=name, set=key):
                break
        else:
            continue
        began_s = time.perf_counter()
        encoder = makers[name](chosen.data)
        made_s = round(time.perf_counter() - began_s, 1)
        for key in sets:
            if rows.lacks(row=name, set=key):
                rows.add(row=name, set=key, made_s=made_s, scores=scores(encoder, chosen.data, [key]))

    table = {}
    for found in rows.found:
        table.setdefault(found["row"], {}).update(found["scores"])
    table = {name: table[name] for name in makers if name in table}
    keys = list(next(iter(table.values())))
    print(f"{'':18}" + "".join(f"{key.removeprefix('few_shot_'):>16}" for key in keys))
    for name, cells in table.items():
        shown = (f"{cells[key][0]:.1f} ±{cells[key][1]:.1f}" if key in cells else "" for key in keys)
        print(f"{name:18}" + "".join(f"{cell:>16}" for cell in shown))
    claims = []
    for key in keys:
        rivals = [table[name][key][0] for name in ("lexical", "tf-idf", "characters") if key in table.get(name, {})]
        ours = {name: table[name][key][0] for name in ("fast", "fast-joined", "best") if key in table.get(name, {})}
        if rivals and ours:
            name, value = max(ours.items(), key=lambda each: each[1])
            gain = round(value - max(rivals), 2)
            claims.append(
                Claim(f"{key}: {name} over word overlap, TF-IDF and character n-grams", gain, "points of accuracy", 0.0, (gain, gain), None)
            )
    finish("few_shot", claims, {"model": MODEL, "mean and deviation over 10 draws": table}, quick=chosen.quick)


if __name__ == "__main__":
    main()
