"""mteb adapters: evaluate encoders, students and rankers on the tasks of mteb."""

# pyright: reportMissingImports=false
# the framework is no dependency of tain

from pathlib import Path
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.integrations.encoding import Encoding, missing

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise missing("mteb", adapter="mteb") from error


class MtebEncoder(AbsEncoder):
    """An encoder or student as a model for ``mteb.evaluate``.

    Args:
        model: A folder, a hub name, ``tain-mini``, or a loaded encoder.
        name: Name in mteb's results, ``organization/name``; default: ``tain/`` and the last part of the model's name.
        **options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    def __init__(self, model: Any, revision: str | None = None, *, name: str | None = None, **options: Any) -> None:
        self._encoding = Encoding(model, normalize=True, options=options)
        self.model = self._encoding.encoder
        self.mteb_model_meta = _meta(name or _name_of(self.model, model), revision, dim=int(self.model.dim))

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Encode mteb's batches of texts: float32 (texts, dim)."""
        texts = _texts(inputs)
        return self._encoding.queries(texts) if prompt_type == PromptType.query else self._encoding.documents(texts)


class MtebRanker:
    """A ranker as a cross-encoder for ``mteb.evaluate``: it scores pairs of a query and a document.

    Args:
        model: A folder, a hub name, or a loaded ranker.
        name: Name in mteb's results, ``organization/name``; default: ``tain/`` and the last part of the model's name.
        **options: As ``tain.load`` takes them: ``device``, ``dtype``.
    """

    def __init__(
        self, model: Any, revision: str | None = None, device: str | None = None, *, name: str | None = None, **options: Any
    ) -> None:
        from tain.api import load

        self.model = load(model, device=device, **options) if isinstance(model, str | Path) else model
        if not hasattr(self.model, "score_lists"):
            raise UserError(f"model {str(model)!r} is a {type(self.model).__name__}, not a ranker: use MtebEncoder")
        self.mteb_model_meta = _meta(name or _name_of(self.model, model), revision, dim=None, model_type="cross-encoder")

    def predict(
        self, inputs1: Any, inputs2: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Score corresponding queries and documents: (pairs,)."""
        queries, documents = _texts(inputs1), _texts(inputs2)
        of_query: dict[str, list[int]] = {}
        for row, query in enumerate(queries):
            of_query.setdefault(query, []).append(row)
        scores = np.empty(len(queries), dtype=np.float32)
        lists = [[documents[row] for row in rows] for rows in of_query.values()]
        for rows, found in zip(of_query.values(), self.model.score_lists(list(of_query), lists), strict=True):
            scores[rows] = np.asarray(found)
        return scores


def _texts(batches: Any) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _name_of(loaded: Any, model: Any) -> str:
    name = str(getattr(loaded, "name", model)).rstrip("/").rpartition("/")[2]
    return f"tain/{name}"


def _meta(name: str, revision: str | None, *, dim: int | None, model_type: str = "dense") -> ModelMeta:
    if name.count("/") != 1:
        raise UserError(f"name is {name!r}: mteb wants organization/name")
    known = {"name": name, "revision": revision or "local", "embed_dim": dim, "model_type": [model_type]}
    known["similarity_fn_name"] = ScoringFunction.COSINE
    return ModelMeta.create_empty(overwrites=known)
