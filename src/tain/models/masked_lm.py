"""Masked language models by name: loading them, head and all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError
from tain.models.embedder import load_with_missing
from tain.models.saved import read_layout


@dataclass(frozen=True)
class LoadedMaskedLM:
    """A masked language model ready to go on.

    Attributes:
        model: Float32, in eval mode.
        tokenizer: Its tokenizer, which has a mask token.
        new_head: Parameters of the prediction head that the folder did not have, so that they are random; empty where it had all.
    """

    model: Any
    tokenizer: Any
    new_head: tuple[str, ...]


def load_masked_lm(name: str | Path, *, trust_remote_code: bool = False) -> LoadedMaskedLM:
    """Load a masked language model, or an encoder (bare, or a sentence-transformers folder) that gets a new head.

    Raises:
        UserError: There is no such model, its encoder's weights are not all there, its tokenizer has no mask token, or the two
            do not belong together.
    """
    model, tokenizer, missing = load_with_missing("AutoModelForMaskedLM", read_layout(name).path, trust_remote_code=trust_remote_code)
    refuse_without_mask(tokenizer, name)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"model {str(name)!r} has vectors for {rows:,} tokens, but its tokenizer knows {len(tokenizer):,}: "
            "give a folder whose model and tokenizer belong together"
        )
    return LoadedMaskedLM(model, tokenizer, tuple(sorted(missing)))


def refuse_without_mask(tokenizer: Any, name: str | Path) -> None:
    """Refuse a tokenizer that has no mask token.

    Raises:
        UserError: It has none.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of {str(name)!r} has no mask token: give a masked language model")
