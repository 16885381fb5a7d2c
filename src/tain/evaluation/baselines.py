"""Baseline encoders without training: overlap of words (``lexical``) or characters (``characters``), and input embeddings (``static:MODEL``).

A trained encoder should at least beat these. They are fitted on the evaluated texts: ``Lexical`` takes token frequencies from them,
``Static`` the covariance for whitening.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32
from tokenizers import Tokenizer

from tain.evaluation.metrics import cosine_rows, unit_rows
from tain.foundation.choices import CHARACTERS, LEXICAL, STATIC
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.progress import Progress
from tain.models.input_embeddings import InputEmbeddings, read_input_embeddings
from tain.models.timed_query import TimedQuery
from tain.text.scripts import NO_BLANKS, OPTIONAL_SIGNS, count_words, letters_and_pairs, marks

Weighting = Literal["sif", "tf-idf"]
Tokens = Literal["pieces", "characters"]

_SMOOTHING = 1e-3  # a of a / (a + p): weight one half at this relative frequency (Arora et al. 2017)
_TEXTS_AT_ONCE = 4096
_LISTS_AT_ONCE = 1_000
_SCORES_AT_ONCE = 10_000_000  # 40 MB
_NORM_FLOOR = 1e-12  # of a row's variance: the row of a padding token is all zeros
_DECIMALS = 12  # of a cosine: the order of summation must not break ties
_GRAM = 3
_CHARACTER_GRAMS = (2, 3, 4)
_OPTIONAL = re.compile(OPTIONAL_SIGNS)
_JOINERS = re.compile("[\u200c\u200d]")
_LATIN = "a-zA-Z\u00aa\u00ba\u00c0-\u02ff\u1d00-\u1dbf\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06\uff21-\uff5a"
_TOO_WIDE = "its vectors are as wide as the vocabulary"


# ---- overlap of words and of characters


class Lexical:
    """Bag-of-words baseline: texts as bags of word pieces or character n-grams, compared by cosine. Only shared tokens matter.

    ``pieces`` are the lower-cased pieces of tain-mini's tokenizer; an unknown word is one token. Words of other scripts than Latin are a
    token each, and so are their trigrams of letters; in scripts without blanks between words (Chinese, Japanese, Thai, ...), tokens are the
    characters and the pairs of neighbouring characters. ``characters`` are the runs of 2 to 4 characters of each lower-cased word with a
    blank on both sides, as in scikit-learn with ``analyzer="char_wb"``. Each count is multiplied by the weight of its token, ``sif``:
    a / (a + p) with a = 0.001 and p the token's relative frequency (Arora et al. 2017), or ``tf-idf``: 1 + log(count), times
    log((1 + n) / (1 + df)) + 1 for a token in df of n texts, as in scikit-learn with ``sublinear_tf``.

    Args:
        texts: Texts for the frequencies; default: those passed to ``fit_at_hand``.
        weighting: ``sif`` for similarity, ``tf-idf`` for retrieval.
        tokens: ``pieces`` or ``characters``.
        name: Name in tables.
    """

    kind = "lexical"
    vectors = 0  # per text
    unfit_for: dict[str, str] = {"transfer": _TOO_WIDE, "bli": "words of two languages share few tokens"}  # noqa: RUF012 - never changed

    def __init__(
        self, texts: Sequence[str] | None = None, *, weighting: Weighting = "sif", tokens: Tokens = "pieces", name: str = LEXICAL
    ) -> None:
        self.name = name
        self.weighting: Weighting = weighting
        self._tokens_of = lexical_tokens if tokens == "pieces" else character_ngrams
        self._ids: dict[str, int] = {}
        self._bags: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._weights: np.ndarray | None = None  # by token id (tokens,); tokens seen after fitting have none yet
        self._fitted_ids = np.empty(0, dtype=np.int64)  # ascending
        self._has_own_texts = texts is not None
        if texts is not None:
            self._fit(texts)

    @classmethod
    def of_characters(cls, texts: Sequence[str] | None = None) -> "Lexical":
        """The baseline ``characters``: TF-IDF of character n-grams."""
        return cls(texts, weighting="tf-idf", tokens="characters", name=CHARACTERS)

    @property
    def ranks_by(self) -> str:
        """Kind of ranker, as tables show it."""
        return self.weighting

    def fit_at_hand(self, texts: Sequence[str], /) -> None:
        """Compute the frequencies from ``texts``, each counted once, unless texts were given to the constructor.

        Raises:
            UserError: There are no texts.
        """
        if not self._has_own_texts:
            self._fit(texts)

    def _fit(self, texts: Sequence[str]) -> None:
        bags = self._bags_of(list(dict.fromkeys(texts)))
        if not bags:
            raise UserError(f"model {self.name!r} needs texts for token frequencies, but there are none: give some")
        ids, counts = (np.concatenate(side) for side in zip(*bags, strict=True))
        if self.weighting == "tf-idf":
            in_texts = np.bincount(ids, minlength=len(self._ids))
            weights = np.log((1 + len(bags)) / (1 + in_texts)) + 1
            self._weights = np.where(in_texts > 0, weights, 0.0)  # tokens outside the fitted texts match nothing
        else:
            occurrences = np.bincount(ids, weights=counts, minlength=len(self._ids))
            self._weights = _SMOOTHING / (_SMOOTHING + occurrences / max(1.0, occurrences.sum()))
        self._fitted_ids = np.unique(ids)

    def pair_cosines(self, left: Sequence[str], right: Sequence[str], /) -> Float[np.ndarray, " pairs"]:
        """Cosine of each text of ``left`` with the corresponding text of ``right``; 0 if they share no token.

        Raises:
            ShapeError: The lengths differ.
            UserError: The baseline is not fitted.
        """
        if len(left) != len(right):
            raise ShapeError(f"pairs need two lists of equal length, got {len(left)} and {len(right)}")
        found = np.zeros(len(left))
        for start in range(0, len(left), _TEXTS_AT_ONCE):
            first, second = (self._rows(side[start : start + _TEXTS_AT_ONCE]) for side in (left, right))
            width = len(self._ids)
            keys = (rows * width + ids for rows, ids, _ in (first, second))
            both, in_first, in_second = np.intersect1d(*keys, assume_unique=True, return_indices=True)
            products = first[2][in_first] * second[2][in_second]
            some = min(_TEXTS_AT_ONCE, len(left) - start)
            found[start : start + some] = np.bincount(both // max(width, 1), weights=products, minlength=some)
        return found.round(_DECIMALS)

    def index(self, candidates: Sequence[str], /) -> "LexicalIndex":
        """Index candidates for comparison with any number of texts."""
        return LexicalIndex(self, candidates)

    def encode(self, texts: Sequence[str], /) -> Float32[np.ndarray, "texts vocabulary"]:
        """Bags as dense vectors, one column per token of the fitted texts; suitable for at most a few thousand texts.

        Raises:
            UserError: The baseline is not fitted.
        """
        rows, ids, values = self._rows(texts)
        vectors = np.zeros((len(texts), len(self._fitted_ids)), dtype=np.float32)
        is_fitted = np.isin(ids, self._fitted_ids)
        vectors[rows[is_fitted], np.searchsorted(self._fitted_ids, ids[is_fitted])] = values[is_fitted]
        return vectors

    def _rows(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, token id and value of every token of every text, rows of length 1; ids ascend within a row."""
        if self._weights is None:
            raise UserError(f"model {self.name!r} needs texts for token frequencies first: give some, fit_at_hand(texts)")
        bags = self._bags_of(texts)
        rows = np.repeat(np.arange(len(bags)), [len(ids) for ids, _ in bags])
        ids, counts = (np.concatenate([np.empty(0, dtype=np.int64), *side]) for side in (zip(*bags, strict=True) if bags else ((), ())))
        unseen = 0.0 if self.weighting == "tf-idf" else 1.0  # of a token with frequency 0
        weights = np.append(self._weights, np.full(len(self._ids) - len(self._weights), unseen))
        values = (1 + np.log(counts) if self.weighting == "tf-idf" else counts) * weights[ids]
        lengths = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(bags)))
        return rows, ids, np.divide(values, lengths[rows], out=np.zeros_like(values), where=lengths[rows] > 0)

    def _bags_of(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ascending token ids of each text and their counts; each text is tokenized once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._bags]
        for start in range(0, len(new), _TEXTS_AT_ONCE):
            block = new[start : start + _TEXTS_AT_ONCE]
            for text, tokens in zip(block, self._tokens_of(block), strict=True):
                ids = [self._ids.setdefault(token, len(self._ids)) for token in tokens]
                found, counts = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
                self._bags[text] = found.astype(np.int32), counts.astype(np.int32)  # half the memory, of which these take most
        return [self._bags[text] for text in texts]


