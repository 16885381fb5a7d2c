"""Scripts and characters: graphemes, scripts without blanks between words, and the size of a text in words."""

import re
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any

from tain.text.cleaning import refuse_half_characters

# scripts that write words without blanks between them: Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer
NO_BLANKS = (
    "\u0e01-\u0e4e\u0e81-\u0ede\u0f40-\u0fbc\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3100-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# signs that writers of Arabic and Hebrew mostly leave out, and the Arabic sign that only stretches a word
OPTIONAL_SIGNS = "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc]"
CHARS_PER_WORD = 2  # in these scripts, about: most Chinese words have two characters

_WITHOUT_BLANKS = re.compile(f"[{NO_BLANKS}]")
_STACKS = "\u1039\u17d2"  # Burmese and Khmer: the next letter is written below the one before
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # they choose a form of the character before them
_RUNS = re.compile(rf"\s*[{NO_BLANKS}][{NO_BLANKS}{_SELECTORS}]*|\s*[^\s{NO_BLANKS}]+|\s+")
# characters that never join others: all but combining marks, joiners, conjoining jamo, emoji and their modifiers, and line ends
_ALONE = re.compile(
    "[ -\u00a8\u00aa-\u00ac\u00af-\u02ff\u0370-\u0482\u048a-\u0590\u0620-\u064a\u066e\u066f\u0671-\u06d3\u0e01-\u0e30\u0e40-\u0e46"
    "\u2010-\u2027\u3001-\u3029\u3041-\u3096\u309b-\u312f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff9d]*"
)


def graphemes(text: str) -> list[str]:
    """Split a text into what readers see as characters: extended grapheme clusters (Unicode Standard Annex 29).

    A letter with its combining marks, a Hangul syllable of several jamo, and an emoji sequence are one grapheme each. Beyond the annex, the
    vowel signs and stacked letters of Burmese and Khmer stay with the letter before them. Joined, the graphemes are the text.

    Raises:
        UserError: The text contains a lone surrogate.
    """
    if _ALONE.fullmatch(text):
        return list(text)
    try:
        pieces = [piece for piece, _ in _splitter().pre_tokenize_str(text)]
    except (TypeError, UnicodeError):
        refuse_half_characters([text])
        raise
    found: list[list[str]] = []  # pieces of each grapheme, joined at the end: adding to a text copies it
    for piece in pieces:
        if found and (unicodedata.category(piece[0])[0] == "M" or found[-1][-1][-1] in _STACKS):
            found[-1].append(piece)
        else:
            found.append([piece])
    return ["".join(joined) for joined in found]


def letters_and_pairs(run: str) -> list[str]:
    """Tokens of a run of a script without blanks between words: its graphemes, then the pairs of neighbouring graphemes."""
    letters = graphemes(run)
    return letters + [left + right for left, right in pairwise(letters)]


def lacks_blanks(text: str) -> bool:
    """Whether at least half of the words of a text belong to scripts without blanks between words."""
    if text.isascii():
        return False
    unspaced = len(_WITHOUT_BLANKS.findall(text))
    return unspaced > 0 and max(1, unspaced // CHARS_PER_WORD) >= len(_other_word().findall(text))


def count_words(text: str) -> int:
    """Number of words, between blanks; in scripts without blanks, two characters count as a word."""
    unspaced = 0 if text.isascii() else len(_WITHOUT_BLANKS.findall(text))
    if unspaced == 0:
        return len(text.split())
    return len(_other_word().findall(text)) + max(1, unspaced // CHARS_PER_WORD)


def units(text: str) -> list[str]:
    """Split a text where a reader may cut it: between words, and between the graphemes of scripts without blanks.

    Joined, the units are the text; blanks belong to the unit after them.
    """
    found: list[str] = []
    for run in _RUNS.findall(text):
        stripped = run.lstrip()
        if stripped and _WITHOUT_BLANKS.match(stripped):
            first, *rest = graphemes(stripped)
            found += [run[: len(run) - len(stripped)] + first, *rest]
        else:
            found.append(run)
    return found


@cache
def script_of(character: str) -> str:
    """Script of a letter: the first word of its Unicode name in lower case (``latin``, ``arabic``, ``cjk``); empty if it has none."""
    return unicodedata.name(character, "").partition(" ")[0].lower() if character.isalpha() else ""


@cache
def marks() -> str:
    """Ranges of all combining marks, for a character class of ``re``, in which word characters lack them."""
    codes = [code for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)) if unicodedata.category(chr(code))[0] == "M"]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def _other_word() -> re.Pattern[str]:
    """A word of a script with blanks; its vowel signs and joiners do not end it."""
    letter = rf"[^\W_{NO_BLANKS}]"
    return re.compile(rf"{letter}(?:{letter}|[{marks()}\u00ad\u200c\u200d])*")


@cache
def _splitter() -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(r"\X"), "isolated")
