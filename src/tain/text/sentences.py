"""Rule-based sentence splitting by punctuation, for texts with whole paragraphs per line."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tain.text.cleaning import same_text_key
from tain.text.records import Pair, Sentence

_FEWEST_WORDS, _MOST_WORDS = (
    3,
    32,
)  # words of a neighbour: shorter ones are headings and list fragments, longer ones cost more than they help
_ENDS = ".!?…。！？।؟"
_CLOSERS = "\"'”’»)\\]」』"
_OPENERS = "\"'“‘«(\\[「『¿¡"
# after an end mark and closing marks: white space and a capital, digit or caseless letter; no white space in scripts without it
_CUT = re.compile(rf"(?<=[{_ENDS}])[{_CLOSERS}]*(\s+)(?=[{_OPENERS}]*[^\W_a-zà-öø-ÿ])|(?<=[。！？])[{_CLOSERS}]*()(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Jr|Sr|vs|No|Nr|Vol|pp|ca|cf|Co|Inc"
    r"|Ltd|Corp|Mt|Ft|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|etc|bzw|bspw|Sra?|Dra|Mme?|Mlle)\.$"
)


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, without the white space between them.

    A full stop after a single letter or a common abbreviation does not end a sentence, nor does one before a lower-case letter. In doubt,
    text is kept together. Text without end marks is one sentence.

    Returns:
        The sentences in order; empty for a blank paragraph.
    """
    sentences: list[str] = []
    begin = 0
    for match in _CUT.finditer(paragraph):
        end, next_begin = (match.start(1), match.end(1)) if match[1] is not None else (match.start(2), match.end(2))
        if match[1] is not None and _ABBREVIATION.search(paragraph, max(begin, end - 16), end):
            continue
        sentences.append(paragraph[begin:end].strip())
        begin = next_begin
    sentences.append(paragraph[begin:].strip())
    return [sentence for sentence in sentences if sentence]


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


def _is_of_use(sentence: str) -> bool:
    words = sentence.split()
    if len(words) == 1:  # perhaps in a script without white space
        return not sentence.isascii() and 2 * _FEWEST_WORDS <= len(sentence) <= 4 * _MOST_WORDS
    return _FEWEST_WORDS <= len(words) <= _MOST_WORDS