class LexicalIndex:
    """Inverted index of candidates, which compares a text only with candidates that share a token.

    Args:
        lexical: Provides the weights.
        candidates: Candidate texts.
    """

    def __init__(self, lexical: Lexical, candidates: Sequence[str]) -> None:
        self._lexical = lexical
        self._candidates = len(candidates)
        rows, ids, values = lexical._rows(candidates)
        order = np.argsort(ids, kind="stable")
        self._rows, self._values = rows[order], values[order]
        self._starts = np.searchsorted(ids[order], np.arange(len(lexical._ids) + 1))

    def cosines(self, texts: Sequence[str], /) -> Float[np.ndarray, "texts candidates"]:
        """Cosine of every text with every candidate."""
        found = np.zeros((len(texts), self._candidates))
        rows, ids, values = self._lexical._rows(texts)
        known = ids < len(self._starts) - 1  # tokens first seen later are in no candidate
        for row, token, value in zip(rows[known].tolist(), ids[known].tolist(), values[known].tolist(), strict=True):
            holders = slice(self._starts[token], self._starts[token + 1])
            found[row, self._rows[holders]] += value * self._values[holders]
        return found.round(_DECIMALS)


def lexical_tokens(texts: Sequence[str]) -> list[list[str]]:
    """Split texts into the lower-cased word pieces of tain-mini's tokenizer; an unknown word stays whole.

    The tokenizer knows English only. Words of other scripts become the word and its trigrams of letters, and runs of a script without blanks
    between words become letters (graphemes) and pairs of them; both folded, without optional vowel signs. All texts are in NFKC form, without
    zero-width joiners and non-joiners.
    """
    from tain.text.cleaning import refuse_half_characters

    tokenizer, unknown = _tokenizer()
    texts = [text if text.isascii() else _JOINERS.sub("", unicodedata.normalize("NFKC", text)) for text in texts]
    others = [[] if text.isascii() else _other_scripts(text) for text in texts]
    texts = [_other_words().sub(" ", text) if found else text for text, found in zip(texts, others, strict=True)]
    try:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    except TypeError:
        refuse_half_characters(texts)
        raise
    return [
        [
            token if token_id != unknown else text[begin:end].lower()
            for token, token_id, (begin, end) in zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True)
        ]
        + found
        for text, encoding, found in zip(texts, encodings, others, strict=True)
    ]


