"""A loaded model of any kind under the name that requests use."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from tain.exported.encoder import ExportedEncoder
from tain.exported.rankers import ExportedCross, ExportedDual
from tain.foundation.errors import NotFiniteError, UserError
from tain.foundation.progress import Progress
from tain.foundation.vectors import unit_length
from tain.inspection.similarity import token_pair_contributions
from tain.loading import kind_of_model, load
from tain.models.vector_forms import Int8Ranges
from tain.serving.prompts import DOCUMENT, QUERY, first_of
from tain.serving.reading import Lengths, Token, can_show_tokens, cut_pairs, read_lengths, tokens_of
from tain.students.student import Student
from tain.text.records import Prediction

if TYPE_CHECKING:
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller
    from tain.models.rankers import Ranker

_UNLIMITED = 10**9


Cut = Literal["end", "start", "refuse", "chunks"]  # chunks: nothing is cut, the vector is the mean over the text's chunks


class TooLongError(UserError):
    """A text is longer than the model reads, and the request does not allow to cut it."""


class Text(NamedTuple):
    """A text to encode, what is cut off if it is longer than the model reads, and the prompt before it (None: the model's default)."""

    text: str
    cut: Cut = "end"
    prompt: str | None = None


class Embedded(NamedTuple):
    """A text's vector, float32 (dim,), as the model gives it; the tokens read of the text; and whether it was cut."""

    vector: np.ndarray
    tokens: int
    is_cut: bool


class Classified(NamedTuple):
    """A text's class or tags, the tokens read of it, and whether it was cut."""

    prediction: Prediction
    tokens: int
    is_cut: bool


class Chances(NamedTuple):
    """The probability of each class, and whether the text was cut."""

    by_label: dict[str, float]
    is_cut: bool


@dataclass(frozen=True, eq=False)
class Query:
    """The query of one request. Equal queries of two requests are separate objects, so that tokens are counted per request."""

    text: str


@dataclass(frozen=True)
class Scored:
    """A document's score for a query, and the tokens read for it.

    Attributes:
        score: Higher is better.
        document_tokens: Tokens of documents. The first of several pairs computed together may count them for all.
        query_tokens: Tokens of the query, counted once per request.
        is_cut: Whether the document, or the pair, was longer than the model reads.
        is_query_cut: Whether the query was.
        query: The query that it was scored for.
    """

    score: float
    document_tokens: int
    query_tokens: int
    is_cut: bool = False
    is_query_cut: bool = False
    query: Query | None = None


class TokenPairs(NamedTuple):
    """What the pairs of tokens of two texts contribute to the cosine of the texts.

    Attributes:
        cosine: Of the texts' vectors.
        is_sum: Whether ``parts`` are contributions, which add up to the cosine. If not, they are cosines of token vectors.
        left: Tokens of one text.
        right: Tokens of the other.
        parts: Float (left tokens, right tokens).
        tokens: How many tokens were read.
    """

    cosine: float
    is_sum: bool
    left: list[Token]
    right: list[Token]
    parts: np.ndarray
    tokens: int


_LOOKED_AT = 8  # texts of a batch that are checked for unknown tokens
_SAME_DIRECTION = 1 - 1e-4  # cosine from which the mean of the token vectors counts as the text's vector
_LOOK_S = 1.0  # between batches that are checked: each takes 2% of a batch's time


@dataclass
class _Look:
    """Whether texts so far were known to the tokenizer, and when texts are checked next."""

    is_known: bool = True
    next_s: float = 0.0


class Served:
    """One model with the functions that it supports.

    Args:
        name: Name in requests.
        embedder: Encoder or student that computes vectors.
        ranker: Ranker that scores documents for a query. Without one, an embedder ranks by cosine.
        labeller: Classifier, tagger or student that predicts classes or tags.
        progress: Warns once if texts are mostly unknown to the model's tokenizer.
        normalize: Whether answers have vectors of length 1; None: the model's own setting. ``embed`` never scales.

    Attributes:
        tokenizing_s: Seconds that counting tokens took in the last batch.
    """

    def __init__(
        self,
        name: str,
        *,
        embedder: "Embedder | ExportedEncoder | Student | None" = None,
        ranker: "Ranker | ExportedDual | ExportedCross | None" = None,
        labeller: "Labeller | Student | None" = None,
        normalize: bool | None = True,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.embedder, self.ranker, self.labeller = embedder, ranker, labeller
        self.normalize = normalize
        self.tokenizing_s = 0.0
        self._progress, self._look = progress or Progress.mute(), _Look()

    def runs_on_one_core(self, use: str) -> bool:
        """Whether ``on_one_core`` works, and pays for a use.

        A request for rerank is cut into slices, and all but a cross-encoder read the query again for each of them.
        """
        is_able = isinstance(self.model, ExportedEncoder | ExportedCross)
        return is_able and use == ("embeddings" if self.embedder is not None else "rerank")

    def on_one_core(self) -> "Served":
        """The same model on one core, with a state of its own: each of several threads can use one at once."""
        other = copy.copy(self)
        if self.embedder is not None:
            other.embedder = cast(ExportedEncoder, self.embedder).on_one_core()
        else:
            other.ranker = cast(ExportedCross, self.ranker).on_one_core()
        return other

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.embedder or self.ranker or self.labeller

    @property
    def uses(self) -> tuple[str, ...]:
        """The endpoints that it can answer."""
        if self.ranker is not None:
            return ("rerank",)
        return ("embeddings", "rerank") if self.embedder is not None else ("classify",)

    @property
    def is_normalised(self) -> bool:
        """Whether vectors in answers have length 1."""
        return bool(getattr(self.embedder, "normalize", False) if self.normalize is None else self.normalize)

    def estimate_tokens(self, texts: Sequence[str], *, is_whole: bool = False, prompt: str | None = None) -> list[int]:
        """Estimate the tokens read of each text, and of the prompt before it, from their lengths.

        Encoders, rankers and embedding students read texts up to their limit, unless they read them in chunks (``is_whole``); classifiers and
        taggers tokenise whole texts.
        """
        limit = None if is_whole or self.labeller is not None else self.max_tokens
        more = _estimate(prompt) if prompt else 0
        return [min(more + _estimate(text), limit or _UNLIMITED) for text in texts]

    @property
    def prompts(self) -> Mapping[str, str]:
        """The encoder's prompts by name."""
        return getattr(self.embedder, "prompts", {})

    def estimate_pair_tokens(self, query: str, documents: Sequence[str]) -> list[int]:
        """Estimate the tokens read for each document of a rerank request; a cross-encoder reads the query with each document."""
        (of_query, *found) = self.estimate_tokens([query, *documents])
        if self.ranker is not None and self.ranker.type == "cross":
            return [of_query + tokens for tokens in found]
        return [of_query + found[0], *found[1:]]

    @property
    def max_tokens(self) -> int | None:
        """Tokens read of a text, special tokens included; None without a limit."""
        return getattr(self.model, "max_tokens", None)

    @property
    def dtype(self) -> str:
        """Data type of the computation."""
        if (given := getattr(self.model, "dtype", None)) is not None:
            return str(given)
        module = getattr(self.model, "encoder", None) or getattr(self.model, "module", None)
        return "float32" if module is None else str(next(module.parameters()).dtype).removeprefix("torch.")

    def probable(self, scores: np.ndarray) -> np.ndarray:
        """Scores between 0 and 1, in the same order: a ranker's logits through the logistic function; cosines as they are."""
        export, activation = getattr(self.ranker, "export", None), getattr(self.ranker, "activation", None)
        is_done = type(activation).__name__ == "Sigmoid" or (export is not None and export.pair.get("activation") == "Sigmoid")
        return scores if self.ranker is None or is_done else 1 / (1 + np.exp(-np.clip(scores, -500, 500)))

    @property
    def has_tokens(self) -> bool:
        """Whether ``tokenize`` works."""
        return can_show_tokens(self.model)

    @property
    def has_token_pairs(self) -> bool:
        """Whether ``token_pairs`` works."""
        return self.has_tokens and hasattr(self.embedder, "token_vectors")

    @property
    def has_chances(self) -> bool:
        """Whether ``chances`` works."""
        return bool(getattr(self.labeller, "labels", ()))

    @property
    def int8_ranges(self) -> Int8Ranges | None:
        """Ranges of the dimensions, as recorded with an exported model; None if nothing is recorded."""
        recorded = getattr(getattr(self.embedder, "export", None), "int8_ranges", None)
        return Int8Ranges.read(recorded, what=f"model {self.name!r}") if recorded else None

    def embed(self, texts: list[Text]) -> list[Embedded]:
        """Encode texts.

        Raises:
            TooLongError: A text that may not be cut is longer than the model reads.
            UserError: A text has no tokens, or must lose its start with a model that reads texts from the start only, or is to be read in
                chunks by a model that cannot.
        """
        assert self.embedder is not None
        default = getattr(self.embedder, "default_prompt", "")
        whole = [(default if text.prompt is None else text.prompt) + text.text for text in texts]
        self._look_at(whole)
        lengths = self._lengths(whole, keeps=True)
        for row, (text, is_cut) in enumerate(zip(texts, lengths.is_cut, strict=True)):
            if is_cut and text.cut == "refuse":
                limit = getattr(self.embedder, "max_tokens", None)
                raise TooLongError(
                    f"text {row} is longer than the {limit} tokens that model {self.name!r} reads: shorten it, or let it be cut"
                )
        vectors = self._encoded(texts)
        lose_start = [row for row, text in enumerate(texts) if text.cut == "start" and lengths.is_cut[row]]
        if lose_start:
            with _cutting_starts(self.embedder):
                vectors[lose_start] = self._encoded([texts[row] for row in lose_start])
        in_chunks = [row for row, text in enumerate(texts) if text.cut == "chunks" and lengths.is_cut[row]]
        if in_chunks:
            vectors[in_chunks] = self._encoded([texts[row] for row in in_chunks], truncation="mean-of-chunks")
            read = read_lengths(self.model, [whole[row] for row in in_chunks], max_tokens=_UNLIMITED).tokens
            for row, tokens in zip(in_chunks, read, strict=True):
                lengths.tokens[row], lengths.is_cut[row] = tokens, False
        self._refuse_infinite(vectors)
        return [Embedded(*each) for each in zip(vectors, lengths.tokens, lengths.is_cut, strict=True)]

    def _encoded(self, texts: list[Text], **options: Any) -> np.ndarray:
        """The vectors of texts, those with the same prompt together."""
        assert self.embedder is not None
        of_prompt: dict[str | None, list[int]] = {}
        for row, text in enumerate(texts):
            of_prompt.setdefault(text.prompt, []).append(row)
        vectors: np.ndarray | None = None
        for prompt, rows in of_prompt.items():
            given: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
            found = self.embedder.encode([texts[row].text for row in rows], **options, **given)
            if len(of_prompt) == 1:
                return found
            vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32) if vectors is None else vectors
            vectors[rows] = found
        assert vectors is not None
        return vectors

    def rerank(self, pairs: list[tuple[Query, str]]) -> list[Scored]:
        """Score pairs of a query and a document; consecutive pairs with the same query are computed together."""
        queries, lists = [], []
        for query, group in groupby(pairs, key=itemgetter(0)):
            queries.append(query)
            lists.append([document for _, document in group])
        self._look_at([*(query.text for query in queries), *(listed[0] for listed in lists)])
        found = self._ranked(queries, lists) if self.ranker is not None else self._compared(queries, lists)
        self._refuse_infinite(np.array([one.score for one in found]))
        return found

    def classify(self, texts: list[str]) -> list[Classified]:
        """Predict each text's class or tags."""
        assert self.labeller is not None
        self._look_at(texts)
        lengths = self._lengths(texts)
        found = self.labeller.predict(texts)
        self._refuse_infinite(np.array([prediction.chance or 0.0 for prediction in found]))
        return [Classified(*each) for each in zip(found, lengths.tokens, lengths.is_cut, strict=True)]

    def chances(self, texts: list[str]) -> list[Chances]:
        """Compute the probability of each class for each text."""
        labeller = self.labeller
        assert labeller is not None
        lengths = self._lengths(texts)
        found = labeller.class_probabilities(texts)
        self._refuse_infinite(found)
        by_label = [dict(zip(labeller.labels, map(float, row), strict=True)) for row in found]
        return [Chances(*each) for each in zip(by_label, lengths.is_cut, strict=True)]

    def tokenize(self, texts: list[tuple[str, bool]]) -> list[list[Token]]:
        """Tokenize whole texts, each with or without special tokens."""
        found: list[list[Token]] = []
        for has_special, group in groupby(texts, key=itemgetter(1)):
            found += tokens_of(self.model, [text for text, _ in group], has_special=has_special)
        return found

    def token_pairs(self, pairs: list[tuple[str, str]]) -> list[TokenPairs]:
        """Compare the tokens of two texts, as ``tain inspect`` does.

        If the vector of a text is the mean of its token vectors, the cosine of two texts is a sum over pairs of tokens. Where it is not
        (another pooling, a correction inside an exported graph), the cosines of the token vectors are given instead.
        """
        return [self._paired(*pair) for pair in pairs]

    def _paired(self, left: str, right: str) -> TokenPairs:
        embedder: Any = self.embedder
        sides = [embedder.token_vectors(text) for text in (left, right)]
        vectors = unit_length(np.stack([side.text for side in sides]))
        is_sum = all(
            side.tokens.shape[1] == len(side.text) and float(unit_length(side.tokens.mean(axis=0)) @ vector) > _SAME_DIRECTION
            for side, vector in zip(sides, vectors, strict=True)
        )
        tokens = [side.tokens for side in sides]
        parts = token_pair_contributions(*tokens) if is_sum else unit_length(tokens[0]) @ unit_length(tokens[1]).T
        self._refuse_infinite(parts)
        of_left, of_right = tokens_of(embedder, [embedder.default_prompt + text for text in (left, right)], is_cut=True)
        return TokenPairs(float(vectors[0] @ vectors[1]), is_sum, of_left, of_right, parts, len(of_left) + len(of_right))

    def _lengths(self, texts: list[str], *, keeps: bool = False) -> Lengths:
        began_s = time.perf_counter()
        found = read_lengths(self.model, texts, keeps=keeps)
        self.tokenizing_s = time.perf_counter() - began_s
        return found

    def _ranked(self, asked: list[Query], lists: list[list[str]]) -> list[Scored]:
        assert self.ranker is not None
        queries = [query.text for query in asked]
        scores = self.ranker.score_lists(queries, lists)
        is_some_cut = bool(getattr(self.ranker, "truncated", 0))
        began_s = time.perf_counter()
        both = self.ranker.count_tokens(queries, lists)
        alone = self.ranker.count_tokens(queries, [[] for _ in queries])  # 0 for a cross-encoder, which reads it with each document
        if is_some_cut:
            query_cuts, document_cuts = cut_pairs(self.ranker, queries, lists)
        else:
            query_cuts, document_cuts = [False] * len(queries), [[False] * len(listed) for listed in lists]
        self.tokenizing_s = time.perf_counter() - began_s
        found = []
        for query, of_list, tokens, of_query, is_query_cut, cuts in zip(asked, scores, both, alone, query_cuts, document_cuts, strict=True):
            counts = [tokens - of_query] + [0] * (len(of_list) - 1)
            found += [
                Scored(float(score), count, of_query, is_cut, is_query_cut, query)
                for score, count, is_cut in zip(of_list, counts, cuts, strict=True)
            ]
        return found

    def _compared(self, asked: list[Query], lists: list[list[str]]) -> list[Scored]:
        """Score by cosine."""
        assert self.embedder is not None
        queries = [query.text for query in asked]
        flat = [text for listed in lists for text in listed]
        left = self.embedder.encode(queries, normalize=True, **self._prompted(QUERY))
        right = self.embedder.encode(flat, normalize=True, **self._prompted(DOCUMENT))
        owner = np.repeat(np.arange(len(queries)), [len(listed) for listed in lists])
        scores = (left[owner] * right).sum(axis=1)
        lengths = self._lengths([*queries, *flat])
        rows = zip(scores, owner, lengths.tokens[len(queries) :], lengths.is_cut[len(queries) :], strict=True)
        return [
            Scored(float(score), count, lengths.tokens[query], is_cut, lengths.is_cut[query], asked[query])
            for score, query, count, is_cut in rows
        ]

    def _prompted(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The argument of ``encode`` for the first prompt that the model has of these names."""
        prompt = first_of(self.prompts, names)
        return {} if prompt is None else {"prompt": prompt}

    def _refuse_infinite(self, numbers: np.ndarray) -> None:
        if not np.isfinite(numbers).all():
            raise NotFiniteError(f"model {self.name!r} computed values that are not finite: its weights are damaged")

    def _look_at(self, texts: list[str]) -> None:
        """Warn once if texts are mostly unknown to the tokenizer."""
        if not self._look.is_known or time.monotonic() < self._look.next_s or getattr(self.model, "tokenizer", None) is None:
            return
        self._look.next_s = time.monotonic() + _LOOK_S
        from tain.models.unknown_tokens import WARN_FROM, check_known

        self._look.is_known = check_known(self.model, texts, progress=self._progress, sample=_LOOKED_AT) < WARN_FROM


@contextmanager
def _cutting_starts(embedder: Any) -> Iterator[None]:
    """Let an encoder cut the start of long texts, instead of their end, inside the block.

    Raises:
        UserError: It cannot.
    """
    holder, name = (
        (embedder, "side") if isinstance(embedder, ExportedEncoder) else (getattr(embedder, "tokenizer", None), "truncation_side")
    )
    if not hasattr(holder, name):
        raise UserError(f"model {embedder.name!r} reads a text from its start only, so only its end can be cut: send truncate END or NONE")
    before = getattr(holder, name)
    setattr(holder, name, "left")
    try:
        yield
    finally:
        setattr(holder, name, before)


def _estimate(text: str) -> int:
    """Estimate a text's tokens from its length, at almost no cost."""
    return 2 + len(text) // (4 if text.isascii() else 2)


def load_served(name: str, model: str, *, normalize: bool | None = True, progress: Progress | None = None, **options: Any) -> Served:
    """Load a model of any kind from a folder or hub name; a student needs no torch.

    Args:
        name: Name in requests.
        model: A folder, a hub name, or ``tain-mini``.
        normalize: Scale vectors to length 1; None: the model's own setting.
        progress: See ``Served``.
        **options: ``device``, ``dtype``, ``backend`` and ``trust_remote_code``; of these a student takes ``backend`` alone.

    Raises:
        UserError: It does not exist, cannot be run, or needs the language of texts, which requests do not contain.
    """
    kind = kind_of_model(model)
    if kind == "student":
        student = load(model, backend=options.get("backend", "auto"))
        return Served(name, embedder=student, normalize=normalize) if student.task == "embed" else Served(name, labeller=student)
    loaded = load(model, **options)
    if kind == "ranker":
        return Served(name, ranker=loaded, progress=progress)
    if kind == "labeller":
        return Served(name, labeller=loaded, progress=progress)
    if getattr(loaded, "languages", None):
        raise UserError(
            f"model {model!r} is corrected per language, but requests name no language: serve the encoder that it was made from"
        )
    return Served(name, embedder=loaded, normalize=normalize, progress=progress)
