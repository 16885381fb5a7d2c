"""Token ids of the pairs that a ranker is trained on."""

from dataclasses import dataclass

from tain.batches.tokenizing import tokenise
from tain.foundation.progress import Progress
from tain.models.rankers import Ranker
from tain.models.unknown_tokens import check_known
from tain.recipes.rank.data import RankingData, merge_same


@dataclass(frozen=True)
class TokenisedPairs:
    """Training pairs with their token ids.

    Attributes:
        data: The pairs; texts with equal tokens are merged, so that they are not each other's negatives.
        contexts: Token ids of each context.
        candidates: Token ids of each candidate.
        truncated: Number of cut texts.
    """

    data: RankingData
    contexts: list[list[int]]
    candidates: list[list[int]]
    truncated: int


def tokenise_pairs(data: RankingData, ranker: Ranker, *, progress: Progress) -> TokenisedPairs:
    """Tokenise contexts and candidates, and merge those with equal tokens.

    Raises:
        UserError: Most tokens are unknown to the model, or no context has a wrong candidate left.
    """
    sides = (("contexts", ranker.context, data.contexts), ("candidates", ranker.candidate, data.candidates))
    found = [tokenise(side.tokenizer, given, max_tokens=side.max_tokens) for _, side, given in sides]
    for _, side, given in sides:
        check_known(side, given, progress=progress, is_training=True)
    for (what, side, _), tokens in zip(sides, found, strict=True):
        if tokens.truncated:
            progress.warn(
                f"{tokens.truncated:,} of {len(tokens):,} {what} are longer than {side.max_tokens} tokens and were cut: "
                f"raise --{what[:-1]}-tokens to keep them whole"
            )
    contexts, candidates = found
    data, kept, alike = merge_same(data, contexts.ids, candidates.ids)
    if alike:
        progress.warn(
            f"{alike:,} contexts and candidates have the same tokens as others, so they count as the same; raise --context-tokens or "
            "--candidate-tokens if they differ further on"
        )
    return TokenisedPairs(data, contexts.ids, [candidates.ids[index] for index in kept], contexts.truncated + candidates.truncated)