def character_ngrams(texts: Sequence[str]) -> list[list[str]]:
    """Split texts, in NFC form, into runs of 2 to 4 characters within each lower-cased word, which has a blank on both sides."""
    found = []
    for text in texts:
        words = [f" {word} " for word in unicodedata.normalize("NFC", text).lower().split()]
        found.append([word[start : start + size] for word in words for size in _CHARACTER_GRAMS for start in range(len(word) - size + 1)])
    return found


def _other_scripts(text: str) -> list[str]:
    """Tokens of the words that are not in Latin script."""
    found: list[str] = []
    for match in _other_words().finditer(_OPTIONAL.sub("", text.casefold())):
        word = match[0]
        if match["unspaced"]:
            found += letters_and_pairs(word)
        else:
            found.append(word)
            marked = f"<{word}>"
            found += [marked[start : start + _GRAM] for start in range(len(marked) - _GRAM + 1)] if len(word) > _GRAM else []
    return found


@cache
def _other_words() -> re.Pattern[str]:
    letter = rf"[^\W\d_{NO_BLANKS}{_LATIN}]"
    return re.compile(rf"(?P<unspaced>[{NO_BLANKS}]+)|{letter}(?:{letter}|[{marks()}])*")


@cache
def _tokenizer() -> tuple[Tokenizer, int | None]:
    """The built-in model's tokenizer and the id of its unknown token."""
    file = Path(str(resources.files("tain") / "assets" / "tain_mini" / "tokenizer.json"))
    if not file.is_file():
        raise UserError("the built-in tokenizer, which 'lexical' needs, is not in this installation: install tain again")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, tokenizer.token_to_id("[UNK]")


# ---- input embeddings


