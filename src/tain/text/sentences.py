"""Rule-based sentence splitting by punctuation, for texts with whole paragraphs per line."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tain.text.cleaning import same_text_key
from tain.text.lines import is_blank
from tain.text.records import Pair, Sentence
from tain.text.scripts import CHARS_PER_WORD, count_words, lacks_blanks, script_of

# a mark of these ends a sentence only before white space; the others have no other use, so no white space is needed
WEAK_ENDS = ".!?…‼⁇⁈⁉"
# Chinese and Japanese, Arabic and Urdu, Hindi, Armenian, Ethiopic, Burmese, Khmer
STRONG_ENDS = "。！？｡．؟۔।॥։።፧။។៕"
CLOSERS = "\"'”’»«)]」』）】》〉›"
_OPENERS = "\"'“‘«»„‚([「『¿¡（【《〈‹"
# soft hyphens, zero-width spaces and joiners, and marks of direction
_UNSEEN = "\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"

_FEWEST_WORDS, _MOST_WORDS = 3, 32  # of a neighbour: shorter ones are headings and fragments, longer ones cost more than they help
_FEWEST_CLAUSE_CHARS = 40  # Thai and Lao: shorter clauses are joined to the next one
_LONGEST_ABBREVIATION = 24

_ENDS, _CLOSE, _OPEN = (re.escape(marks) for marks in (WEAK_ENDS + STRONG_ENDS, CLOSERS, _OPENERS))
_THIN = " \u00a0\u202f"  # French has a blank within « and »
_CLOSING = rf"(?:[{_CLOSE}“‘]|[{_THIN}][»›](?=\s))*[{_UNSEEN}]*"
_OPENING = rf"[{_UNSEEN}]*(?:[«‹][{_THIN}]|[{_OPEN}])*"
_IS_STRONG = rf"(?:(?<=[{STRONG_ENDS}])|(?<=፡፡))"
_CUT = re.compile(
    # not within the Khmer sign for "and so on", nor ． after a number or a letter: 3．5, Ｊ．
    r"(?!។ល។|(?<=។ល)។|(?<=[A-Za-zＡ-Ｚａ-ｚ0-9０-９])．)"
    # the Ethiopic mark as two signs; the Greek question mark
    rf"(?:[{_ENDS}]|(?<=፡)፡|(?<=[\u0370-\u03ff\u1f00-\u1fff])[;\u037e])(?:"
    rf"{_IS_STRONG}{_CLOSING}(?P<wide>\s+)(?=\S)"
    # before a capital, a digit or a letter of a script without case
    rf"|(?<![{STRONG_ENDS}])(?<!፡፡){_CLOSING}(?P<blank>\s+)(?={_OPENING}(?P<next>[^\W_]))"
    # after a closing mark only before an opening one: the sentence may go on after a quotation
    rf"|{_IS_STRONG}(?:(?P<none>[{_UNSEEN}]*)(?=[^\s{_ENDS}{_CLOSE}{_UNSEEN}፡])|[{_CLOSE}]+(?P<quoted>)(?=[{_OPEN}]))"
    ")"
)
# a word before a full stop that does not end a sentence: a letter, letters with full stops between them, a title, ...
_ALWAYS = (
    r"[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Sen|Rep|Gov|Jr|Sr|vs|No|Nr|Vol|pp|ca|cf|Co|Inc|Ltd|Corp"
    r"|Bros|Mt|Ft|Ave|Blvd|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Okt|Dez|etc|et al|Ph\.D"
    r"|bzw|bspw|inkl|exkl|evtl|ggf|zzgl|Mio|Mrd|Tel"  # German
    r"|Sra?|Srta|Dra|Ud|Uds|EE|UU|p\. ?ej|Av|Avda|Gral|Lic|Mme?|Mlle|MM|Mgr"  # Spanish, French
    r"|[Ss]ig|[Ss]ig\.(?:ra|na)|[Dd]ott|[Dd]ott\.ssa|[Pp]rof|[Pp]rof\.ssa|[Aa]vv|[Ii]ng|dr|mgr|inż|hab|np|św|ul|al|im|gen|ks|płk|m\.in|godz"  # Italian, Polish
    r"|Doç|Yrd|vb|Hz|Cad|Mah|Sok|Öğr|Gör|bkz|esim|tzw|гг|вв|др|пр|им|ул|кв|св|см|стр|тыс|млн|млрд|проф|акад"  # Turkish, Finnish, Russian
    r"|डॉ|डा|प्रो|पं|श्री|ए|बी|सी|डी|ई|एफ|जी|एच|आई|जे|के|एल|एम|एन|ओ|पी|क्यू|आर|एस|टी|यू|वी|डब्ल्यू|एक्स|वाई|जेड|ডা|ডাঃ|ড|মো|প্রো"  # Hindi, Bengali
)
_BEFORE_A_NUMBER = r"no|vol|[Ff]igs?|[Ee]qs?|[Ss]ec|[Cc]h|[Aa]rt|[Aa]bb|[Aa]bs|[Kk]ap|[Tt]ab|[Nn]úm|[Pp]ág|cap|rozdz|poz|st|nr|\w*[Ss]tr|ст|рис|табл|гл|тел|кв|п"
# the word begins where no letter stands before it, nor an apostrophe after a letter: not in didn't
_ABBREVIATION = re.compile(rf"(?<!\w)(?<!\w['’])(?:{_ALWAYS})\.$")
_NUMBERED = re.compile(rf"(?<!\w)(?<!\w['’])(?:{_BEFORE_A_NUMBER})\.$")
# the number of a list item is no sentence
_ITEM = re.compile(r"\s*(?:\d{1,3}|[IVXLC]{1,6})\.$")
# German writes a full stop after ordinal numbers: am 3. Oktober, im 19. Jahrhundert, der 1. FC Köln
_ORDINAL = re.compile(
    r"\b\d{1,2}\.\s+(?:Jänner|Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert|Jahrtausend|Jh"
    r"|(?:Jan|Feb|Mär|Apr|Jun|Jul|Aug|Sept?|Okt|Nov|Dez)\.)"
)
_AFTER_AN_ARTICLE = re.compile(r"(?<!\w)(?:[Dd](?:er|ie|as|en|em|es)|[IiAa]m|[Zz]u[mr]|[Vv]om|[Bb]eim|[Ii]ns)\s\d{1,2}\.$")
_THAI_OR_LAO = re.compile(r"[\u0e01-\u0e4e\u0e81-\u0ede]")
_CLAUSE = re.compile(r"(?<=[\u0e01-\u0e4e\u0e81-\u0ede])(\s+)(?=[\u0e01-\u0e4e\u0e81-\u0ede])")


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, without the white space between them.

    A full stop after a single letter, a common abbreviation, a German ordinal number or the number of a list item does not end a sentence,
    nor does one before a lower-case letter of any script. Marks such as 。 ؟ । need no white space after them. Thai and Lao have no end
    marks: there, white space ends a sentence of at least 40 characters. In doubt, text is kept together. Text without end marks is one
    sentence.

    Returns:
        The sentences in order; empty for a blank paragraph.
    """
    sentences: list[str] = []
    begin = 0
    for match in _CUT.finditer(paragraph):
        name = match.lastgroup if match.lastgroup != "next" else "blank"
        assert name is not None
        end, next_begin = match.span(name)
        if name == "blank" and (_is_lower(match["next"]) or _is_abbreviated(paragraph, begin, match.start() + 1, match["next"])):
            continue
        sentences.append(paragraph[begin:end].strip())
        begin = next_begin
    sentences.append(paragraph[begin:].strip())
    return [clause for sentence in sentences if not is_blank(sentence) for clause in _clauses(sentence)]


