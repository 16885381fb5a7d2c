"""Word similarity suites: English, other languages and cross-lingual, evaluated by Spearman correlation over all pairs of a set."""

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

from tain.evaluation.suites.pairs import SetSource, as_score, pair_suite, table_source
from tain.evaluation.suites.suite import Split
from tain.foundation.errors import UserError

_ENGLISH = "English"
_ENGLISH_DEV = "English, dev"
_OTHER_LANGUAGES = "other languages"
_UNKNOWN = "sets unknown to tain"

# file stem -> title, in table order
_ENGLISH_SETS = {
    "simlex999": "SimLex-999",
    "wordsim353": "WordSim-353",
    "wordsim353_sim": "WordSim-353 sim",
    "wordsim353_rel": "WordSim-353 rel",
    "men": "MEN",
    "rareword": "RareWord",
    "card660": "CARD-660",
    "semeval17_english": "SemEval-17 en",
    "rg65": "RG-65",
    "mc30": "MC-30",
    "mturk287": "MTurk-287",
    "yp130": "YP-130",
}
_OTHER_SETS = {  # the last part of a title is the language
    "simlex999_german": "SimLex-999 de",
    "simlex999_italian": "SimLex-999 it",
    "simlex999_russian": "SimLex-999 ru",
    "wordsim353_german": "WordSim-353 de",
    "wordsim353_italian": "WordSim-353 it",
    "wordsim353_russian": "WordSim-353 ru",
}
_TWO_LETTERS = {"ENG": "en", "ARA": "ar", "CMN": "zh", "CYM": "cy", "EST": "et", "FIN": "fi", "FRA": "fr", "HEB": "he"}
_TWO_LETTERS |= {"POL": "pl", "RUS": "ru", "SPA": "es"}
_MULTISIMLEX_LANGUAGES = ("ENG", "ARA", "CMN", "YUE", "CYM", "EST", "FIN", "FRA", "HEB", "POL", "RUS", "SPA")
_MULTISIMLEX_FILES = ("multisimlex/translation.tsv", "multisimlex/scores.tsv")
_PARTS_JOINED_BY_UNDERSCORE = {"card660"}
_MIRROR_LANGUAGES = {"ENG", "FRA", "HEB", "CMN"}  # Liu et al. 2021 report their six pairs
_MIRROR_PAIRS, _OTHER_PAIRS = "Mirror-BERT's pairs", "other pairs"
_MOST_APART = 1.0  # largest difference between the scores of two languages, on the scale 0 to 6


def word_sources(data: Path | None, split: Split = "test") -> list[SetSource]:
    """All word sets known to tain, followed by any other table in ``data``/wordsim.

    Unknown sets get a separate group, and thus a separate mean, since their language is not guessed. The ``dev`` split is SimLex-999
    alone, on which the Mirror-BERT paper chose its settings for words.
    """
    if split == "dev":
        return [_wordsim("simlex999", _ENGLISH_SETS["simlex999"], _ENGLISH_DEV, "en")]
    english = [_wordsim(stem, title, _ENGLISH, "en") for stem, title in _ENGLISH_SETS.items()]
    others = [_wordsim(stem, title, _OTHER_LANGUAGES, title.rpartition(" ")[2]) for stem, title in _OTHER_SETS.items()]
    read = _MultiSimLex().read
    multisimlex = [_multisimlex(language, read) for language in _multisimlex_languages(data)]
    in_english = [source for source in multisimlex if source.group == _ENGLISH]
    in_others = [source for source in multisimlex if source.group == _OTHER_LANGUAGES]
    return [*english, *in_english, *others, *in_others, *_unknown_sets(data)]


def crossed_sources(data: Path | None) -> list[SetSource]:
    """Cross-lingual Multi-SimLex: one set per language pair, with the pairs of Mirror-BERT's table first."""
    languages = sorted(
        _multisimlex_languages(data), key=lambda language: language not in _MIRROR_LANGUAGES
    )  # stable, so otherwise in file order
    read = _MultiSimLex().read_crossed
    return [_crossed(left, right, read) for left, right in combinations(languages, 2)]


def _crossed(left: str, right: str, read: Callable[..., tuple[list[str], list[str], list[float]]]) -> SetSource:
    codes = _code(left), _code(right)
    return SetSource(
        key=f"multisimlex_{left.lower()}-{right.lower()}",
        title="-".join(codes),
        group=_MIRROR_PAIRS if {left, right} <= _MIRROR_LANGUAGES else _OTHER_PAIRS,
        files=_MULTISIMLEX_FILES,
        read=partial(read, languages=(left, right)),
        languages=codes,
    )


