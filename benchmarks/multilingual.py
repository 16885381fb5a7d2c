"""One model of eleven languages from plain text: similarity, word translation and sentence translation across languages, beside what needs no model.

    python benchmarks/multilingual.py --work runs/multilingual      (hours: pretraining by benchmarks/languages.toml with 32,768 tokens)
    python benchmarks/multilingual.py --quick                       (a rehearsal of minutes: a tiny model, no results file)

Text: an equal number of characters of each language (--characters). Sets: STS 2017 within (ar, es, en) and across languages (ar-en, es-en, tr-en), and
Multi-SimLex across eight languages, Spearman x 100; word translation (XLing-Eval, 15 pairs of languages), accuracy@1 x 100 by CSLS after an orthogonal
map learnt on 5000 word pairs, by cosine after the same map, and by CSLS without a map; sentence translation: xSID's test commands in ar, de, it, tr and
zh, of which the share whose nearest English command is the right one. No set chose any setting.

``paper``, ``fast`` and ``best`` are label-free. ``corrected`` takes one direction of each language out of ``best`` (fitted on the training texts).
Two rows are weakly supervised and shown apart: ``word pairs`` mirrors the training dictionaries of XLing-Eval (words only), ``translations`` is CMLM
with translation retrieval on xSID's validation commands, then ``fast`` (sentences only). Finished rows, and the models, are kept in --work.
"""

import argparse
import shutil
import sys
import tempfile
import time
import tomllib
from itertools import combinations
from pathlib import Path

import numpy as np

from bitext_retrieval import SETTINGS as CMLM
from bitext_retrieval import first_share
from language_bias import commands
from languages import TINY, sentences_of, summary, words_of
from measuring import Claim, Rows, finish
from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.encoding import ComparesTexts, FitsAtHand, languages_of
from tain.evaluation.metrics import unit_rows
from tain.evaluation.report import evaluate
from tain.evaluation.suites.lexicon import Lexicon, csls, lexicon_sources, orthogonal_map
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.loading import load_tokenizer
from tain.recipes.correct.recipe import correct
from tain.recipes.mirror.recipe import mirror
from tain.recipes.pretrain.recipe import pretrain
from tain.text.readers import read_sentences

SHARED = Path(__file__).parents[2] / "shared"
FILES = {
    "en": ["corpus/simplewiki"],
    "es": ["corpus_more/wiki_es"],
    "de": ["corpus_more/wiki_de"],
    "ar": ["corpus_more/short_ar"],
    "zh": ["corpus_more/wiki_zh", "corpus_more/short_zh"],
    "tr": ["corpus_more/short_tr"],
    "fi": ["corpus_more/wiki_fi", "corpus_more/short_fi"],
    "ru": ["corpus_more/novels_ru"],
    "fr": ["corpus_more/novels_fr"],
    "it": ["corpus_more/novels_it"],
    "pl": ["corpus_more/novels_pl"],
}
WITHIN, ACROSS = ("1_ar-ar", "3_es-es", "5_en-en"), ("2_ar-en", "4a_es-en", "6_tr-en")
SIMLEX = ("eng", "ara", "cmn", "fin", "fra", "pol", "rus", "spa")
COMMANDS = ("en", "ar", "de", "it", "tr", "zh")
NO_MODEL = ("lexical", "characters", "static")
LABEL_FREE = ("raw", "paper", "fast", "best", "corrected")
RANDOM = ("paper", "best", "corrected", "word pairs", "translations")
TEXTS = 10_000


def texts_of(shared, work, characters):
    """One file of each language with about as many characters, empty lines between documents."""
    folder = work / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    for language, names in FILES.items():
        path, taken, lines = folder / f"{language}.txt", 0, []
        if path.exists():
            continue
        for line in (line for name in names for line in read_sentences(shared / f"{name}.txt.xz")):
            if taken >= characters:
                break
            lines += [""] if line.begins_document and lines else []
            lines.append(line.text)
            taken += len(line.text)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {language: folder / f"{language}.txt" for language in FILES}


def model_of(files, work, chosen):
    """The pretrained model's folder; trains it if it is not there."""
    output = work / "model"
    if output.exists():
        return output
    settings = tomllib.loads((Path(__file__).parent / "languages.toml").read_text(encoding="utf-8"))
    settings |= {"vocab_size": 32_768, "snapshots": False, "tokens": chosen.tokens} | (TINY if chosen.quick else {})
    resume = (work / ".model.pretrain" / "checkpoint").exists()
    made = pretrain("scratch", list(files.values()), output, minutes=chosen.minutes, resume=resume, compile=chosen.compile, **settings)
    if not made.finished:
        sys.exit(f"{made.tokens:,} tokens done: run the same command again to continue")
    return output


