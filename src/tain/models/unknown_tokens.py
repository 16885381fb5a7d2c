"""The guard against texts in a script or language that a model's tokenizer does not know: they all look alike to the model."""

from collections.abc import Sequence
from typing import Any

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.text.token_ids import bare_token_ids

WARN_FROM, REFUSE_FROM = 0.2, 0.8  # shares of the texts' tokens
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 512, 1000  # of each text its beginning


def unknown_share(tokenizer: Any, texts: Sequence[str], *, sample: int = _SAMPLE_TEXTS) -> float:
    """Measure which share of the texts' tokens the tokenizer does not know, on up to ``sample`` texts drawn at equal distances.

    A text that becomes no token at all counts as one unknown token; blank texts do not count. 0 where nothing can be told.
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
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        return bare_token_ids(backend, texts)
    from tain.batches.tokenizing import bare_ids  # a tokenizer written in Python, which needs transformers

    return bare_ids(tokenizer, texts)


def check_known(model: Any, texts: Sequence[str], *, progress: Progress, is_training: bool = False, sample: int = _SAMPLE_TEXTS) -> float:
    """Warn of texts that a model's tokenizer largely does not know, and refuse to train on them from ``REFUSE_FROM`` on.

    Args:
        model: Has a ``tokenizer`` and a ``name``; one without (a student, a ranker without towers) knows all texts.
        texts: Those that the model is to read.
        progress: Told of a share from ``WARN_FROM`` on.
        is_training: Something is to be learnt of the texts.
        sample: Texts that are looked at, at most.

    Returns:
        The share.

    Raises:
        UserError: ``is_training``, and nearly all is unknown.
    """
    tokenizer = getattr(model, "tokenizer", None) if getattr(model, "towers", True) else None
    if tokenizer is None:
        return 0.0
    share = unknown_share(tokenizer, texts, sample=sample)
    advice = "give a model of the texts' language"
    if is_training and share >= REFUSE_FROM:
        raise UserError(
            f"the tokenizer of {model.name!r} does not know {share:.0%} of the texts' tokens, so nothing can be learnt: {advice}"
        )
    if share >= WARN_FROM:
        progress.warn(
            f"the tokenizer of {model.name!r} does not know {share:.0%} of the texts' tokens, so different texts look alike: {advice}"
        )
    return share
