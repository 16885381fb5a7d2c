"""API keys: reading them, and comparing them in constant time."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from tain.foundation.errors import UserError

MOST_KEYS = 1000  # each request is compared with every key


class ApiKeys:
    """The keys that open a server. With none, every request is let in.

    Args:
        keys: The keys; printable ASCII without spaces.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # digests have one length, so that the time to compare tells nothing about a key, not even its length
        self._digests = tuple(dict.fromkeys(hashlib.sha256(key.encode()).digest() for key in keys))

    def __len__(self) -> int:
        return len(self._digests)

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries one of the keys, as ``Authorization: Bearer KEY``.

        Args:
            headers: The request's headers; names in lower case.
        """
        if not self._digests:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        is_known = False
        for each in self._digests:  # all of them: stopping at the first match would tell which one it was
            is_known |= hmac.compare_digest(digest, each)
        return is_known and kind.lower() == "bearer"


def read_keys(file: Path) -> list[str]:
    """Read a file of API keys, one per line; empty lines and lines that start with ``#`` are skipped.

    Raises:
        UserError: It cannot be read, holds no key, too many, or one that HTTP headers cannot carry.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"api_keys is {str(file)!r}, which cannot be read ({reason}): give a file with one key per line") from None
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    keys = [(number, key) for number, key in found if key and not key.startswith("#")]
    for number, key in keys:
        refuse_unsendable(key, f"line {number} of {str(file)!r}")
    if not 1 <= len(keys) <= MOST_KEYS:
        raise UserError(f"api_keys is {str(file)!r}, which has {len(keys):,} keys: give a file with 1 to {MOST_KEYS:,}, one per line")
    return [key for _, key in keys]


def refuse_unsendable(key: str, where: str) -> None:
    """Refuse a key that HTTP headers cannot carry.

    Raises:
        UserError: It is not printable ASCII without spaces.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where} holds characters that HTTP headers cannot carry: use printable ASCII without spaces")
