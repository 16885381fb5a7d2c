"""Split lines of token ids into sentences, for corpora with whole paragraphs per line.

The split works on tokens rather than characters, so that a corpus is tokenized once for all objectives. Uncased tokenizers lose
capitals and blanks, so the rule is simple and prefers longer sentences.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from jaxtyping import Int64
from tokenizers import decoders

from tain.text.sentences import CLOSERS, STRONG_ENDS, WEAK_ENDS

_ENDS = set(WEAK_ENDS + STRONG_ENDS)
_CLOSERS = set(CLOSERS) - {"«"}  # which opens a quotation in most languages; only blanks would tell
_LINE_END = -1  # not a token id
_SCAN_TOKENS = 1_000_000  # tokens processed at a time; bounds memory only


@dataclass(frozen=True)
class SentenceEnds:
    """Tokens that end a sentence, and tokens next to which a full stop does not.

    Attributes:
        ends: Full stops and similar, including tokens with attached quotes or brackets.
        closers: Quotes and brackets that belong to the previous sentence if they follow its end.
        stops: Full stops alone, including tokens with attached quotes or brackets.
        letters: Single letters that begin a word; a full stop after one marks an initial or an abbreviation.
        digits: Tokens that begin with a digit; a full stop before one may be a decimal point.
    """

    ends: Int64[np.ndarray, " ends"]
    closers: Int64[np.ndarray, " closers"]
    stops: Int64[np.ndarray, " stops"]
    letters: Int64[np.ndarray, " letters"]
    digits: Int64[np.ndarray, " digits"]

    @classmethod
    def of(cls, tokenizer: Any) -> "SentenceEnds":
        """Collect these tokens from a transformers tokenizer's vocabulary."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        spelt = dict(zip(vocabulary.values(), _spelt(list(vocabulary)), strict=True))

        def indices(is_wanted: Callable[[str, bool], bool]) -> np.ndarray:
            return np.array(sorted(index for index, (text, begins) in spelt.items() if text and is_wanted(text, begins)), dtype=np.int64)

        return cls(
            ends=indices(lambda text, _: set(text) <= _ENDS | _CLOSERS and not set(text) <= _CLOSERS),
            closers=indices(lambda text, _: set(text) <= _CLOSERS),
            stops=indices(lambda text, _: "." in text and set(text) <= {"."} | _CLOSERS),
            letters=indices(lambda text, begins: begins and len(text) == 1 and text.lower() != text.upper()),
            digits=indices(lambda text, _: text[0].isdigit()),
        )

    def cuts(self, tokens: Int64[np.ndarray, " tokens"]) -> Int64[np.ndarray, " cuts"]:
        """Indices at which sentences begin, except line starts; ``tokens`` are lines, each followed by ``_LINE_END``."""
        is_end, is_closer = np.isin(tokens, self.ends), np.isin(tokens, self.closers)
        before, after = np.roll(tokens, 1), np.roll(tokens, -1)  # the ends wrap around to a line end
        # a full stop after an initial or within a number; other marks have no other use
        goes_with = np.isin(tokens, self.stops) & (np.isin(before, self.letters) | np.isin(after, self.digits))
        closes = is_end & ~goes_with
        for _ in range(2):  # a quote and a bracket may follow
            closes |= is_closer & np.roll(closes, 1)
        goes_on = np.roll(is_end | is_closer | (tokens == _LINE_END), -1)
        return (closes & ~goes_on).nonzero()[0] + 1


def _spelt(tokens: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Text of each token, without blanks, and whether it begins a word."""
    # GPT-2's byte encoding, in which a Chinese full stop has three letters
    is_bytes = any(token.startswith("Ġ") for token in tokens)
    has_blanks = is_bytes or any(token.startswith("▁") for token in tokens)
    bytes_of = decoders.ByteLevel()
    for token in tokens:
        if has_blanks:
            written = bytes_of.decode([token]) if is_bytes else token
            text = written.lstrip("▁ ")
            yield text, text != written
        elif token.startswith("##") and len(token) > 2:
            yield token[2:], False
        else:
            yield token, True


class SplitSentences(Sequence[np.ndarray]):
    """The tokens of ``lines`` as a sequence of sentences.

    Args:
        lines: Token ids per line, without special tokens.
        document_starts: Indices of the first line of each document.
        ends: Sentence ends; sentences never cross lines.

    Attributes:
        document_starts: Indices of the first sentence of each document.
    """

    def __init__(self, lines: Sequence[np.ndarray], document_starts: np.ndarray, ends: SentenceEnds) -> None:
        self._lines = lines
        owners, begins = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for first, tokens, starts in _chunks(lines):
            indices = np.union1d(starts, ends.cuts(tokens))
            line = np.searchsorted(starts, indices, side="right") - 1
            owners.append(line + first)
            begins.append(indices - starts[line])
        self._owners, self._begins = np.concatenate(owners), np.concatenate(begins)
        self.document_starts: np.ndarray = np.searchsorted(self._owners, document_starts)

    def __len__(self) -> int:
        return len(self._owners)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        owner = int(self._owners[index])
        is_last = index + 1 == len(self) or int(self._owners[index + 1]) != owner
        line = self._lines[owner]
        return line[int(self._begins[index]) : len(line) if is_last else int(self._begins[index + 1])]


def _chunks(lines: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Chunks of concatenated lines: index of the first line, tokens with ``_LINE_END`` after each line, and start of each line."""
    first, held, starts, tokens = 0, [], [], 0
    for index in range(len(lines)):
        starts.append(tokens)
        held += [lines[index].astype(np.int64), np.array([_LINE_END])]
        tokens += len(lines[index]) + 1
        if tokens >= _SCAN_TOKENS or index == len(lines) - 1:
            yield first, np.concatenate(held), np.array(starts)
            first, held, starts, tokens = index + 1, [], [], 0
