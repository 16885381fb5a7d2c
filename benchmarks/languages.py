"""One language from plain text: a small model from scratch, then every recipe without labels, beside what needs no model.

    python benchmarks/languages.py es --work runs/languages          (hours: pretraining by benchmarks/languages.toml)
    python benchmarks/languages.py es --work runs/languages --curve  (also raw, fast and best of the snapshots)
    python benchmarks/languages.py es --quick                        (a rehearsal of minutes: a tiny model, no results file)

Sets: STS 2017 within the language (es, ar), Multi-SimLex (es, ar, fi, fr, pl, ru, zh), SimLex-999 and WordSim-353 (de, it, ru), Spearman x 100; and intents
of xSID (ar, de, it, tr, zh), nearest centroid of 5 examples from its validation part, accuracy x 100, ten draws. No set chose any setting.
Sentence sets and intents: 10,000 sentences of the corpus; ``best`` also takes its neighbouring sentences. Word sets: the 10,000 most frequent words of the
corpus, at level word; in Chinese, where words cannot be found, the encoder of sentences. ``characters`` is TF-IDF of character n-grams; ``ppmi-svd`` and
``fasttext`` are word vectors of the same corpus (``pip install gensim``), not for Chinese.
Finished rows, and the model, are kept in --work: a run that was cut off continues.
"""

import argparse
import shutil
import sys
import tempfile
import time
import tomllib
from itertools import islice
from pathlib import Path

import numpy as np

from fasttext_vectors import FastTextVectors
from measuring import Claim, Rows, finish
from ppmi_svd import PpmiSvd
from tain.batches.tokenizing import bare_ids
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.report import evaluate
from tain.evaluation.suites.few_shot import FewShotSet
from tain.evaluation.suites.tasks import read_columns
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.loading import load_tokenizer
from tain.recipes.mirror.recipe import mirror
from tain.recipes.pretrain.recipe import pretrain
from tain.recipes.pretrain.vocabulary import count_words
from tain.text.readers import read_sentences
from tain.text.scripts import count_words as words_in
from tain.text.sentences import split_sentences

SHARED = Path(__file__).parents[2] / "shared"
# corpus files, the validation file, sets of sentence pairs, sets of word pairs, whether xSID has the language
LANGUAGES = {
    "es": (["wiki_es"], "valid_wiki_es", ["sts17_track3_es-es"], ["multisimlex_spa"], False),
    "de": (["wiki_de"], "valid_wiki_de", [], ["simlex999_german", "wordsim353_german"], True),
    "ar": (["short_ar"], None, ["sts17_track1_ar-ar"], ["multisimlex_ara"], True),
    "zh": (["wiki_zh", "short_zh"], "valid_wiki_zh", [], ["multisimlex_cmn"], True),
    "tr": (["short_tr"], None, [], [], True),
    "fi": (["wiki_fi", "short_fi"], "valid_wiki_fi", [], ["multisimlex_fin"], False),
    "ru": (["novels_ru"], "valid_novels_ru", [], ["multisimlex_rus", "simlex999_russian", "wordsim353_russian"], False),
    "fr": (["novels_fr"], "valid_novels_fr", [], ["multisimlex_fra"], False),
    "it": (["novels_it"], "valid_novels_it", [], ["simlex999_italian", "wordsim353_italian"], True),
    "pl": (["novels_pl"], "valid_novels_pl", [], ["multisimlex_pol"], False),
}
TEXTS, FEWEST_WORDS, MOST_WORDS = 10_000, 4, 32
OF_WORDS = {"ppmi-svd": PpmiSvd, "fasttext": FastTextVectors}
NO_MODEL = ("lexical", "characters", *OF_WORDS, "static")
RECIPES = ("paper", "fast", "best")
TINY = {"layers": 2, "hidden_size": 64, "heads": 2, "intermediate_size": 96, "vocab_size": 4096, "tokens": 2e5, "snapshots": False}


def corpus_of(language, corpora):
    files, held, *_ = LANGUAGES[language]
    found = [corpora / f"{name}.txt.xz" for name in (*files, *([held] if held else []))]
    if missing := [str(path) for path in found if not path.exists()]:
        sys.exit(f"error: {', '.join(missing)} missing: give the corpora by --corpora")
    return found[: len(files)], found[len(files) :]


