"""Mixing ratios gathered over any number of texts, in memory that grows with the vocabulary met and not with the texts.

The five methods and the protocol of Kobayashi et al. 2021, section 4: ratios of all tokens, special ones included, over all layers; and
Spearman's correlation of a token's frequency rank with its ratio, averaged over layers.
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
_BINS = (10, 100, 1_000, 10_000)  # ends of the bins of frequency ranks

Correlation = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class GroupMixing:
    """Mean ratios of some of the tokens.

    Attributes:
        name: Which tokens: a special token's own spelling, ``punctuation``, ``words``, or words of some frequency ranks.
        tokens: How many were met.
        means: By layer and method.
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
    """Ratios over all texts that were read.

    Attributes:
        methods: What the last axis of every figure stands for.
        texts: How many texts.
        tokens: How many tokens, special ones included.
        means: By layer and method.
        deviations: Standard deviations over tokens, by layer and method.
        minima: Smallest ratio of any token, by layer and method.
        maxima: Largest one.
        kinds: Special tokens each by itself, punctuation and words; together they are all tokens.
        by_frequency: Words by the rank of their piece's frequency in these texts, most frequent first.
        frequency_correlation: Spearman's correlation, over tokens, of their piece's frequency rank (1: the most frequent) with their ratio
            averaged over layers: negative where frequent pieces take more from others. nan where there is no answer.
        frequency_correlation_words: The same without special tokens.
        correlated_tokens: How many tokens the correlations are over: the first ones, where there were too many to keep.
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
    """Adds up ratios as batches go by.

    Args:
        methods: Their names.
        layers: Layers of the model.
        vocabulary: Ids that may be met.
        kept_tokens: Tokens kept for the correlation with frequency, 24 bytes each with five methods.
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
        self._sums = np.zeros((0, *shape))  # a row for each piece met
        self._room = kept_tokens
        self._kept_ids: list[np.ndarray] = []
        self._kept_ratios: list[np.ndarray] = []

    def add(self, ids: Int[Tensor, " tokens"], ratios: Float[Tensor, "layers methods tokens"], *, texts: int) -> None:
        """Take in a batch: its tokens' ids and ratios, of ``texts`` texts."""
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
        """Sum up.

        Args:
            kind_of: Names the kind of a piece: a special token's own spelling, ``punctuation`` or ``words``.
            special: Which kinds are special tokens.
            correlation: Spearman's correlation of two series.
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
        ranks = -self._counts[ids[is_chosen]]  # the more frequent, the smaller: all that a rank correlation reads
        return np.array([correlation(ranks, column) for column in ratios[is_chosen].T])


def _bins(pieces: int) -> list[tuple[str, slice]]:
    """Cut frequency ranks, 1 to ``pieces``, into bins that each hold some."""
    found, first = [], 0
    for end in (*_BINS, pieces):
        last = min(end, pieces)
        if last > first:
            found.append((f"words of rank {first + 1:,} to {last:,}", slice(first, last)))
        first = max(first, last)
    return found


class PieceKinds:
    """Tells special tokens, punctuation and words apart.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))

    @property
    def special(self) -> tuple[str, ...]:
        """The special tokens' spellings, those of a text's beginning and end first."""
        first = [self._tokenizer.cls_token, self._tokenizer.sep_token, self._tokenizer.mask_token]
        return tuple(dict.fromkeys([token for token in first if token] + list(self._special.values())))

    def __call__(self, piece: int) -> str:
        """Name a piece's kind."""
        if piece in self._special:
            return self._special[piece]
        shown = self.shown(piece)
        characters = shown.removeprefix(_CONTINUES) or shown
        return "punctuation" if all(unicodedata.category(character)[0] in "PS" for character in characters) else "words"

    def shown(self, piece: int) -> str:
        """Spell a piece as a reader would, ``##`` in front where the vocabulary says that it goes on with a word."""
        spelled = str(self._tokenizer.convert_ids_to_tokens(piece))
        if piece in self._special or spelled.startswith(_CONTINUES):
            return spelled
        readable = self._tokenizer.decode([piece]).strip()
        return spelled if not readable or _NO_CHARACTER in readable else readable  # some pieces are half a character's bytes
