"""Check once per process, with a short timeout, whether the model hub can be reached; its client would retry for minutes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tain.foundation.errors import UserError

PATIENCE_S = 5.0
_BROKEN = 500  # HTTP status from which the hub's client retries


@cache
def is_reachable() -> bool:
    """Whether the hub answers within ``PATIENCE_S`` seconds; False if it is disabled (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    answers: list[int] = []

    def ask() -> None:
        from huggingface_hub import get_session

        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PATIENCE_S).status_code)
        except Exception:  # any failure of the request
            return

    asking = threading.Thread(target=ask, daemon=True)  # a host name lookup ignores timeouts
    asking.start()
    asking.join(PATIENCE_S)
    return bool(answers) and answers[0] < _BROKEN


def is_local_only(path: str, *, trust_remote_code: bool = False) -> bool:
    """Whether to read a model only from its folder or the hub's cache, without asking the hub."""
    if Path(path).is_dir() and not trust_remote_code:  # a folder's code may be stored on the hub
        return True
    return not is_reachable()


@contextmanager
def client_off(path: str, *, trust_remote_code: bool = False) -> Iterator[bool]:
    """Switch the hub's client off inside the block where ``is_local_only``; gives whether that is so.

    ``local_files_only`` is not enough: the client also asks the hub for other things, such as a list of agents for its headers.
    """
    from huggingface_hub import constants

    is_off = is_local_only(path, trust_remote_code=trust_remote_code)
    was_off = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_off or is_off
    try:
        yield is_off
    finally:
        constants.HF_HUB_OFFLINE = was_off


def not_found(name: str) -> UserError:
    """Error for a name that is neither a local folder nor a model on the hub."""
    why = (
        "the hub has no config.json under that name"
        if is_reachable()
        else "the hub cannot be reached and its local cache has no such model"
    )
    if "/" not in name:
        return UserError(
            f"there is no folder {name!r} here, and no model of that name ({why}): give a model folder, a hub name or tain-mini"
        )
    return UserError(f"model {name!r} cannot be loaded ({why}): give a model folder, a hub name you can reach, or tain-mini")