def model_of(language, files, held, work, chosen):
    """The pretrained model's folder; trains it if it is not there."""
    output = work / "model"
    if output.exists():
        return output
    settings = tomllib.loads((Path(__file__).parent / "languages.toml").read_text(encoding="utf-8"))
    settings |= TINY if chosen.quick else {}
    settings |= {"tokens": chosen.tokens} if chosen.tokens else {}
    resume = (work / ".model.pretrain" / "checkpoint").exists()
    made = pretrain(
        "scratch", files, output, validation=tuple(held), minutes=chosen.minutes, resume=resume, compile=chosen.compile, **settings
    )
    if not made.finished:
        sys.exit(f"{made.tokens:,} tokens done: run the same command again to continue")
    return output


def sentences_of(lines, *, seed=13):
    """Distinct sentences of ordinary length, drawn at random."""
    found = dict.fromkeys(
        sentence for line in lines for sentence in split_sentences(line.text) if FEWEST_WORDS <= words_in(sentence) <= MOST_WORDS
    )
    drawn = list(found)
    return [drawn[index] for index in np.random.default_rng(seed).permutation(len(drawn))[:TEXTS]]


def words_of(lines, tokenizer):
    """The most frequent words, in the tokenizer's spelling; none in scripts without blanks."""
    counts = count_words((line.text for line in lines), tokenizer)
    frequent = [word for word, _ in counts.most_common(TEXTS) if len(word) > 1]
    unknown = tokenizer.unk_token_id
    return [word for word, ids in zip(frequent, bare_ids(tokenizer, frequent), strict=True) if unknown not in ids]


def intents_of(language, data):
    """xSID's language: examples from its validation part, tested on its test part."""
    parts = [
        [
            (text, intent)
            for lang, text, intent in read_columns(data / "xsid" / f"xsid_{part}.tsv", ("lang", "text", "intent"))
            if lang == language
        ]
        for part in ("valid", "test")
    ]
    classes = tuple(sorted({intent for _, intent in parts[0]}))
    number = {name: index for index, name in enumerate(classes)}
    pool, tested = parts
    return FewShotSet(
        key="xsid",
        title="xSID",
        pool=tuple(text for text, _ in pool),
        pool_labels=np.array([number[intent] for _, intent in pool]),
        texts_tested=tuple(text for text, _ in tested),
        labels=np.array([number.get(intent, -1) for _, intent in tested]),
        classes=classes,
        language=language,
    )


def scores(encoder, sets, data, intents=None):
    found = {}
    if sets:
        for suite in evaluate([encoder], sets, data, resamples=10).suites:
            found |= {row.key: round(row.figures[0].value, 2) for group in suite.groups for row in group.rows}
    if intents is not None:
        once = EncodedOnce(encoder)
        once.prepare(intents.texts())
        found |= {
            outcome.key: round(100 * float(outcome.shares.mean()), 2) for outcome in intents.outcomes(once) if outcome.key == "xsid_5"
        }
    return found


def mirrored(model, texts, seed, **settings):
    work = Path(tempfile.mkdtemp())
    try:
        mirror(model, texts, work / "encoder", seed=seed, progress=Progress.mute(), **settings)
        return Embedder.load(work / "encoder")
    finally:
        shutil.rmtree(work)