def neighbouring_sentences(lines: Iterable[Sentence]) -> Iterator[Pair]:
    """Yield all pairs of consecutive sentences within a line; single-sentence lines are paired within their document.

    Sentences with fewer than 3 or more than 32 words (6 to 128 characters in scripts without white space) and repetitions are skipped.

    Args:
        lines: Lines in order, with document starts; a line may be a whole paragraph.
    """
    before = ""  # the last sentence of the previous line, if it may be paired
    for line in lines:
        sentences = split_sentences(line.text)
        if len(sentences) == 1 and before and not line.begins_document:
            sentences = [before, *sentences]
        for left, right in pairwise(sentences):
            if _is_of_use(left) and _is_of_use(right) and same_text_key(left) != same_text_key(right):
                yield Pair(left, right)
        is_single = len(sentences) == 1 or (len(sentences) == 2 and sentences[0] is before)
        before = sentences[-1] if is_single else ""


def _is_lower(letter: str) -> bool:
    """Whether a letter begins no sentence; Georgian, which is written in small letters only, begins its sentences with them."""
    return letter.islower() and script_of(letter) != "georgian"


def _is_abbreviated(paragraph: str, begin: int, end: int, following: str) -> bool:
    """Whether a full stop, the last character before ``end``, belongs to the word before it."""
    if paragraph[end - 1] != ".":
        return False
    near = max(begin, end - _LONGEST_ABBREVIATION)
    return bool(
        _ABBREVIATION.search(paragraph, near, end)
        or (following.isdigit() and _NUMBERED.search(paragraph, near, end))
        or _ITEM.fullmatch(paragraph, begin, end)
        or _ORDINAL.match(paragraph, _number_start(paragraph, end - 1))
        or _AFTER_AN_ARTICLE.search(paragraph, near, end)
        or _THAI_OR_LAO.match(paragraph, end - 2)
    )


def _number_start(paragraph: str, end: int) -> int:
    start = end
    while start > 0 and paragraph[start - 1].isdigit() and end - start < 3:
        start -= 1
    return start


def _clauses(sentence: str) -> list[str]:
    """Cut Thai and Lao at white space, into parts of at least 40 characters."""
    found: list[str] = []
    begin = 0
    for match in _CLAUSE.finditer(sentence):
        if match.start() - begin >= _FEWEST_CLAUSE_CHARS and len(sentence) - match.end() >= _FEWEST_CLAUSE_CHARS:
            found.append(sentence[begin : match.start()])
            begin = match.end()
    return [*found, sentence[begin:]]


def _is_of_use(sentence: str) -> bool:
    if lacks_blanks(sentence):
        return CHARS_PER_WORD * _FEWEST_WORDS <= len(sentence) <= 2 * CHARS_PER_WORD * _MOST_WORDS
    return _FEWEST_WORDS <= count_words(sentence) <= _MOST_WORDS
