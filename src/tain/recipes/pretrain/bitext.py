"""Translation ranking as a second task of CMLM pretraining: find each sentence's translation in the batch (Yang et al. 2021)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tain.batches.order import ShuffledOrder
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import tokenise
from tain.batches.types import PackedTexts
from tain.foundation.errors import UserError
from tain.recipes.pretrain.config import PretrainConfig
from tain.text.cleaning import same_text_key
from tain.text.lines import is_blank
from tain.text.readers import read_rows

_MOST_HELD_OUT = 500
_BATCH_TOKENS = 4096
_SAME_COSINE = 1e-6  # smaller differences are rounding errors and count as ties


def read_translations(path: Path) -> tuple[list[tuple[str, str]], int]:
    """Read pairs of translations from a table of two columns.

    A pair is left out if an earlier pair has the same text on the same side: within a step, its other translation would be a correct
    answer that counts as wrong.

    Returns:
        The pairs in order, and the number of pairs left out, including blank ones.

    Raises:
        UserError: The table does not have two columns.
    """
    header, rows = read_rows(path)
    if len(header) != 2:
        raise UserError(
            f"bitext {str(path)!r} has {len(header)} columns ({', '.join(header)}), but translations come in pairs: give a table of two columns, "
            "one per language"
        )
    pairs: list[tuple[str, str]] = []
    seen: tuple[set[str], set[str]] = set(), set()
    left_out = 0
    for row in rows:
        pair = (str(row[header[0]] or ""), str(row[header[1]] or ""))
        keys = [same_text_key(side) for side in pair]
        if not any(map(is_blank, pair)) and not any(key in known for key, known in zip(keys, seen, strict=True)):
            pairs.append(pair)
            for key, known in zip(keys, seen, strict=True):
                known.add(key)
        else:
            left_out += 1
    return pairs, left_out


class Translations:
    """Training and held-out pairs of translations; a tenth (500 at most) is held out.

    Attributes:
        facts: How many pairs are trained on, held out and left out.
        step_tokens: Tokens of both sides of a step's pairs, on average.

    Args:
        path: A table of two columns.
        tokenizer: Texts are cut at ``config.block_tokens``.
        config: ``bitext_pairs`` pairs per step; the seed fixes their order and the held-out pairs.

    Raises:
        UserError: The table is not one of pairs, or has too few.
    """

    def __init__(self, path: Path, tokenizer: Any, config: PretrainConfig) -> None:
        pairs, left_out = read_translations(path)
        held = min(_MOST_HELD_OUT, len(pairs) // 10)
        if len(pairs) - held < config.bitext_pairs:
            raise UserError(
                f"bitext {str(path)!r} has {len(pairs):,} different pairs, {held:,} of them held out, fewer than the {config.bitext_pairs} of a "
                "step: give more, or a smaller --bitext-pairs"
            )
        indices = np.random.default_rng([config.seed, 21]).permutation(len(pairs)).tolist()
        sides = [tokenise(tokenizer, [pair[side] for pair in pairs], max_tokens=config.block_tokens).ids for side in (0, 1)]
        self._held = [(sides[0][index], sides[1][index]) for index in indices[:held]]
        self._pairs = [(sides[0][index], sides[1][index]) for index in indices[held:]]
        self._order = ShuffledOrder(len(self._pairs), batch_texts=config.bitext_pairs, seed=config.seed)
        self.facts = {"pairs": len(self._pairs), "held_out": held, "left_out": left_out}
        mean = sum(len(left) + len(right) for left, right in self._pairs) / len(self._pairs)
        self.step_tokens = config.bitext_pairs * mean

    def batch(self, step: int, share: slice = slice(None)) -> PackedTexts:
        """Pack the step's pairs, or a share of them: all left texts, then all right ones in the same order."""
        chosen = [self._pairs[index] for index in self._order.batch(step)[share].tolist()]
        return pack([side[number] for number in (0, 1) for side in chosen])

    @torch.no_grad()
    def accuracy(self, encode: Callable[[PackedTexts], Float[Tensor, "texts dim"]]) -> float | None:
        """Share of held-out texts that have their translation as nearest text by cosine; the mean of both directions.

        Args:
            encode: Gives the texts' vectors, in eval mode.

        Returns:
            0 to 1, with ties by expectation. None with fewer than two held-out pairs.
        """
        if len(self._held) < 2:
            return None
        left, right = (F.normalize(self._vectors([pair[side] for pair in self._held], encode).double(), dim=1) for side in (0, 1))
        cosines = left @ right.T
        shares = []
        for scores in (cosines, cosines.T):
            is_first = scores >= scores.amax(dim=1, keepdim=True) - _SAME_COSINE
            shares.append((is_first.diagonal() / is_first.sum(1)).mean())
        return float(torch.stack(shares).mean())

    def _vectors(self, texts: list[list[int]], encode: Callable[[PackedTexts], Tensor]) -> Tensor:
        batches = list(batches_by_tokens([len(text) for text in texts], batch_tokens=_BATCH_TOKENS))
        found = torch.cat([encode(pack([texts[index] for index in batch])).float().cpu() for batch in batches])
        return found[torch.tensor([index for batch in batches for index in batch]).argsort()]
