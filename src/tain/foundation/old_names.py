"""Former names of settings, flags and suites, which still work in saved files and commands."""

from collections.abc import Mapping
from typing import TypeVar

from tain.foundation.errors import UserError

Value = TypeVar("Value")

# by command
SETTINGS: dict[str, dict[str, str]] = {
    "correct": {"most_texts": "max_texts"},
    "distil": {
        "hard_share": "label_weight",
        "skip": "mean_skip",
        "start": "init_from",
        "start_words": "init_words",
        "word_exchange": "word_replacement",
    },
    "export": {"data": "sts"},
    "mirror": {"erase_floor": "erase_min_chars", "keep_repeats": "keep_duplicates", "micro_tokens": "micro_batch_tokens"},
    "pretrain": {
        "clip_norm": "max_grad_norm",
        "cooccurrence_start": "cooccurrence_init",
        "embedding_rate": "embedding_learning_rate",
        "feed_forward": "intermediate_size",
        "least_tokens": "min_tokens",
        "matrix_rate": "matrix_learning_rate",
        "most_overlap": "max_overlap",
        "vocabulary": "vocab_size",
        "width": "hidden_size",
    },
    "rank": {
        "head_rate": "head_learning_rate",
        "micro_tokens": "micro_batch_tokens",
        "mined_from": "mining_pool",
        "teacher_share": "teacher_weight",
    },
}
SUITES = {"geometry": "label-free", "names": "entity-linking"}


def renamed(settings: Mapping[str, Value], *, of: str | None = None) -> dict[str, Value]:
    """Translate settings to their current names.

    Args:
        settings: Settings by old or new name.
        of: Command of the settings; default: any command, as in checkpoints.

    Raises:
        UserError: A setting is given under both names.
    """
    names = SETTINGS.get(of, {}) if of is not None else {old: new for each in SETTINGS.values() for old, new in each.items()}
    if twice := [f"{old} and {new}" for old, new in names.items() if old in settings and new in settings]:
        raise UserError(f"{', '.join(twice)} are the old and the new name of one setting: give the new one")
    return {names.get(name, name): value for name, value in settings.items()}
