"""Rule-based sentence splitting by punctuation, for texts with whole paragraphs per line."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tain.text.cleaning import same_text_key
from tain.text.records import Pair, Sentence
from tain.text.scripts import CHARS_PER_WORD, count_words, lacks_blanks

# a mark of these ends a sentence only before white space; the others have no other use, so no white space is needed
WEAK_ENDS = ".!?…‼⁇⁈⁉"
# Chinese and Japanese, Arabic and Urdu, Hindi, Armenian, Ethiopic, Burmese, Khmer
STRONG_ENDS = "。！？｡．؟۔।॥։።፧။។៕"
CLOSERS = "\"'”’»)]」』）】》〉›"
_OPENERS = "\"'“‘«([「『¿¡（【《〈‹"

_FEWEST_WORDS, _MOST_WORDS = 3, 32  # of a neighbour: shorter ones are headings and fragments, longer ones cost more than they help
_FEWEST_CLAUSE_CHARS = 40  # Thai and Lao: shorter clauses are joined to the next one

_ENDS, _CLOSE, _OPEN = (re.escape(marks) for marks in (WEAK_ENDS + STRONG_ENDS, CLOSERS, _OPENERS))
_CUT = re.compile(
    rf"[{_ENDS}](?:"
    rf"(?<=[{STRONG_ENDS}])[{_CLOSE}]*(?P<wide>\s+)(?=\S)"
    # before a capital, a digit or a letter of a script without case
    rf"|(?<![{STRONG_ENDS}])[{_CLOSE}“‘]*(?P<blank>\s+)(?=[{_OPEN}]*(?P<next>[^\W_]))"
    # after a closing mark only before an opening one: the sentence may go on after a quotation
    rf"|(?<=[{STRONG_ENDS}])(?:(?P<none>)(?=[^\s{_ENDS}{_CLOSE}])(?<!．(?=\d))|[{_CLOSE}]+(?P<quoted>)(?=[{_OPEN}]))"  # 3．5 is a number
    ")"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Jr|Sr|vs|No|Nr|Vol|pp|ca|cf|Co|Inc"
    r"|Ltd|Corp|Mt|Ft|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|etc|bzw|bspw|Sra?|Dra|Mme?|Mlle"
    r"|Doç|Yrd|vb|bkz|esim|tzw|гг|вв|др|пр|им|ул|см|стр|тыс|млн|млрд|проф|акад)\.$"
)
# German writes a full stop after ordinal numbers: am 3. Oktober, im 19. Jahrhundert
_ORDINAL = re.compile(
    r"\b\d{1,2}\.\s+(?:Jänner|Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert|Jahrtausend|Jh)"
)
_CLAUSE = re.compile(r"(?<=[\u0e01-\u0e4e\u0e81-\u0ede])(\s+)(?=[\u0e01-\u0e4e\u0e81-\u0ede])")


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, without the white space between them.

    A full stop after a single letter, a common abbreviation or a German ordinal number does not end a sentence, nor does one before a
    lower-case letter of any script. Marks such as 。 ؟ । need no white space after them. Thai and Lao have no end marks: there, white space
    ends a sentence of at least 40 characters. In doubt, text is kept together. Text without end marks is one sentence.

    Returns:
        The sentences in order; empty for a blank paragraph.
    """
    sentences: list[str] = []
    begin = 0
    for match in _CUT.finditer(paragraph):
        name = match.lastgroup if match.lastgroup != "next" else "blank"
        assert name is not None
        end, next_begin = match.span(name)
        if name == "blank" and (match["next"].islower() or _is_abbreviated(paragraph, begin, end)):
            continue
        sentences.append(paragraph[begin:end].strip())
        begin = next_begin
    sentences.append(paragraph[begin:].strip())
    return [clause for sentence in sentences if sentence for clause in _clauses(sentence)]


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


def _is_abbreviated(paragraph: str, begin: int, end: int) -> bool:
    if paragraph[end - 1] != ".":
        return False
    return bool(_ABBREVIATION.search(paragraph, max(begin, end - 16), end) or _ORDINAL.match(paragraph, _number_start(paragraph, end - 1)))


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