def made(row, model, texts, documents, seed, level):
    """The encoder of a row for one level of text."""
    if row == "lexical":
        return Lexical()
    if row == "characters":
        return Lexical.of_characters()
    if row in OF_WORDS:
        return OF_WORDS[row](line.text for line in documents)
    if row == "static":
        return Static.load(model, texts)
    if row == "raw":
        return Embedder.load(str(model), pooling="mean")
    takes_documents = row == "best" or (row == "fast" and level == "word")
    return mirrored(str(model), texts, seed, recipe=row, level=level, **({"documents": documents} if takes_documents else {}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=list(LANGUAGES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=float, help="training tokens; default: as in languages.toml")
    parser.add_argument("--minutes", type=float, help="stop pretraining after this time; the same command continues")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--curve", action="store_true", help="also static, raw, fast and best of every snapshot, one seed")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--corpora", type=Path, default=SHARED / "corpus_more")
    parser.add_argument("--work", type=Path, help="folder for model and rows")
    parser.add_argument("--quick", action="store_true", help="a tiny model of 2000 lines, no results file")
    chosen = parser.parse_args()
    work = (chosen.work or Path(tempfile.mkdtemp())) / chosen.language
    work.mkdir(parents=True, exist_ok=True)
    _, _, sentence_sets, word_sets, in_xsid = LANGUAGES[chosen.language]
    files, held = corpus_of(chosen.language, chosen.corpora)
    if chosen.quick:
        (small := work / "small.txt").write_text(
            "\n".join(("\n" if line.begins_document else "") + line.text for line in islice(read_sentences(files[0]), 2000)),
            encoding="utf-8",
        )
        files, held, chosen.seeds = [small], [], 1
    model = model_of(chosen.language, files, held, work, chosen)
    documents = [line for file in files for line in read_sentences(file)]
    sentences, words = sentences_of(documents), words_of(documents, load_tokenizer(model))
    intents = intents_of(chosen.language, chosen.data) if in_xsid else None
    rows = Rows(work / "rows.jsonl", is_kept=chosen.work is not None)
    models = {"final": model}
    if chosen.curve:
        models |= {folder.name.removeprefix("snapshot-"): folder for folder in sorted((work / ".model.pretrain").glob("snapshot-*"))}
    for label, folder in models.items():
        for row in rows_of(chosen.language) if label == "final" else ("static", "raw", "fast", "best"):
            for seed in range(13, 13 + (chosen.seeds if row in RECIPES and label == "final" else 1)):
                if not rows.lacks(model=label, row=row, seed=seed):
                    continue
                began_s = time.perf_counter()
                serves_words = row in OF_WORDS or len(words) < 1000  # the encoder of sentences
                is_needed = bool(sentence_sets) or intents is not None or serves_words
                encoder = made(row, folder, sentences, documents, seed, "sentence") if is_needed else None
                found = scores(encoder, sentence_sets, chosen.data, intents)
                if word_sets:
                    of_words = encoder if serves_words else made(row, folder, words, documents, seed, "word")
                    found |= scores(of_words, word_sets, chosen.data)
                seconds = round(time.perf_counter() - began_s, 1)
                rows.add(model=label, row=row, seed=seed, seconds=seconds, scores=found)
    table = summary(rows.found)
    show(table)
    finish(
        f"languages_{chosen.language}",
        claims_of(chosen.language, table["final"]),
        {"language": chosen.language, "words": len(words), "sentences": len(sentences), "table": table},
        quick=chosen.quick,
    )


def rows_of(language):
    names = (*NO_MODEL, "raw", *RECIPES)
    return [name for name in names if language != "zh" or name not in OF_WORDS]


def summary(found):
    table = {}
    for label in dict.fromkeys(row["model"] for row in found):
        for name in dict.fromkeys(row["row"] for row in found if row["model"] == label):
            cells = [row["scores"] for row in found if (row["model"], row["row"]) == (label, name)]
            table.setdefault(label, {})[name] = {
                key: {
                    "mean": round(float(np.mean([cell[key] for cell in cells])), 2),
                    "deviation": round(float(np.std([cell[key] for cell in cells], ddof=1)), 2) if len(cells) > 1 else None,
                }
                for key in cells[0]
            }
    return table


def show(table):
    for label, named in table.items():
        keys = list(next(iter(named.values())))
        print(f"{label:12}" + "".join(f"{key:>22}" for key in keys))
        for name, cells in named.items():
            shown = (
                f"{cells[key]['mean']:.1f}" + ("" if cells[key]["deviation"] is None else f" ±{cells[key]['deviation']:.1f}")
                for key in keys
            )
            print(f"{name:12}" + "".join(f"{cell:>22}" for cell in shown))


def claims_of(language, named):
    """How far ``best`` is above the best row without a trained encoder, on every set."""
    claims = []
    for key in named["best"]:
        rivals = [named[name][key]["mean"] for name in (*NO_MODEL, "raw") if name in named and not np.isnan(named[name][key]["mean"])]
        gain = round(named["best"][key]["mean"] - max(rivals), 2)
        deviation = named["best"][key]["deviation"] or 0.0
        claims.append(Claim(f"{language} {key}: best over no model", gain, "points", deviation, (gain - deviation, gain + deviation), None))
    return claims


if __name__ == "__main__":
    main()
