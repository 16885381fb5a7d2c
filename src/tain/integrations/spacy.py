"""spaCy pipe that sets ``doc.vector``, so that ``doc.similarity`` uses an encoder."""

# pyright: reportMissingImports=false
# the framework is no dependency of tain

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tain.integrations.encoding import Encoding, missing

try:
    from spacy.language import Language
    from spacy.tokens import Doc, Span
except ImportError as error:
    raise missing("spacy", adapter="spacy") from error


class TainVectors:
    """Pipe that gives each document, and on demand each span, the vector of its text.

    Add it with ``nlp.add_pipe("tain", config={"model": "encoder"})``, after ``import tain.integrations.spacy``.

    Args:
        nlp: The pipeline.
        name: Name of the pipe.
        model: A folder, a hub name, or ``tain-mini``.
        normalize: Scale vectors to length 1.
        options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    def __init__(self, nlp: Language, name: str, model: str, normalize: bool, options: dict[str, Any]) -> None:
        self.name = name
        self._encoding = Encoding(model, normalize=normalize, options=options)

    def __call__(self, doc: Doc) -> Doc:
        """Set the vector of one document."""
        self._set([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Set the vectors of many documents, in batches."""
        docs = iter(stream)
        while batch := list(islice(docs, batch_size)):
            self._set(batch)
            yield from batch

    def _set(self, docs: list[Doc]) -> None:
        written = [doc for doc in docs if doc.text.strip()]  # a blank text has no tokens and keeps spaCy's vector of zeros
        vectors = self._encoding.documents([doc.text for doc in written]) if written else []
        for doc, vector in zip(written, vectors, strict=True):
            doc.vector = vector
            doc.user_span_hooks["vector"] = self._of_span
            doc.user_hooks["similarity"] = doc.user_span_hooks["similarity"] = _similarity

    def _of_span(self, span: Span) -> Any:
        return self._encoding.documents([span.text])[0]


Language.factory(
    "tain",
    default_config={"model": "tain-mini", "normalize": True, "options": {}},
    # spaCy reads the names of the arguments, which a decorated class or function would hide
    func=lambda nlp, name, model, normalize, options: TainVectors(nlp, name, model, normalize, options),
)


def _similarity(left: Any, right: Any) -> float:
    from tain.foundation.vectors import cosine_similarities

    return float(cosine_similarities(left.vector, right.vector)[0, 0])
