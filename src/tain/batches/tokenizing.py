"""Texts to token ids, with the cut ones counted."""

from collections.abc import Sequence
from typing import Any

from tain.batches.types import TokenisedTexts
from tain.foundation.errors import UserError


def tokenise(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> TokenisedTexts:
    """Turn texts into token ids with the special tokens the model expects.

    Args:
        tokenizer: A transformers tokenizer.
        texts: Any number of texts.
        max_tokens: Longer texts are cut at this length, special tokens included.

    Returns:
        The ids, in order, and how many texts were cut.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        encoded = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        truncated = sum(len(ids) > max_tokens for ids in encoded)
        if truncated:
            encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        return TokenisedTexts(encoded, truncated)
    # the wrapper around this backend spends more time on Python objects than the tokenising takes
    backend.enable_truncation(max_tokens, direction=tokenizer.truncation_side)
    backend.no_padding()
    encodings = backend.encode_batch(list(texts))
    return TokenisedTexts([encoding.ids for encoding in encodings], sum(bool(encoding.overflowing) for encoding in encodings))


def mask_token(tokenizer: Any) -> str:
    """The tokenizer's own mask token.

    Raises:
        UserError: The tokenizer has none, so its model is no masked language model.
    """
    token = getattr(tokenizer, "mask_token", None)
    if token is None:
        raise UserError(
            "the tokenizer has no mask token, so texts cannot be span-masked: give a masked language model, or --erased-chars 0"
        )
    return str(token)
