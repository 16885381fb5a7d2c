"""Mixing ratio statistics over any number of texts, in memory that grows with the vocabulary seen, not with the texts.

Implements the five methods and the protocol of Kobayashi et al. 2021, section 4: ratios of all tokens, including special ones, over all
layers; and the Spearman correlation of a token's frequency rank with its ratio, averaged over layers.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

_CONTINUES = "##"
_NO_CHARACTER = "\ufffd"
_BINS = (10, 100, 1_000, 10_000)  # upper ends of the frequency rank bins

Correlation = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class GroupMixing:
    """Mean ratios of a group of tokens.

    Attributes:
        name: Name of the group: a special token, ``punctuation``, ``words``, or words in a range of frequency ranks.
        tokens: Number of tokens.
        means: Means by layer and method.
    """

    name: str
    tokens: int
    means: Float64[np.ndarray, "layers methods"]

    @property
    def overall(self) -> Float64[np.ndarray, " methods"]:
        """Means over all layers."""
        return self.means.mean(0)


@dataclass(frozen=True)
class MixingStatistics:
    """Ratio statistics over all texts.

    Attributes:
        methods: Methods along the last axis of every figure.
        texts: Number of texts.
        tokens: Number of tokens, including special ones.
        means: Means by layer and method.
        deviations: Standard deviations over tokens, by layer and method.
        minima: Smallest ratio of any token, by layer and method.
        maxima: Largest one.
        kinds: One group per special token, punctuation, and words; together they cover all tokens.
        by_frequency: Words grouped by the frequency rank of their piece in these texts, most frequent first.
        frequency_correlation: Spearman correlation, over tokens, of the frequency rank of their piece (1: most frequent) with their ratio
            averaged over layers; negative if frequent pieces take more from others. nan if undefined.
        frequency_correlation_words: The same without special tokens.
        correlated_tokens: Number of tokens in the correlations: the first ones, if there were too many to keep.
    """

    methods: tuple[str, ...]
    texts: int
    tokens: int
    means: Float64[np.ndarray, "layers methods"]
    deviations: Float64[np.ndarray, "layers methods"]
    minima: Float64[np.ndarray, "layers methods"]
    maxima: Float64[np.ndarray, "layers methods"]
    kinds: tuple[GroupMixing, ...]
    by_frequency: tuple[GroupMixing, ...]
    frequency_correlation: Float64[np.ndarray, " methods"]
    frequency_correlation_words: Float64[np.ndarray, " methods"]
    correlated_tokens: int

    @property
    def overall(self) -> Float64[np.ndarray, " methods"]:
        """Means over all tokens and layers."""
        return self.means.mean(0)


class MixingMeter:
    """Accumulates mixing ratios over batches.

    Args:
        methods: Names of the methods.
        layers: Number of layers.
        vocabulary: Number of token ids.
        kept_tokens: Tokens kept for the correlation with frequency; 24 bytes each with five methods.
    """

    def __init__(self, methods: Sequence[str], *, layers: int, vocabulary: int, kept_tokens: int = 2_000_000) -> None:
        self.methods = tuple(methods)
        shape = (layers, len(self.methods))
        self.texts = 0
        self.tokens = 0
        self._squares = np.zeros(shape)
        self._minima, self._maxima = np.full(shape, np.inf), np.full(shape, -np.inf)
        self._counts = np.zeros(vocabulary, dtype=np.int64)
        self._row_of_piece = np.full(vocabulary, -1)
        self._sums = np.zeros((0, *shape))  # one row per distinct piece
        self._room = kept_tokens
        self._kept_ids: list[np.ndarray] = []
        self._kept_ratios: list[np.ndarray] = []

    def add(self, ids: Int[Tensor, " tokens"], ratios: Float[Tensor, "layers methods tokens"], *, texts: int) -> None:
        """Add a batch: ids and ratios of its tokens, from ``texts`` texts."""
        exact = ratios.double()
        self.texts += texts
        self.tokens += len(ids)
        self._squares += exact.square().sum(-1).cpu().numpy()
        self._minima = np.minimum(self._minima, exact.amin(-1).cpu().numpy())
        self._maxima = np.maximum(self._maxima, exact.amax(-1).cpu().numpy())
        self._add_by_piece(ids, exact)
        kept = min(self._room, len(ids))
        if kept:
            self._room -= kept
            self._kept_ids.append(ids[:kept].cpu().numpy().astype(np.int32))
            self._kept_ratios.append(exact[..., :kept].mean(0).T.float().cpu().numpy())

    def statistics(self, kind_of: Callable[[int], str], *, special: Sequence[str], correlation: Correlation) -> MixingStatistics:
        """Compute the statistics.

        Args:
            kind_of: Maps a piece to its kind: the spelling of a special token, ``punctuation`` or ``words``.
            special: The kinds that are special tokens.
            correlation: Spearman correlation of two series.
        """
        assert self.tokens, "statistics of no tokens"
        pieces = np.flatnonzero(self._counts)
        kinds = np.array([kind_of(int(piece)) for piece in pieces])
        order = [*special, *sorted(set(kinds.tolist()) - set(special))]
        means = self._sums.sum(0) / self.tokens
        variances = np.maximum(self._squares / self.tokens - means**2, 0.0)
        words = pieces[kinds == "words"]
        words = words[np.argsort(-self._counts[words], kind="stable")]
        return MixingStatistics(
            methods=self.methods,
            texts=self.texts,
            tokens=self.tokens,
            means=means,
            deviations=np.sqrt(variances),
            minima=self._minima,
            maxima=self._maxima,
            kinds=tuple(self._group(kind, pieces[kinds == kind]) for kind in order if (kinds == kind).any()),
            by_frequency=tuple(self._group(name, words[index]) for name, index in _bins(len(words))),
            frequency_correlation=self._correlation(pieces, correlation),
            frequency_correlation_words=self._correlation(pieces[~np.isin(kinds, list(special))], correlation),
            correlated_tokens=sum(map(len, self._kept_ids)),
        )

    def _add_by_piece(self, ids: Tensor, ratios: Tensor) -> None:
        met, index, counts = torch.unique(ids, return_inverse=True, return_counts=True)
        pieces = met.cpu().numpy()
        new = pieces[self._row_of_piece[pieces] < 0]
        self._row_of_piece[new] = np.arange(len(self._sums), len(self._sums) + len(new))
        self._sums = np.concatenate([self._sums, np.zeros((len(new), *self._sums.shape[1:]))]) if len(new) else self._sums
        summed = ratios.new_zeros(len(met), *ratios.shape[:2]).index_add_(0, index, ratios.permute(2, 0, 1))
        self._sums[self._row_of_piece[pieces]] += summed.cpu().numpy()
        self._counts[pieces] += counts.cpu().numpy()

    def _group(self, name: str, pieces: Int64[np.ndarray, " pieces"]) -> GroupMixing:
        tokens = int(self._counts[pieces].sum())
        return GroupMixing(name, tokens, self._sums[self._row_of_piece[pieces]].sum(0) / tokens)

    def _correlation(self, pieces: Int64[np.ndarray, " pieces"], correlation: Correlation) -> Float64[np.ndarray, " methods"]:
        ids, ratios = np.concatenate(self._kept_ids), np.concatenate(self._kept_ratios)
        is_chosen = np.isin(ids, pieces)
        ranks = -self._counts[ids[is_chosen]]  # smaller for more frequent pieces, which is all a rank correlation needs
        return np.array([correlation(ranks, column) for column in ratios[is_chosen].T])


def _bins(pieces: int) -> list[tuple[str, slice]]:
    """Split frequency ranks, 1 to ``pieces``, into non-empty bins."""
    found, first = [], 0
    for end in (*_BINS, pieces):
        last = min(end, pieces)
        if last > first:
            found.append((f"words of rank {first + 1:,} to {last:,}", slice(first, last)))
        first = max(first, last)
    return found


class PieceKinds:
    """Classifies tokens into special tokens, punctuation and words.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))

    @property
    def special(self) -> tuple[str, ...]:
        """Spellings of the special tokens, those of a text's beginning and end first."""
        first = [self._tokenizer.cls_token, self._tokenizer.sep_token, self._tokenizer.mask_token]
        return tuple(dict.fromkeys([token for token in first if token] + list(self._special.values())))

    def __call__(self, piece: int) -> str:
        """Kind of a piece."""
        if piece in self._special:
            return self._special[piece]
        shown = self.shown(piece)
        characters = shown.removeprefix(_CONTINUES) or shown
        return "punctuation" if all(unicodedata.category(character)[0] in "PS" for character in characters) else "words"

    def shown(self, piece: int) -> str:
        """Readable spelling of a piece, with a leading ``##`` if the vocabulary marks it as a word continuation."""
        spelled = str(self._tokenizer.convert_ids_to_tokens(piece))
        if piece in self._special or spelled.startswith(_CONTINUES):
            return spelled
        readable = self._tokenizer.decode([piece]).strip()
        return spelled if not readable or _NO_CHARACTER in readable else readable  # some pieces are only part of a character's bytes
