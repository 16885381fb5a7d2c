"""LlamaIndex embeddings that run in this process."""

# pyright: reportMissingImports=false
# the framework is no dependency of tain

from typing import Any

from tain.integrations.encoding import Encoding, missing

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
except ImportError as error:
    raise missing("llama-index-core", adapter="llama_index") from error


class TainEmbedding(BaseEmbedding):
    """LlamaIndex embedding model over any encoder that tain loads.

    Args:
        model: A folder, a hub name, ``tain-mini``, or a loaded encoder.
        normalize: Scale vectors to length 1.
        options: As ``tain.load`` takes them: ``device``, ``dtype``.
        **fields: Fields of LlamaIndex's ``BaseEmbedding``, such as ``embed_batch_size``.
    """

    _encoding: Encoding = PrivateAttr()

    def __init__(self, model: Any = "tain-mini", *, normalize: bool = True, options: dict[str, Any] | None = None, **fields: Any) -> None:
        encoding = Encoding(model, normalize=normalize, options=options)
        super().__init__(**{"model_name": str(getattr(encoding.encoder, "name", model)), **fields})
        self._encoding = encoding

    @classmethod
    def class_name(cls) -> str:
        return "TainEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoding.queries([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encoding.documents([text])[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoding.documents(texts).tolist()
