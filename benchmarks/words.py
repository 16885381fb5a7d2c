"""Word similarity without labels: 13 English sets, for the recipes on single words beside what needs no training.

    python benchmarks/words.py --seeds 5 --work runs/words
    python benchmarks/words.py --quick

Texts: the 10,000 most frequent English words that Mirror-BERT ships. ``fast`` and ``best`` also take neighbouring sentences from running text (--corpus: Simple
English Wikipedia, a sample of the English Wikipedia and novels), from which ``ppmi-svd`` counts its vectors and ``fasttext`` learns its own
(``pip install gensim``). Spearman x 100, all sets as they are. SimLex-999 chose the weight of the token vectors in ``best``; no other set chose any setting.
"""

import argparse
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from fasttext_vectors import FastTextVectors
from measuring import Claim, Rows, finish
from ppmi_svd import PpmiSvd
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.report import evaluate
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror
from tain.text.readers import read_sentences, read_texts

CORPUS = ("simplewiki.txt.xz", "enwiki_sample.txt.xz", "novels.txt.xz")
ONE_RUN = ("characters", "ppmi-svd", "fasttext", "raw", "fast")  # and static: only fasttext is random
SHARED = Path(__file__).parents[2] / "shared"


def scores(encoder, data):
    (suite,) = evaluate([encoder], ("words",), data, resamples=10).suites
    return {row.key: round(row.figures[0].value, 2) for group in suite.groups[:1] for row in group.rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tain-mini")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--corpus", type=Path, default=SHARED / "corpus")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl; with it a run that was cut off continues")
    parser.add_argument("--quick", action="store_true", help="end within minutes: little text, one seed, no results file")
    chosen = parser.parse_args()
    words = list(read_texts(chosen.data / "mirror_corpus" / "en_words_top_10k.txt"))
    most = 20_000 if chosen.quick else None
    documents = [line for name in CORPUS for line in islice(read_sentences(chosen.corpus / name), most)]
    rows = Rows((chosen.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=chosen.work is not None)

    def mirrored(seed, **settings):
        work = Path(tempfile.mkdtemp())
        mirror(chosen.model, words, work / "encoder", level="word", seed=seed, progress=Progress.mute(), **settings)
        encoder = Embedder.load(work / "encoder")  # the plain folder, as any reader has it
        shutil.rmtree(work)
        return encoder

    makers = {
        "characters": lambda seed: Lexical.of_characters(),
        "ppmi-svd": lambda seed: PpmiSvd(line.text for line in documents),
        "fasttext": lambda seed: FastTextVectors((line.text for line in documents), seed=seed),
        f"static:{chosen.model}": lambda seed: Static.load(chosen.model, words),
        "raw": lambda seed: Embedder.load(chosen.model, pooling="mean"),
        "mirror": lambda seed: mirrored(seed),
        "fast": lambda seed: mirrored(seed, recipe="fast"),
        "fast, with documents": lambda seed: mirrored(seed, recipe="fast", documents=documents),
        "best, with documents": lambda seed: mirrored(seed, recipe="best", documents=documents),
    }
    for row, make in makers.items():
        for seed in range(13, 13 + (1 if chosen.quick or row in ONE_RUN or row.startswith("static:") else chosen.seeds)):
            if rows.lacks(row=row, seed=seed, model=chosen.model):
                began_s = time.perf_counter()
                encoder = make(seed)
                seconds = round(time.perf_counter() - began_s, 1)
                rows.add(row=row, seed=seed, model=chosen.model, seconds=seconds, scores=scores(encoder, chosen.data))

    table = {}
    for row in makers:
        found = [each for each in rows.found if each["row"] == row and each["model"] == chosen.model]
        means = [float(np.mean(list(each["scores"].values()))) for each in found]
        simlex = [each["scores"]["simlex999"] for each in found]
        spread = [round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else 0.0 for values in (means, simlex)]
        by_set = {key: round(float(np.mean([each["scores"][key] for each in found])), 2) for key in found[0]["scores"]}
        seconds = round(float(np.median([each["seconds"] for each in found])), 1)
        table[row] = {"mean": round(float(np.mean(means)), 2), "deviation": spread[0], "seeds": len(found), "seconds": seconds}
        table[row] |= {"simlex999": round(float(np.mean(simlex)), 2), "simlex999 deviation": spread[1], "scores": by_set}
        print(
            f"{row:28}{len(by_set)} sets {table[row]['mean']:6.2f} ±{spread[0]:4.2f}   SimLex-999 {table[row]['simlex999']:6.2f} ±{spread[1]:4.2f}"
            f"   {len(found)} seeds, {seconds:.1f} s"
        )
    claims = []
    for row in ("fast, with documents", "best, with documents"):
        mean, simlex = table[row]["mean"], table[row]["simlex999"]
        claims.append(Claim(f"{row}: mean of the word sets", mean, "points", 53.0, (mean, mean), None))
        claims.append(Claim(f"{row}: SimLex-999", simlex, "points", 32.0, (simlex, simlex), None))
    finish("words", claims, {"model": chosen.model, "table": table}, quick=chosen.quick)


if __name__ == "__main__":
    main()
