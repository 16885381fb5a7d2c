"""Index training pairs of a ranker: correct, listed and other candidates of each context, and negative sampling."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tain.batches.same_texts import same_texts
from tain.foundation.errors import UserError
from tain.models.rankers import DualRanker
from tain.models.scanning import scan_best
from tain.recipes.rank.config import RankConfig
from tain.text.cleaning import drop_repeats, same_text_key
from tain.text.records import RankingExample

_MOST_DRAWS = 50  # attempts to sample a wrong candidate before searching all


@dataclass(frozen=True)
class RankingData:
    """Indexed training pairs and held-out examples.

    Attributes:
        contexts: Distinct contexts.
        candidates: Distinct candidates by ``same_text_key``: texts that only differ in case or whitespace are one.
        pairs: Context and correct candidate of each pair (pairs, 2).
        right: Correct candidates of each context.
        listed: Listed wrong candidates of each context.
        held: Held-out examples.
        texts: All candidates, including held-out ones, as written.
    """

    contexts: list[str]
    candidates: list[str]
    pairs: np.ndarray
    right: list[frozenset[int]]
    listed: list[tuple[int, ...]]
    held: list[RankingExample]
    texts: list[str]
    hard: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Hash of training and held-out pairs, sixteen hexadecimal digits."""
        content = [self.contexts, self.candidates, self.pairs.tolist(), self.listed, self.held]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()

    def draw_negatives(self, context: int, count: int, *, rng: np.random.Generator) -> list[int]:
        """Sample wrong candidates from the listed and mined ones, then from all others; distinct if possible."""
        near = tuple(dict.fromkeys((*self.listed[context], *(self.hard[context] if self.hard else ()))))
        drawn = [near[index] for index in rng.permutation(len(near))[:count]]
        for _ in range(_MOST_DRAWS * count):
            if len(drawn) == count:
                break
            one = int(rng.integers(len(self.candidates)))
            if one not in self.right[context] and one not in drawn:
                drawn.append(one)
        if len(drawn) == count:
            return drawn
        # few wrong candidates are left: search all
        left = [one for one in range(len(self.candidates)) if one not in self.right[context] and one not in drawn]
        drawn += [left[index] for index in rng.permutation(len(left))[: count - len(drawn)]]
        if not drawn:
            raise UserError(
                f"the context {self.contexts[context][:40]!r} has no wrong candidates to learn from: all {len(self.candidates):,} are correct "
                "for it; give pairs with other answers"
            )
        return drawn + [drawn[index] for index in rng.integers(len(drawn), size=count - len(drawn))]


def gather_data(examples: Sequence[RankingExample], config: RankConfig, *, validation: Sequence[RankingExample]) -> RankingData:
    """Hold out some contexts and index the rest.

    Args:
        examples: Contexts, correct answers and listed negatives.
        config: Sets the number of held-out contexts.
        validation: Held-out examples to use instead, if any.

    Raises:
        UserError: There are fewer than two pairs, or only one candidate.
    """
    if not examples:
        raise UserError("there are no pairs to train on: give at least 2")
    held: list[RankingExample] = list(validation)
    kept = list(examples)
    if not held and config.held_out:
        order = np.random.default_rng([config.seed, 1]).permutation(len(kept))
        count = min(config.held_out, len(kept) // 10)
        held = [kept[index] for index in order[:count]]
        kept = [kept[index] for index in sorted(order[count:])]
    number: dict[str, int] = {}
    texts: list[str] = []

    def numbered(text: str) -> int:
        key = same_text_key(text)
        if key not in number:
            number[key] = len(texts)
            texts.append(text)
        return number[key]

    right = [tuple(dict.fromkeys(numbered(answer) for answer in example.answers)) for example in kept]
    listed = [
        tuple(index for index in dict.fromkeys(numbered(text) for text in example.negatives) if index not in answers)
        for example, answers in zip(kept, right, strict=True)
    ]
    pairs = np.array([(context, answer) for context, answers in enumerate(right) for answer in answers], dtype=np.int64)
    if len(pairs) < 2 or len(texts) < 2:
        raise UserError(
            f"there are {len(pairs)} pairs with {len(texts)} different candidates to train on, but a correct answer needs others as negatives: give more pairs"
        )
    if all(len(answers) == len(texts) for answers in right):
        raise UserError(
            f"all {len(texts):,} candidates are correct for every context, so there is nothing to learn: give pairs with other answers"
        )
    everything = drop_repeats([*texts, *(text for example in held for text in (*example.answers, *example.negatives))]).texts
    return RankingData(
        [example.context for example in kept], texts, pairs, [frozenset(answers) for answers in right], listed, held, everything
    )


def merge_same(
    data: RankingData, context_ids: Sequence[Sequence[int]], candidate_ids: Sequence[Sequence[int]]
) -> tuple[RankingData, np.ndarray, int]:
    """Merge candidates with equal tokens, and let contexts with equal tokens share their correct answers.

    Args:
        data: Pairs to train on.
        context_ids: Token ids of each context after cutting.
        candidate_ids: Token ids of each candidate after cutting.

    Returns:
        The data with renumbered candidates; indices of the candidates that are kept; and the number of contexts and candidates that only
        differ from others beyond their tokens.

    Raises:
        UserError: No context has a wrong candidate left.
    """
    contexts, alike_contexts = same_texts(data.contexts, context_ids)
    candidates, alike_candidates = same_texts(data.candidates, candidate_ids)
    kept = np.flatnonzero(candidates == np.arange(len(candidates)))
    number = np.searchsorted(kept, candidates)  # index of each old candidate among the kept ones
    pairs = data.pairs.copy()
    pairs[:, 1] = number[pairs[:, 1]]
    shared: dict[int, set[int]] = {}
    for group, answers in zip(contexts.tolist(), data.right, strict=True):
        shared.setdefault(group, set()).update(number[sorted(answers)].tolist())
    right = [frozenset(shared[group]) for group in contexts.tolist()]
    listed = [
        tuple(one for one in dict.fromkeys(number[list(wrong)].tolist()) if one not in answers) if wrong else ()
        for wrong, answers in zip(data.listed, right, strict=True)
    ]
    if all(len(answers) == len(kept) for answers in right):
        raise UserError(
            f"contexts or candidates have the same tokens after cutting, so all {len(kept):,} different candidates are correct for every "
            "context: raise --context-tokens or --candidate-tokens, or give other pairs"
        )
    texts = [data.candidates[index] for index in kept]
    return replace(data, candidates=texts, pairs=pairs, right=right, listed=listed), kept, alike_contexts + alike_candidates


def mine_negatives(ranker: DualRanker, data: RankingData, *, count: int) -> list[tuple[int, ...]]:
    """Find each context's ``count`` best wrong candidates with a bi- or poly-encoder."""
    vectors = ranker.encode_candidates(data.candidates)
    max_right = max(map(len, data.right))
    found: list[tuple[int, ...]] = []
    for start, window in ranker.windows(data.contexts):
        asked = [window.of(index) for index in range(len(window))]
        for index, best in enumerate(scan_best(vectors, asked, k=count + max_right)):
            right = data.right[start + index]
            found.append(tuple(row for row in best.rows.tolist() if row not in right)[:count])
    return found