class Static:
    """Static embedding baseline: the whitened mean of a text's input embeddings, without any layer of the model.

    Each row of the table is scaled to mean 0 and variance 1, as by the following layer norm. Special tokens are excluded. The
    means are whitened (centred, then multiplied by the inverse square root of their covariance), unless most texts are single words,
    whose raw vectors are better on every word set measured (docs/evaluation.md).

    Args:
        embeddings: The table and its tokenizer.
        texts: Texts for mean and covariance; default: those passed to ``fit_at_hand``.
        name: Name in tables.
    """

    kind = ranks_by = "static"
    vectors = 1  # per text
    unfit_for: dict[str, str] = {}  # noqa: RUF012 - never changed

    def __init__(self, embeddings: InputEmbeddings, texts: Sequence[str] | None = None, *, name: str) -> None:
        self.name = name
        self._tokenise = embeddings.tokenise
        centred = embeddings.table - embeddings.table.mean(axis=1, keepdims=True)
        self._table = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + _NORM_FLOOR)
        self._whitening: Whitening | None = None
        self._has_own_texts = texts is not None
        if texts is not None:
            self._fit(texts)

    @classmethod
    def load(cls, model: str | Path, texts: Sequence[str] | None = None, *, trust_remote_code: bool = False) -> "Static":
        """Read the input embeddings of ``model``: a folder, a hub name, or ``tain-mini``; see ``read_input_embeddings``."""
        return cls(read_input_embeddings(model, trust_remote_code=trust_remote_code), texts, name=f"{STATIC}{model}")

    @property
    def dim(self) -> int:
        return self._table.shape[1]

    def fit_at_hand(self, texts: Sequence[str], /) -> None:
        """Compute mean and covariance from ``texts``, each counted once, unless texts were given to the constructor.

        Raises:
            UserError: There are fewer than two texts.
        """
        if not self._has_own_texts:
            self._fit(texts)

    def _fit(self, texts: Sequence[str]) -> None:
        different = list(dict.fromkeys(texts))
        if len(different) < 2:
            raise UserError(f"model {self.name!r} is whitened on texts, but got {len(different)} different ones: give at least 2")
        if 2 * sum(count_words(text) <= 1 for text in different) > len(different):
            self._whitening = Whitening(np.zeros(self.dim), np.eye(self.dim), 0.0)
        else:
            self._whitening = fit_whitening(self._means(different)[0])

    def encode(self, texts: Sequence[str], /) -> Float32[np.ndarray, "texts dim"]:
        """Encode texts into one vector each; zeros for a text without tokens.

        Raises:
            UserError: The baseline is not fitted.
        """
        if self._whitening is None:
            raise UserError(f"model {self.name!r} needs texts for whitening first: give some, Static.load(model, texts)")
        means, has_tokens = self._means(texts)
        vectors = self._whitening.apply(means)
        vectors[~has_tokens] = 0.0
        return vectors.astype(np.float32)

    def pair_cosines(self, left: Sequence[str], right: Sequence[str], /) -> Float[np.ndarray, " pairs"]:
        """Cosine of each text of ``left`` with the corresponding text of ``right``.

        Raises:
            ShapeError: The lengths differ.
            UserError: The baseline is not fitted.
        """
        index_of = {text: index for index, text in enumerate(dict.fromkeys((*left, *right)))}
        units = unit_rows(self.encode(list(index_of)))
        first, second = ([index_of[text] for text in side] for side in (left, right))
        return cosine_rows(units[first], units[second])

    def index(self, candidates: Sequence[str], /) -> "StaticIndex":
        """Index candidates for comparison with any number of texts."""
        return StaticIndex(self, candidates)

    def _means(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean token vector of each text, float64 (texts, dim), and whether each text has tokens (texts,)."""
        means, has_tokens = np.zeros((len(texts), self.dim)), np.zeros(len(texts), dtype=bool)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            for index, ids in enumerate(self._tokenise(texts[start : start + _TEXTS_AT_ONCE]), start=start):
                if ids:
                    found, counts = np.unique(ids, return_counts=True)  # a text of a million tokens takes no more memory than the table
                    means[index] = counts @ self._table[found] / len(ids)
                    has_tokens[index] = True
        return means, has_tokens


class StaticIndex:
    """Candidate vectors of length 1."""

    def __init__(self, static: Static, candidates: Sequence[str]) -> None:
        self._static = static
        self._units = unit_rows(static.encode(candidates))

    def cosines(self, texts: Sequence[str], /) -> Float[np.ndarray, "texts candidates"]:
        """Cosine of every text with every candidate."""
        return unit_rows(self._static.encode(texts)) @ self._units.T


# ---- as rankers


class BaselineRanker:
    """Adapter that makes a baseline usable in ``ranking.evaluation.evaluate_rankers``; scores are cosines.

    Args:
        baseline: ``Lexical`` with ``tf-idf`` weights, or ``Static``; it is fitted on the candidates.
    """

    truncated = truncated_contexts = 0

    def __init__(self, baseline: Lexical | Static) -> None:
        self.baseline = baseline
        self.name, self.type, self.vectors = baseline.name, baseline.ranks_by, baseline.vectors

    def score_pool(self, contexts: Sequence[str], pool: Sequence[str], *, progress: Progress | None = None) -> Iterator[np.ndarray]:
        """Score one pool of candidates for every context, context by context (candidates,)."""
        self.baseline.fit_at_hand(list(dict.fromkeys(pool)))
        index, at_once = self.baseline.index(pool), max(1, _SCORES_AT_ONCE // len(pool))
        for start in range(0, len(contexts), at_once):
            yield from index.cosines(contexts[start : start + at_once])

    def score_lists(
        self, contexts: Sequence[str], lists: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """Score the candidate list of each context (candidates,)."""
        self.baseline.fit_at_hand(list(dict.fromkeys(text for listed in lists for text in listed)))
        for start in range(0, len(lists), _LISTS_AT_ONCE):
            some = lists[start : start + _LISTS_AT_ONCE]
            asked = [context for context, own in zip(contexts[start : start + _LISTS_AT_ONCE], some, strict=True) for _ in own]
            scores = self.baseline.pair_cosines(asked, [text for own in some for text in own])
            yield from np.split(scores, np.cumsum([len(own) for own in some])[:-1])

    def timed_queries(self, candidates: Sequence[str], sizes: Sequence[int]) -> list[TimedQuery]:
        """Prepare queries to time with these numbers of candidates, which are indexed beforehand."""

        def query(size: int) -> TimedQuery:
            index = self.baseline.index([candidates[position % len(candidates)] for position in range(size)])
            return TimedQuery(size, lambda context: index.cosines([context]), size)

        return [query(size) for size in sizes]


# ---- whitening


class Whitening:
    """A linear map that gives vectors mean 0 and identity covariance.

    Attributes:
        mean: Subtracted vector (dim,).
        matrix: Matrix multiplied afterwards (dim, kept).
        shrinkage: Shrinkage of the covariance towards a multiple of the identity, 0 to 1.
    """

    def __init__(self, mean: np.ndarray, matrix: np.ndarray, shrinkage: float) -> None:
        self.mean, self.matrix, self.shrinkage = mean, matrix, shrinkage

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Whiten vectors (texts, dim)."""
        return (vectors - self.mean) @ self.matrix


def fit_whitening(vectors: np.ndarray, *, shrinkage: float | None = None) -> Whitening:
    """PCA whitening of ``vectors`` (texts, dim) with covariance shrinkage, so that few vectors do not make it singular.

    The covariance S becomes (1 - s) S + s trace(S) / dim I. The default s is that of Ledoit and Wolf 2004, "A well-conditioned
    estimator for large-dimensional covariance matrices": near 0 for many vectors, near 1 for fewer than ``dim``, where plain
    whitening would make all distances equal.

    Args:
        vectors: At least two vectors.
        shrinkage: s, 0 to 1.

    Raises:
        ShapeError: There are fewer than two vectors.
    """
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ShapeError(f"whitening needs at least 2 vectors, got {vectors.shape}")
    mean = vectors.mean(axis=0)
    centred = np.asarray(vectors, dtype=np.float64) - mean
    covariance = centred.T @ centred / len(centred)
    scale = np.trace(covariance) / len(covariance)
    shrinkage = _ledoit_wolf(centred, covariance, scale) if shrinkage is None else shrinkage
    variances, directions = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * scale * np.eye(len(covariance)))
    kept = variances > 1e-9 * max(variances.max(), np.finfo(float).tiny)  # the rest is rounding
    return Whitening(mean, directions[:, kept] / np.sqrt(variances[kept]), shrinkage)


def _ledoit_wolf(centred: np.ndarray, covariance: np.ndarray, scale: float) -> float:
    """Ledoit and Wolf's optimal shrinkage: the sampling variance of the covariance over its distance from a multiple of I."""
    far = np.square(covariance - scale * np.eye(len(covariance))).sum()
    squares = np.square(centred)
    varies = (np.square(squares.sum(axis=1)).mean() - np.square(covariance).sum()) / len(centred)
    return float(np.clip(varies / far, 0.0, 1.0)) if far > 0 else 0.0
