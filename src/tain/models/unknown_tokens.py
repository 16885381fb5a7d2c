"""Check whether a tokenizer knows the script or language of the texts; unknown tokens make all texts look alike."""

from collections.abc import Sequence
from typing import Any

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.text.token_ids import bare_token_ids

WARN_FROM, REFUSE_FROM = 0.2, 0.8  # share of unknown tokens
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 512, 1000  # the beginning of each text


def unknown_share(tokenizer: Any, texts: Sequence[str], *, sample: int = _SAMPLE_TEXTS) -> float:
    """Share of unknown tokens, measured on up to ``sample`` evenly spaced texts.

    A text without tokens counts as one unknown token; blank texts do not count. Returns 0 if it cannot be determined.
    """
    step = max(1, len(texts) // sample)
    drawn = [str(text)[:_SAMPLE_CHARACTERS] for text in texts[::step] if str(text).strip()]
    unknown = tokenizer.unk_token_id
    found = total = 0
    for ids in _bare_ids(tokenizer, drawn):
        total += max(1, len(ids))
        found += 1 if not ids else 0 if unknown is None else sum(one == unknown for one in ids)
    return found / total if total else 0.0


def _bare_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if hasattr(tokenizer, "bare_ids"):  # that of an exported model, which several threads may use
        return tokenizer.bare_ids(texts)
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        return bare_token_ids(backend, texts)
    from tain.batches.tokenizing import bare_ids  # a tokenizer written in Python, which needs transformers

    return bare_ids(tokenizer, texts)


def check_known(model: Any, texts: Sequence[str], *, progress: Progress, is_training: bool = False, sample: int = _SAMPLE_TEXTS) -> float:
    """Warn about texts that are largely unknown to a model's tokenizer, and refuse to train on them from ``REFUSE_FROM`` on.

    Args:
        model: Has a ``tokenizer`` and a ``name``; without a tokenizer (a student, a ranker without towers) the check passes.
        texts: Texts the model will read.
        progress: Receives a warning from a share of ``WARN_FROM`` on.
        is_training: The texts are used for training.
        sample: Largest number of texts to check.

    Returns:
        The share.

    Raises:
        UserError: ``is_training``, and nearly all tokens are unknown.
    """
    tokenizer = getattr(model, "tokenizer", None) if getattr(model, "towers", True) else None
    if tokenizer is None:
        return 0.0
    share = unknown_share(tokenizer, texts, sample=sample)
    advice = "give a model for the language of the texts"
    if is_training and share >= REFUSE_FROM:
        raise UserError(
            f"the tokenizer of {model.name!r} does not know {share:.0%} of the texts' tokens, so nothing can be learned: {advice}"
        )
    if share >= WARN_FROM:
        progress.warn(
            f"the tokenizer of {model.name!r} does not know {share:.0%} of the texts' tokens, so different texts look alike: {advice}"
        )
    return share
