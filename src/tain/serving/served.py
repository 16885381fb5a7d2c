"""A loaded model under the name that requests call it by, whatever kind it is."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.runtime.student import Student, is_student
from tain.text.records import Prediction

if TYPE_CHECKING:
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller
    from tain.models.rankers import Ranker


_LOOKED_AT = 8  # texts of a batch


class Served:
    """One model and what it can do.

    Args:
        name: What requests call it.
        embedder: Gives vectors: an encoder or a student.
        ranker: Scores documents for a query. An embedder without one ranks by cosine.
        labeller: Tells classes or tags: a classifier, a tagger or a student.
        progress: Told once when texts come that the model's tokenizer largely does not know.
    """

    def __init__(
        self,
        name: str,
        *,
        embedder: "Embedder | Student | None" = None,
        ranker: "Ranker | None" = None,
        labeller: "Labeller | Student | None" = None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.embedder, self.ranker, self.labeller = embedder, ranker, labeller
        self._progress, self._is_script_known = progress or Progress.mute(), True

    @property
    def uses(self) -> tuple[str, ...]:
        """Endpoints that it answers."""
        if self.ranker is not None:
            return ("rerank",)
        return ("embeddings", "rerank") if self.embedder is not None else ("classify",)

    def embed(self, texts: list[str]) -> list[tuple[np.ndarray, int]]:
        """Each text's vector, float32 (dim,), and how many tokens were read of it."""
        assert self.embedder is not None
        self._look_at(texts)
        return list(zip(self.embedder.encode(texts), self.embedder.count_tokens(texts), strict=True))

    def rerank(self, lists: list[tuple[str, list[str]]]) -> list[tuple[np.ndarray, int]]:
        """Each query's scores of its documents, float32 (documents,), and how many tokens were read for them."""
        queries, documents = [query for query, _ in lists], [listed for _, listed in lists]
        self._look_at([*queries, *(listed[0] for listed in documents if listed)])
        if self.ranker is not None:
            return list(zip(self.ranker.score_lists(queries, documents), self.ranker.count_tokens(queries, documents), strict=True))
        assert self.embedder is not None
        flat = [text for listed in documents for text in listed]
        left, right = (self.embedder.encode(texts, normalise=True) for texts in (queries, flat))
        asked, found = self.embedder.count_tokens(queries), iter(self.embedder.count_tokens(flat))
        ends = np.cumsum([len(listed) for listed in documents])[:-1]
        scores = [rows @ query for rows, query in zip(np.split(right, ends), left, strict=True)]
        return [(one, count + sum(islice(found, len(one)))) for one, count in zip(scores, asked, strict=True)]

    def classify(self, texts: list[str]) -> Sequence[Prediction]:
        assert self.labeller is not None
        self._look_at(texts)
        return self.labeller.predict(texts)

    def _look_at(self, texts: list[str]) -> None:
        """Warn once of texts that the tokenizer largely does not know."""
        model = self.embedder or self.ranker or self.labeller
        if not self._is_script_known or getattr(model, "tokenizer", None) is None:
            return
        from tain.models.unknown_tokens import WARN_FROM, check_known

        self._is_script_known = check_known(model, texts, progress=self._progress, sample=_LOOKED_AT) < WARN_FROM


def load_served(name: str, model: str, *, progress: Progress | None = None, **options: Any) -> Served:
    """Load whatever a folder or hub name holds; a student needs no torch.

    Args:
        name: What requests call it.
        model: A folder, a hub name, or ``tain-mini``.
        progress: See ``Served``.
        **options: ``device``, ``dtype`` and ``trust_remote_code``; a student, which has them of its own, takes none.

    Raises:
        UserError: It is not there, cannot be run, or needs to be told what no request says.
    """
    if is_student(model):
        student = Student.load(model)
        return Served(name, embedder=student) if student.task == "embed" else Served(name, labeller=student)
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller, is_labeller
    from tain.models.loading import kind_of
    from tain.models.rankers import Ranker
    from tain.models.saved import locate, read_record

    if read_record(model).get("kind") == "ranker" or kind_of(locate(model)).head == "cross-encoder":
        return Served(name, ranker=Ranker.load(model, **options), progress=progress)
    if is_labeller(model):
        labeller = Labeller.load(model, device=options.get("device"), trust_remote_code=options["trust_remote_code"])
        return Served(name, labeller=labeller, progress=progress)
    embedder = Embedder.load(model, **options)
    if embedder.languages:
        raise UserError(f"model {model!r} is corrected by language, and requests name none: serve the encoder that it was made from")
    return Served(name, embedder=embedder, progress=progress)
