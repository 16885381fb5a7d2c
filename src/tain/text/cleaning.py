"""Text identity (``same_text_key``) and removal of duplicates."""

import unicodedata
from collections.abc import Iterable

from tain.foundation.errors import UserError
from tain.text.records import Deduplicated, RankingExample


def same_text_key(text: str) -> str:
    """Map texts that a reader would consider equal to the same key, which defines "the same text" everywhere in tain.

    Ignores compatibility forms, case and white space (Unicode NFKC, full case folding, runs of white space as one
    blank, none at the ends), but not accents and punctuation. The function is idempotent.
    """
    if text.isascii():  # nine of ten English texts, and ASCII has no compatibility forms
        return " ".join(text.lower().split())
    # folding may undo a composed form, and composing may restore a capital, so both are applied twice
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split())


def drop_repeats(texts: Iterable[str]) -> Deduplicated:
    """Keep the first occurrence of texts with equal ``same_text_key``, unchanged and in order.

    Repeats in a batch would push a text away from itself. Mirror-BERT's own sentence file repeats 719 of its 10,000 lines.
    """
    first_of: dict[str, str] = {}
    count = 0
    for text in texts:
        count += 1
        first_of.setdefault(same_text_key(text), text)
    return Deduplicated(texts=list(first_of.values()), dropped=count - len(first_of))


def lists_others(example: RankingExample) -> bool:
    """Whether an example lists a text other than its correct answers, by ``same_text_key``."""
    right = {same_text_key(answer) for answer in example.answers}
    return any(same_text_key(text) not in right for text in example.negatives)


def refuse_half_characters(texts: Iterable[str]) -> None:
    """Refuse lone surrogates, which tokenizers do not accept.

    Raises:
        UserError: A text contains one.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"the text {text!r:.60} holds half a character (a lone surrogate), which is not valid Unicode: fix or remove it"
            ) from None