def _unknown_sets(data: Path | None) -> list[SetSource]:
    stems = sorted(path.stem for path in (data / "wordsim").glob("*.tsv")) if data is not None else []
    return [_wordsim(stem, stem, _UNKNOWN, None) for stem in stems if stem not in _ENGLISH_SETS and stem not in _OTHER_SETS]


def _wordsim(stem: str, title: str, group: str, language: str | None) -> SetSource:
    joined = stem in _PARTS_JOINED_BY_UNDERSCORE
    return table_source(stem, title, group, f"wordsim/{stem}.tsv", languages=(language, language), spaces_for_underscores=joined)


def _multisimlex_languages(data: Path | None) -> list[str]:
    """Languages in the available file (releases differ); without a file, the languages known to tain, to be listed as absent."""
    scores = None if data is None else data / _MULTISIMLEX_FILES[1]
    if scores is None or not scores.is_file():
        return list(_MULTISIMLEX_LANGUAGES)
    with scores.open(encoding="utf-8-sig", errors="replace") as file:  # errors are reported when the file is loaded
        return [column for column in file.readline().rstrip("\r\n").split("\t") if column.isupper()]


def _multisimlex(language: str, read: Callable[..., tuple[list[str], list[str], list[float]]]) -> SetSource:
    code = _code(language)
    return SetSource(
        key=f"multisimlex_{language.lower()}",
        title=f"Multi-SimLex {language.lower()}",
        group=_ENGLISH if language == "ENG" else _OTHER_LANGUAGES,
        files=_MULTISIMLEX_FILES,
        read=partial(read, language=language),
        languages=(code, code),
    )


def _code(language: str) -> str:
    return _TWO_LETTERS.get(language, language.lower())


class _MultiSimLex:
    """The two Multi-SimLex tables with all languages, read once."""

    def __init__(self) -> None:
        self._tables: dict[Path, tuple[list[str], list[dict[str, str]]]] = {}

    def read(self, data: Path, *, language: str) -> tuple[list[str], list[str], list[float]]:
        """Join words and scores of one language by pair id."""
        words_file, scores_file = (data / file for file in _MULTISIMLEX_FILES)
        left_column, right_column = f"{language} 1", f"{language} 2"
        word_rows = self._rows(words_file, {"id", left_column, right_column})
        score_of = {row["id"]: row[language] for row in self._rows(scores_file, {"id", language})}
        left, right, gold = [], [], []
        for row in word_rows:
            if row["id"] not in score_of:
                raise UserError(
                    f"{str(scores_file)!r} has no score for pair {row['id']!r} of {str(words_file)!r}: give files of one release"
                )
            left.append(row[left_column])
            right.append(row[right_column])
            gold.append(as_score(score_of[row["id"]], where=f"{str(scores_file)!r}, pair {row['id']!r}"))
        return left, right, gold

    def read_crossed(self, data: Path, *, languages: tuple[str, str]) -> tuple[list[str], list[str], list[float]]:
        """Combine the first word in one language with the second word in the other, and vice versa.

        The score is the mean of the two languages. Pairs with scores more than 1 apart are dropped, since their meanings differ. As far as
        we know, Vulic et al. 2020 build their sets this way; the exact threshold is our choice.
        """
        (left_first, left_second, left_gold), (right_first, right_second, right_gold) = (
            self.read(data, language=language) for language in languages
        )
        left, right, gold = [], [], []
        rows = zip(left_first, left_second, left_gold, right_first, right_second, right_gold, strict=True)
        for one, two, score, other_one, other_two, other_score in rows:
            if abs(score - other_score) <= _MOST_APART:
                left += [one, two]
                right += [other_two, other_one]
                gold += [(score + other_score) / 2] * 2
        return left, right, gold

    def _rows(self, file: Path, needed: set[str]) -> list[dict[str, str]]:
        from tain.text.readers import read_rows

        if file not in self._tables:
            header, rows = read_rows(file)
            self._tables[file] = header, list(rows)
        header, rows = self._tables[file]
        if not needed <= set(header):
            missing = ", ".join(sorted(needed - set(header)))
            raise UserError(f"{str(file)!r} lacks the columns {missing}, which Multi-SimLex has: give the release's own file")
        return rows


WORDS = pair_suite("words", "Word similarity", word_sources)
WORDS_CROSSED = pair_suite(
    "words-crossed", "Cross-lingual word similarity", lambda data, split: crossed_sources(data) if split == "test" else ()
)
