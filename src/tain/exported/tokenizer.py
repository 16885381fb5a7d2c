"""The tokenizer of an exported folder, read from ``tokenizer.json`` without transformers."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError
from tain.text.cleaning import refuse_half_characters
from tain.text.token_ids import bare_token_ids, chunk_ids, token_ids
from tain.text.tokenizer_limits import refuse_wild_tokenizer


class FastTokenizer:
    """Token ids of texts, and of pairs of texts.

    Args:
        folder: Holds ``tokenizer.json``.
        unknown_id: The unknown token; None where the tokenizer has none.
        name: The model's name, for messages.

    Attributes:
        backend_tokenizer: Of the package tokenizers.
        unk_token_id: The unknown token.

    Raises:
        UserError: The file cannot be read, or ordinary texts take all time or memory.
    """

    def __init__(self, folder: Path, *, unknown_id: int | None, name: str) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        try:
            self.backend_tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model {name!r} has a tokenizer.json that cannot be read ({reason}): export the model again") from None
        refuse_wild_tokenizer(self.backend_tokenizer, name=name)
        self.unk_token_id = unknown_id
        self._turn = threading.Lock()  # the package keeps the length limit from one call to the next
        self._kept: tuple[Any, tuple[list[list[int]], list[bool]]] | None = None

    def ids(self, texts: Sequence[str], *, max_tokens: int, side: str = "right", keeps: bool = False) -> tuple[list[list[int]], list[bool]]:
        """As ``token_ids``. With ``keeps``, the next call with equal arguments returns the same ids, without tokenizing again."""
        asked = (list(texts), max_tokens, side)
        with self._turn:
            kept, self._kept = self._kept, None
            found = (
                kept[1]
                if kept is not None and kept[0] == asked
                else token_ids(self.backend_tokenizer, texts, max_tokens=max_tokens, side=side)
            )
            if keeps:
                self._kept = (asked, found)
        return found

    def chunks(self, texts: Sequence[str], *, max_tokens: int) -> list[list[list[int]]]:
        """As ``chunk_ids``."""
        with self._turn:
            return chunk_ids(self.backend_tokenizer, texts, max_tokens=max_tokens)

    def bare_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``bare_token_ids``."""
        with self._turn:
            return bare_token_ids(self.backend_tokenizer, texts)

    def pair_rows(self, pairs: Sequence[tuple[str, str]], *, max_tokens: int) -> tuple[list[tuple[list[int], list[int]]], int]:
        """Token ids and segments of pairs of texts; a pair that is too long loses tokens of its longer text first.

        Returns:
            The rows, and how many were cut.
        """
        backend = self.backend_tokenizer
        with self._turn:
            backend.enable_truncation(max_tokens, strategy="longest_first")
            backend.no_padding()
            try:
                encodings = backend.encode_batch(list(pairs))
            except TypeError:
                refuse_half_characters([text for pair in pairs for text in pair])
                raise
        return [(each.ids, each.type_ids) for each in encodings], sum(bool(each.overflowing) for each in encodings)
