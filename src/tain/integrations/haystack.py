"""Haystack components that embed texts and documents in this process."""

# pyright: reportMissingImports=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportInvalidTypeForm=false, reportArgumentType=false
# the framework is no dependency of tain, and pyright takes this file for it

from dataclasses import replace
from typing import Any

from tain.integrations.encoding import Encoding, missing

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing("haystack-ai", adapter="haystack") from error


class _Embedder:
    """Settings of both components; the model is loaded at the first use."""

    def __init__(self, model: str = "tain-mini", *, normalize: bool = True, options: dict[str, Any] | None = None) -> None:
        self.model, self.normalize, self.options = model, normalize, options
        self._encoding: Encoding | None = None

    def warm_up(self) -> None:
        """Load the model."""
        if self._encoding is None:
            self._encoding = Encoding(self.model, normalize=self.normalize, options=self.options)

    def to_dict(self) -> dict[str, Any]:
        """Settings for a saved pipeline."""
        return default_to_dict(self, model=self.model, normalize=self.normalize, options=self.options)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Make the component of a saved pipeline."""
        return default_from_dict(cls, data)

    def _loaded(self) -> Encoding:
        self.warm_up()
        assert self._encoding is not None
        return self._encoding


@component
class TainTextEmbedder(_Embedder):
    """Embed a query.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        normalize: Scale vectors to length 1.
        options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embed one text."""
        return {"embedding": self._loaded().queries([text])[0].tolist()}


@component
class TainDocumentEmbedder(_Embedder):
    """Embed documents; the given ones are unchanged.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        normalize: Scale vectors to length 1.
        options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed the content of each document."""
        texts = [document.content or "" for document in documents]
        vectors = self._loaded().documents(texts) if texts else []
        return {"documents": [replace(document, embedding=vector.tolist()) for document, vector in zip(documents, vectors, strict=True)]}
