"""Read a model's input embedding table and tokenizer, without torch if the weights use a known tensor name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from tain.foundation.errors import UserError
from tain.models.saved import read_layout

# tensor names of the table in BERT-like models, ModernBERT and decoders; other models are loaded in full
_TABLE_NAMES = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight")
_NUMPY_TYPES = ("F64", "F32", "F16")


@dataclass(frozen=True)
class InputEmbeddings:
    """A model's input embedding table and its tokenizer.

    Attributes:
        table: One row per token id.
        tokenise: Turns texts into token ids, without special tokens and without a length limit.
    """

    table: Float32[np.ndarray, "tokens dim"]
    tokenise: Callable[[Sequence[str]], list[list[int]]]


def read_input_embeddings(name: str | Path, *, trust_remote_code: bool = False) -> InputEmbeddings:
    """Read the input embeddings of a transformers encoder, a sentence-transformers folder, a hub name, or ``tain-mini``.

    Raises:
        UserError: The model does not exist, is a student or a ranker, or has no input embedding table.
    """
    path = read_layout(name).path
    table, tokenizer = _stored_table(Path(path)), Path(path) / "tokenizer.json"
    if table is not None and tokenizer.is_file():
        return InputEmbeddings(table, _stored_tokenizer(tokenizer))
    return _loaded(path, name, trust_remote_code=trust_remote_code)


def _stored_table(folder: Path) -> Float32[np.ndarray, "tokens dim"] | None:
    """Read the table from ``model.safetensors``; None if no known tensor name matches, or numpy lacks its data type."""
    file = folder / "model.safetensors"
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as weights:
            named = [key for key in weights.keys() if key.endswith(_TABLE_NAMES)]  # noqa: SIM118 - no mapping
            if len(named) != 1 or weights.get_slice(named[0]).get_dtype() not in _NUMPY_TYPES:
                return None
            table = weights.get_tensor(named[0])
    except SafetensorError as error:
        raise UserError(f"model file {str(file)!r} cannot be read ({error}): save the model again") from None
    return np.asarray(table, dtype=np.float32) if table.ndim == 2 else None


def _stored_tokenizer(file: Path) -> Callable[[Sequence[str]], list[list[int]]]:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"model file {str(file)!r} is not a tokenizer ({error}): save the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokenise(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return tokenise


def _loaded(path: str, name: str | Path, *, trust_remote_code: bool) -> InputEmbeddings:
    from tain.models.embedder import load_pretrained

    model, tokenizer = load_pretrained("AutoModel", path, trust_remote_code=trust_remote_code)
    try:
        table = model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        raise UserError(f"model {str(name)!r} has no table of input embeddings, so it has no static vectors: give another model") from None

    def tokenise(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []

    return InputEmbeddings(table.detach().float().cpu().numpy(), tokenise)