def drawn_alike(by_language):
    """About TEXTS texts, as many of each language."""
    return {language: texts[: TEXTS // len(by_language)] for language, texts in by_language.items()}


class Maker:
    """Makes the encoder of a row for one level of text."""

    def __init__(self, model, by_language, documents, data, work, *, quick):
        self.model, self.documents, self.data, self.work, self.quick = str(model), documents, data, work, quick
        self.by_language = by_language  # level -> language -> texts

    def make(self, row, level, seed):
        by_language = self.by_language[level]
        texts = [text for listed in by_language.values() for text in listed]
        if row == "lexical":
            return Lexical()
        if row == "characters":
            return Lexical.of_characters()
        if row == "static":
            return Static.load(self.model, texts)
        if row == "raw":
            return Embedder.load(self.model, pooling="mean")
        with tempfile.TemporaryDirectory() as folder:
            if row == "translations":
                return self.translated(Path(folder), texts, seed)
            if row == "corrected":
                self.mirrored(Path(folder) / "best", texts, seed, level, recipe="best", documents=self.documents)
                return correct(Path(folder) / "best", by_language, method="languages").embedder
            if row == "word pairs":
                return self.mirrored(Path(folder) / "pairs", self.word_pairs(seed), seed, level)
            takes_documents = row == "best" or (row == "fast" and level == "word")
            more = {"documents": self.documents} if takes_documents else {}
            return self.mirrored(Path(folder) / row, texts, seed, level, recipe=row, **more)

    def mirrored(self, folder, texts, seed, level, *, model=None, **settings):
        mirror(model or self.model, texts, folder, seed=seed, level=level, progress=Progress.mute(), **settings)
        return Embedder.load(folder)

    def word_pairs(self, seed):
        pairs = [pair for _, lexicon in lexicons(self.data) for pair in lexicon.trained]
        pairs = list(dict.fromkeys((left, right) for left, right in pairs if left != right))
        return [pairs[index] for index in np.random.default_rng(seed).permutation(len(pairs))[: 500 if self.quick else TEXTS]]

    def translated(self, folder, texts, seed):
        """CMLM with translation retrieval, each language beside the next one of a ring, since a text may be in one pair a side."""
        valid = commands(self.data, "valid")
        ring = zip(COMMANDS, (*COMMANDS[1:], COMMANDS[0]), strict=True)
        pairs = [pair for left, right in ring for pair in zip(valid[left], valid[right], strict=True)]
        (bitext := folder / "pairs.tsv").write_text(
            "left\tright\n" + "".join(f"{left}\t{right}\n" for left, right in pairs), encoding="utf-8"
        )
        pretrain(
            self.model,
            [str(self.work / "texts" / f"{language}.txt") for language in ("en", "de", "it")],  # paragraphs with neighbours
            folder / "model",
            bitext=bitext,
            tokens=2e4 if self.quick else 3e5,
            seed=seed,
            **CMLM,
        )
        return self.mirrored(folder / "fast", texts, seed, "sentence", model=folder / "model", recipe="fast")


def lexicons(data):
    for source in lexicon_sources():
        if all((data / file).is_file() for file in source.files) and set(source.title.split("-")) <= set(FILES):
            lexicon = source.read(data)
            assert isinstance(lexicon, Lexicon)
            yield source.title, lexicon


def sentence_scores(encoder, data):
    keys = [f"sts17_track{track}" for track in (*WITHIN, *ACROSS)]
    rows = {
        row.key: row.figures[0].value
        for suite in evaluate([encoder], keys, data, resamples=10).suites
        for group in suite.groups
        for row in group.rows
    }
    found = {"STS17 within": float(np.mean([rows[f"sts17_track{track}"] for track in WITHIN]))}
    found |= {f"STS17 {track.partition('_')[2]}": rows[f"sts17_track{track}"] for track in ACROSS}
    test = {language: commands(data, "test")[language] for language in COMMANDS}
    if isinstance(encoder, FitsAtHand):
        encoder.fit_at_hand([text for texts in test.values() for text in texts])
    shares = [first_share(cosines(encoder, test[language], test["en"], language, "en")) for language in COMMANDS[1:]]
    return {key: round(value, 2) for key, value in (found | {"translation": 100 * float(np.mean(shares))}).items()}


def word_scores(encoder, data):
    keys = [f"multisimlex_{left}-{right}" for left, right in combinations(SIMLEX, 2)]
    known = _known_keys(keys)
    values = [
        row.figures[0].value
        for suite in evaluate([encoder], known, data, resamples=10).suites
        for group in suite.groups
        for row in group.rows
    ]
    found = {"Multi-SimLex across": float(np.mean(np.nan_to_num(values)))}  # a set whose pairs all have one score counts as 0
    if not isinstance(encoder, Lexical):
        each = [lexicon_shares(encoder, lexicon) for _, lexicon in lexicons(data)]
        found |= {name: 100 * float(np.mean([shares[name] for shares in each])) for name in each[0]}
    return {key: round(value, 2) for key, value in found.items()}


def _known_keys(keys):
    """Cross-lingual sets have their languages in the order of the file."""
    from tain.evaluation.suites.words import crossed_sources

    known = {source.key for source in crossed_sources(SHARED / "data")}
    return [key if key in known else "multisimlex_" + "-".join(reversed(key.partition("_")[2].split("-"))) for key in keys]


def lexicon_shares(encoder, lexicon):
    """Word translation: accuracy by CSLS after a map, by cosine after a map, and by CSLS without one."""
    sides = [encode(encoder, words, language) for language, words in zip(lexicon.languages, lexicon.words(), strict=True)]
    left, right = (unit_rows(side - side.mean(axis=0)) for side in map(unit_rows, sides))
    row_of, column_of = ({word: index for index, word in enumerate(words)} for words in lexicon.words())
    trained = np.array([(row_of[source], column_of[target]) for source, target in lexicon.trained])
    gold = {}
    for source, target in lexicon.tested:
        gold.setdefault(row_of[source], set()).add(column_of[target])
    mapped = left @ orthogonal_map(left[trained[:, 0]], right[trained[:, 1]])
    asked, everyone = np.array(list(gold)), np.ones(len(left), dtype=bool)

    def share(scores):
        return float(np.mean([best in right_ones for best, right_ones in zip(scores.argmax(axis=1), gold.values(), strict=True)]))

    def by_csls(rows):
        return share(np.concatenate(list(csls(rows, right, is_neighbour=everyone, queries=asked))))

    return {"BLI, map, CSLS": by_csls(mapped), "BLI, map, cosine": share(mapped[asked] @ right.T), "BLI, no map, CSLS": by_csls(left)}


def encode(encoder, texts, language):
    return encoder.encode(texts, language=language) if languages_of(encoder) else encoder.encode(texts)


def cosines(encoder, left, right, left_language, right_language):
    if isinstance(encoder, ComparesTexts):
        return encoder.index(right).cosines(left)
    return unit_rows(encode(encoder, left, left_language)) @ unit_rows(encode(encoder, right, right_language)).T


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=(*NO_MODEL, *LABEL_FREE, "word pairs", "translations"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=float, default=3e7, help="training tokens")
    parser.add_argument("--characters", type=float, default=3e6, help="characters of each language")
    parser.add_argument("--minutes", type=float, help="stop pretraining after this time; the same command continues")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data, corpus and corpus_more")
    parser.add_argument("--work", type=Path, help="folder for models and rows")
    parser.add_argument("--quick", action="store_true", help="a tiny model of little text, no results file")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.characters, chosen.tokens = 1, 5e4, TINY["tokens"]
    work = chosen.work or Path(tempfile.mkdtemp())
    data = chosen.shared / "data"
    files = texts_of(chosen.shared, work, chosen.characters)
    model = model_of(files, work, chosen)
    lines = {language: list(read_sentences(path)) for language, path in files.items()}
    tokenizer = load_tokenizer(model)
    by_language = {
        "sentence": drawn_alike({language: sentences_of(found) for language, found in lines.items()}),
        "word": drawn_alike({language: words for language, found in lines.items() if len(words := words_of(found, tokenizer)) > 100}),
    }
    documents = [line for found in lines.values() for line in found]
    maker = Maker(model, by_language, documents, data, work, quick=chosen.quick)
    rows = Rows(work / "rows.jsonl", is_kept=chosen.work is not None)
    levels = {"sentence": sentence_scores, "word": word_scores}
    for row in chosen.rows or (*NO_MODEL, *LABEL_FREE, "word pairs", "translations"):
        for level in levels if row not in ("word pairs", "translations") else (["word"] if row == "word pairs" else ["sentence"]):
            for seed in range(13, 13 + (chosen.seeds if row in RANDOM else 1)):
                if rows.lacks(model=level, row=row, seed=seed):
                    began_s = time.perf_counter()
                    encoder = maker.make(row, level, seed)
                    seconds = round(time.perf_counter() - began_s, 1)
                    rows.add(model=level, row=row, seed=seed, seconds=seconds, scores=levels[level](encoder, data))
    table = summary(rows.found)
    show(table)
    details = {
        "sentences": {key: len(texts) for key, texts in by_language["sentence"].items()},
        "words": {key: len(texts) for key, texts in by_language["word"].items()},
    }
    finish("multilingual", claims_of(table), details | {"tokens": chosen.tokens, "table": table}, quick=chosen.quick)
    if chosen.work is None:
        shutil.rmtree(work)


def show(table):
    for level, named in table.items():
        keys = max((list(cells) for cells in named.values()), key=len)
        print(f"{level:16}" + "".join(f"{key:>20}" for key in keys))
        for name, cells in named.items():
            shown = (
                ""
                if key not in cells
                else f"{cells[key]['mean']:.1f}" + ("" if cells[key]["deviation"] is None else f" ±{cells[key]['deviation']:.1f}")
                for key in keys
            )
            print(f"{name:16}" + "".join(f"{cell:>20}" for cell in shown))


def claims_of(table):
    """How far the best label-free row is above the best row without a trained encoder, on every figure."""
    claims = []
    for level, named in table.items():
        for key in named.get("best", {}):
            rivals = [named[name][key]["mean"] for name in NO_MODEL if name in named and key in named[name]]
            mine = max(named[name][key]["mean"] for name in LABEL_FREE if name in named)
            gain = round(mine - max(rivals), 2)
            claims.append(Claim(f"{level}, {key}: best label-free row over no model", gain, "points", None, (gain, gain), None))
    return claims


if __name__ == "__main__":
    main()
