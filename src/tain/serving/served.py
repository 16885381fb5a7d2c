"""A loaded model of any kind under the name that requests use."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from tain.exported.choosing import runs_exported
from tain.exported.encoder import ExportedEncoder
from tain.exported.rankers import ExportedCross, ExportedDual, load_exported
from tain.foundation.errors import NotFiniteError, UserError
from tain.foundation.progress import Progress
from tain.models.saved import read_record
from tain.students.student import Student, is_student
from tain.text.records import Prediction

if TYPE_CHECKING:
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller
    from tain.models.rankers import Ranker

_UNLIMITED = 10**9


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
    """

    score: float
    document_tokens: int
    query_tokens: int


_LOOKED_AT = 8  # texts checked per batch


class Served:
    """One model with the functions that it supports.

    Args:
        name: Name in requests.
        embedder: Encoder or student that computes vectors.
        ranker: Ranker that scores documents for a query. Without one, an embedder ranks by cosine.
        labeller: Classifier, tagger or student that predicts classes or tags.
        progress: Warns once if texts are mostly unknown to the model's tokenizer.
        normalize: Scale vectors to length 1 in ``embed``; None: the model's own setting.
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
        self._progress, self._is_script_known = progress or Progress.mute(), True

    @property
    def uses(self) -> tuple[str, ...]:
        """The endpoints that it can answer."""
        if self.ranker is not None:
            return ("rerank",)
        return ("embeddings", "rerank") if self.embedder is not None else ("classify",)

    @property
    def is_normalised(self) -> bool:
        """Whether the vectors of ``embed`` have length 1."""
        return bool(getattr(self.embedder, "normalize", False) if self.normalize is None else self.normalize)

    def estimate_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimate the tokens read of each text from its length.

        Encoders, rankers and embedding students read texts up to their limit; classifiers and taggers tokenise whole texts.
        """
        limit = None if self.labeller is not None else self._max_tokens()
        return [min(_estimate(text), limit or _UNLIMITED) for text in texts]

    def estimate_pair_tokens(self, query: str, documents: Sequence[str]) -> list[int]:
        """Estimate the tokens read for each document of a rerank request; a cross-encoder reads the query with each document."""
        (of_query, *found) = self.estimate_tokens([query, *documents])
        if self.ranker is not None and self.ranker.type == "cross":
            return [of_query + tokens for tokens in found]
        return [of_query + found[0], *found[1:]]

    def embed(self, texts: list[str]) -> list[tuple[np.ndarray, int]]:
        """Return each text's vector, float32 (dim,), and its number of tokens read."""
        assert self.embedder is not None
        self._look_at(texts)
        vectors = self.embedder.encode(texts, normalize=self.normalize)
        self._refuse_infinite(vectors)
        return list(zip(vectors, self.embedder.count_tokens(texts), strict=True))

    def rerank(self, pairs: list[tuple[Query, str]]) -> list[Scored]:
        """Score pairs of a query and a document; consecutive pairs with the same query are computed together."""
        queries, lists = [], []
        for query, group in groupby(pairs, key=itemgetter(0)):
            queries.append(query.text)
            lists.append([document for _, document in group])
        self._look_at([*queries, *(listed[0] for listed in lists)])
        found = self._ranked(queries, lists) if self.ranker is not None else self._compared(queries, lists)
        self._refuse_infinite(np.array([one.score for one in found]))
        return found

    def classify(self, texts: list[str]) -> Sequence[Prediction]:
        """Predict each text's class or tags."""
        assert self.labeller is not None
        self._look_at(texts)
        found = self.labeller.predict(texts)
        self._refuse_infinite(np.array([prediction.chance or 0.0 for prediction in found]))
        return found

    def _ranked(self, queries: list[str], lists: list[list[str]]) -> list[Scored]:
        assert self.ranker is not None
        scores = self.ranker.score_lists(queries, lists)
        both = self.ranker.count_tokens(queries, lists)
        alone = self.ranker.count_tokens(queries, [[] for _ in queries])  # 0 for a cross-encoder, which reads it with each document
        found = []
        for of_list, tokens, of_query in zip(scores, both, alone, strict=True):
            counts = [tokens - of_query] + [0] * (len(of_list) - 1)
            found += [Scored(float(score), count, of_query) for score, count in zip(of_list, counts, strict=True)]
        return found

    def _compared(self, queries: list[str], lists: list[list[str]]) -> list[Scored]:
        """Score by cosine."""
        assert self.embedder is not None
        flat = [text for listed in lists for text in listed]
        left, right = (self.embedder.encode(texts, normalize=True) for texts in (queries, flat))
        owner = np.repeat(np.arange(len(queries)), [len(listed) for listed in lists])
        scores = (left[owner] * right).sum(axis=1)
        of_queries = self.embedder.count_tokens(queries)
        counts = self.embedder.count_tokens(flat)
        return [Scored(float(score), count, of_queries[query]) for score, count, query in zip(scores, counts, owner, strict=True)]

    def _max_tokens(self) -> int | None:
        if self.ranker is not None:
            return self.ranker.max_tokens
        return getattr(self.embedder, "max_tokens", None)

    def _refuse_infinite(self, numbers: np.ndarray) -> None:
        if not np.isfinite(numbers).all():
            raise NotFiniteError(f"model {self.name!r} computed values that are not finite: its weights are damaged")

    def _look_at(self, texts: list[str]) -> None:
        """Warn once if texts are mostly unknown to the tokenizer."""
        model = self.embedder or self.ranker or self.labeller
        if not self._is_script_known or getattr(model, "tokenizer", None) is None:
            return
        from tain.models.unknown_tokens import WARN_FROM, check_known

        self._is_script_known = check_known(model, texts, progress=self._progress, sample=_LOOKED_AT) < WARN_FROM


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
        **options: ``device``, ``dtype`` and ``trust_remote_code``; not used for students.

    Raises:
        UserError: It does not exist, cannot be run, or needs the language of texts, which requests do not contain.
    """
    if is_student(model):
        student = Student.load(model)
        return Served(name, embedder=student, normalize=normalize) if student.task == "embed" else Served(name, labeller=student)
    backend = options.pop("backend", "auto")
    if runs_exported(model, backend=backend, device=options.get("device"), dtype=options.get("dtype", "auto")):
        return _exported(name, model, dtype=options.get("dtype", "auto"), normalize=normalize, progress=progress)
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller, is_labeller
    from tain.models.loading import kind_of
    from tain.models.rankers import Ranker
    from tain.models.saved import locate

    if read_record(model).get("kind") == "ranker" or kind_of(locate(model)).head == "cross-encoder":
        return Served(name, ranker=Ranker.load(model, **options), progress=progress)
    if is_labeller(model):
        labeller = Labeller.load(model, device=options.get("device"), trust_remote_code=options["trust_remote_code"])
        return Served(name, labeller=labeller, progress=progress)
    embedder = Embedder.load(model, **options)
    if embedder.languages:
        raise UserError(
            f"model {model!r} is corrected per language, but requests name no language: serve the encoder that it was made from"
        )
    return Served(name, embedder=embedder, normalize=normalize, progress=progress)


def _exported(name: str, model: str, *, dtype: Any, normalize: bool | None, progress: Progress | None) -> Served:
    """Load exported graphs: a ranker where the folder holds one, else an encoder."""
    loaded = load_exported(model, dtype=dtype)
    if not isinstance(loaded, ExportedEncoder):
        return Served(name, ranker=loaded, progress=progress)
    return Served(name, embedder=loaded, normalize=normalize, progress=progress)
