"""LangChain embeddings that run in this process."""

# pyright: reportMissingImports=false
# the framework is no dependency of tain

from typing import Any

from tain.integrations.encoding import Encoding, missing

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing("langchain-core", adapter="langchain") from error


class TainEmbeddings(Embeddings):
    """LangChain ``Embeddings`` over any encoder that tain loads.

    Args:
        model: A folder, a hub name, ``tain-mini``, or a loaded encoder.
        normalize: Scale vectors to length 1, as most vector stores expect.
        **options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    def __init__(self, model: Any = "tain-mini", *, normalize: bool = True, **options: Any) -> None:
        self._encoding = Encoding(model, normalize=normalize, options=options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Encode documents."""
        return self._encoding.documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Encode a query."""
        return self._encoding.queries([text])[0].tolist()
