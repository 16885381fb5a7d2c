"""Split paragraphs into sentences, by punctuation: a rule without a model, for texts whose lines are whole paragraphs."""

import re

_ENDS = ".!?…。！？।؟"
_CLOSERS = "\"'”’»)\\]」』"
_OPENERS = "\"'“‘«(\\[「『¿¡"
# behind an end mark and what closes it: white space and a capital, a digit or a letter without case; no white space where a script has none
_CUT = re.compile(rf"(?<=[{_ENDS}])[{_CLOSERS}]*(\s+)(?=[{_OPENERS}]*[^\W_a-zà-öø-ÿ])|(?<=[。！？])[{_CLOSERS}]*()(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Capt|Sgt|Rev|Hon|Jr|Sr|vs|No|Nr|Vol|pp|ca|cf|Co|Inc"
    r"|Ltd|Corp|Mt|Ft|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|etc|bzw|bspw|Sra?|Dra|Mme?|Mlle)\.$"
)


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, without the white space between them.

    A full stop behind a single letter or a common abbreviation ends no sentence, nor does one before a lower-case letter. When in doubt the rule
    keeps text together. Text without end marks is one sentence.

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
