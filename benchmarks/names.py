"""Names of diseases: link mentions and synonyms to concepts by the nearest name, without labels, beside character n-grams.

    python benchmarks/names.py --seeds 5 --work runs/names
    python benchmarks/names.py --quick

Three sets, accuracy@1 and @5: mentions of the NCBI Disease corpus (test) to the 76,237 names of MEDIC; synonyms of MEDIC (3000 drawn) to its main
names; exact synonyms of the Disease Ontology (3000 drawn) to its main names. Synonyms that equal a main name are left out. ``mirror`` and ``fast`` see the
names of MEDIC as single texts, at level phrase; they see none of the pairs. ``pairs`` is supervised by a dictionary: it trains on pairs of names of the
same MEDIC concept, so it has no figure on MEDIC, and is shown apart. Finished rows are kept in --work, so a run that was cut off continues.
"""

import argparse
import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from measuring import Claim, Rows, finish, minilm_folder
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.suites.entity_linking import NameSet, concepts_of
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.evaluation.suites.tasks import read_columns
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror
from tain.text.cleaning import same_text_key

MODEL = "tain-mini"
DRAWN = 3000
UNSUPERVISED = ("characters", "lexical", "static", "raw", "mirror", "fast", "all-MiniLM")


def synonyms(key, title, file, kinds, *, seed=13):
    """Synonyms of a dictionary as mentions, its main names as names."""
    rows = read_columns(file, ("concept", "term", "kind"))
    names, rows_of = {}, {}
    for concept, term, kind in rows:
        if kind == "name":
            row = names.setdefault(term, len(names))
            for part in concepts_of(concept):
                rows_of.setdefault(part, []).append(row)
    known = {same_text_key(name) for name in names}
    asked = [
        (term, concepts_of(concept))
        for concept, term, kind in rows
        if kind in kinds and same_text_key(term) not in known and any(part in rows_of for part in concepts_of(concept))
    ]
    drawn = [asked[index] for index in np.sort(np.random.default_rng(seed).permutation(len(asked))[:DRAWN])]
    mentions, gold = (tuple(side) for side in zip(*drawn, strict=True))
    return NameSet(key=key, title=title, mentions=mentions, gold=gold, names=tuple(names), rows_of=rows_of)


def medic_pairs(data, *, seed=13):
    """Each name of a MEDIC concept with the next one, in random order."""
    by_concept = {}
    for concept, term in read_columns(data / "biomed" / "medic_2012.tsv.gz", ("concept", "term")):
        by_concept.setdefault(concept, []).append(term)
    rng = np.random.default_rng(seed)
    return [pair for terms in by_concept.values() for pair in pairwise([terms[index] for index in rng.permutation(len(terms))])]


def mirrored(texts, seed, **settings):
    work = Path(tempfile.mkdtemp())
    try:
        mirror(MODEL, texts, work / "encoder", level="phrase", seed=seed, progress=Progress.mute(), **settings)
        return Embedder.load(work / "encoder")
    finally:
        shutil.rmtree(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=[*UNSUPERVISED, "pairs"], default=[*UNSUPERVISED, "pairs"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off continues")
    parser.add_argument("--quick", action="store_true", help="2000 names to train on, the Disease Ontology only, one seed, no results file")
    chosen = parser.parse_args()
    medic = list(dict.fromkeys(term for (term,) in read_columns(chosen.data / "biomed" / "medic_2012.tsv.gz", ("term",))))
    pairs = medic_pairs(chosen.data)
    if chosen.quick:
        medic, pairs = medic[:2000], pairs[:2000]
    tasks = [synonyms("disease_ontology", "Disease Ontology", chosen.data / "biomed" / "disease_ontology.tsv", ("exact",))]
    if not chosen.quick:
        ((ncbi,),) = (suite.sets for suite in load_suites(["ncbi"], SuiteOptions(data=chosen.data)))
        tasks = [ncbi, synonyms("medic", "MEDIC synonyms", chosen.data / "biomed" / "medic_2012.tsv.gz", ("synonym",)), *tasks]
    makers = {
        "characters": lambda seed: Lexical.of_characters(),
        "lexical": lambda seed: Lexical(weighting="tf-idf"),
        "static": lambda seed: Static.load(MODEL),
        "raw": lambda seed: Embedder.load(MODEL, pooling="mean"),
        "mirror": lambda seed: mirrored(medic, seed),
        "fast": lambda seed: mirrored(medic, seed, recipe="fast"),
        "all-MiniLM": lambda seed: Embedder.load(str(minilm_folder())),
        "pairs": lambda seed: mirrored(pairs, seed),
    }
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)
    for name in chosen.rows:
        for seed in range(13, 13 + (chosen.seeds if name in ("mirror", "fast", "pairs") and not chosen.quick else 1)):
            if not rows.lacks(row=name, seed=seed):
                continue
            began_s = time.perf_counter()
            encoder = makers[name](seed)
            made_s = round(time.perf_counter() - began_s, 1)
            found = {}
            for task in tasks:
                if (name, task.key) != ("pairs", "medic"):
                    once = EncodedOnce(encoder)
                    once.prepare(task.texts())
                    found |= {outcome.key: round(100 * float(outcome.shares.mean()), 2) for outcome in task.outcomes(once)}
            rows.add(row=name, seed=seed, made_s=made_s, scores=found)

    table = {}
    for name in (name for name in makers if not rows.lacks(row=name)):
        found = [row["scores"] for row in rows.found if row["row"] == name]
        cells = {key: [scores[key] for scores in found] for key in found[0]}
        spread = {key: round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None for key, values in cells.items()}
        table[name] = {key: {"mean": round(float(np.mean(values)), 2), "deviation": spread[key]} for key, values in cells.items()}
    keys = list(next(iter(table.values())))
    print(f"{'':12}" + "".join(f"{key:>24}" for key in keys))
    for name, cells in table.items():
        if name == "pairs":
            print("supervised by pairs of synonyms")
        print(f"{name:12}" + "".join(f"{cells[key]['mean'] if key in cells else '':>24}" for key in keys))
    claims = []
    for key in (key for key in keys if key.endswith("_at_1")):
        ours = {name: table[name][key]["mean"] for name in ("mirror", "fast") if name in table}
        if ours and "characters" in table:
            name = max(ours, key=lambda each: ours[each])
            gain = round(ours[name] - table["characters"][key]["mean"], 2)
            claims.append(Claim(f"{key}: {name} over character n-grams", gain, "points of accuracy", 0.0, (gain, gain), None))
    finish("names", claims, {"model": MODEL, "table": table}, quick=chosen.quick)


if __name__ == "__main__":
    main()
