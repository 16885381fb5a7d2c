"""Normalisation of a new tokenizer: case, accents and vowel signs, chosen by the scripts and languages of the texts."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tain.recipes.pretrain.config import Lowercase
from tain.text.scripts import OPTIONAL_SIGNS, script_of

_ALL_OF = 1000  # texts that are counted completely; of those after them every eighth
_EVERY = 8
# shares of letters. English: 0.05% of the letters have accents, Italian 1%, German 1.4%; Turkish: 4.5% are dotless i
_FEW_ACCENTS, _ALMOST_ALL_LATIN, _MANY_DOTLESS, _SOME_CASED = 0.003, 0.98, 0.025, 0.05


@dataclass(frozen=True)
class Spelling:
    """How a new tokenizer treats case and accents.

    Attributes:
        lowercase: Capitals become small letters.
        strip_accents: Accents are removed, as in uncased BERT; only for texts, such as English ones, where they distinguish no words.
        dotless_i: Capitals I and İ become ı and i, as in Turkish and Azerbaijani; otherwise I becomes i.
    """

    lowercase: bool = True
    strip_accents: bool = True
    dotless_i: bool = False

    def __str__(self) -> str:
        case = "lower case" if self.lowercase else "capitals kept"
        return f"{case}{', Turkish i' if self.dotless_i else ''}, accents {'removed' if self.strip_accents else 'kept'}"


def choose_spelling(texts: Iterable[str], *, lowercase: Lowercase) -> Spelling:
    """Choose a tokenizer's normalisation from the letters of the texts.

    Args:
        texts: The texts; of many, every eighth is counted.
        lowercase: ``auto`` lower-cases if at least 5% of the letters belong to scripts with case.

    Returns:
        Accents are removed only from lower-cased texts in Latin script with few of them (0.3% of the letters; English). Turkish rules apply
        if at least 2.5% of the Latin letters are dotless.
    """
    if lowercase == "no":
        return Spelling(lowercase=False, strip_accents=False)
    counts = Counter[str]()
    for number, text in enumerate(texts):
        if number < _ALL_OF or number % _EVERY == 0:
            counts.update(unicodedata.normalize("NFC", text))
    letters = {character: count for character, count in counts.items() if character.isalpha()}
    latin = {character: count for character, count in letters.items() if script_of(character) == "latin"}
    every, all_latin = sum(letters.values()), sum(latin.values())
    cased = sum(count for character, count in letters.items() if character.lower() != character.upper())
    if lowercase == "auto" and every and cased < _SOME_CASED * every:
        return Spelling(lowercase=False, strip_accents=False)
    accented = sum(count for character, count in latin.items() if len(unicodedata.normalize("NFD", character)) > 1)
    return Spelling(
        lowercase=True,
        strip_accents=all_latin >= _ALMOST_ALL_LATIN * every and accented <= _FEW_ACCENTS * all_latin,
        dotless_i=all_latin > 0 and latin.get("ı", 0) >= _MANY_DOTLESS * all_latin,
    )


def normaliser(spelling: Spelling) -> Any:
    """Build the normalizer of package ``tokenizers``.

    With accents removed it is that of uncased BERT. Otherwise compatibility forms become ordinary letters (NFKC: Arabic presentation forms,
    full-width letters, conjoining jamo), and optional vowel signs of Arabic and Hebrew are removed. Chinese characters are separated.
    """
    from tokenizers import Regex, normalizers

    if spelling.strip_accents:
        return normalizers.BertNormalizer(lowercase=spelling.lowercase)
    steps: list[Any] = [normalizers.NFKC(), normalizers.Replace(Regex(OPTIONAL_SIGNS), "")]
    if spelling.dotless_i:
        steps += [normalizers.Replace("I", "ı"), normalizers.Replace("İ", "i")]
    return normalizers.Sequence([*steps, normalizers.BertNormalizer(strip_accents=False, lowercase=spelling.lowercase)])
