"""Whether the model hub can be reached: asked once a process, briefly, since its client asks again for minutes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tain.foundation.errors import UserError

PATIENCE_S = 5.0
_BROKEN = 500  # HTTP status from which the hub's client asks again and again


@cache
def is_reachable() -> bool:
    """Tell whether the hub answers within ``PATIENCE_S`` seconds; False where it is switched off (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    answers: list[int] = []

    def ask() -> None:
        from huggingface_hub import get_session

        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PATIENCE_S).status_code)
        except Exception:  # whatever keeps a request from its answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # looking up a host's name heeds no timeout
    asking.start()
    asking.join(PATIENCE_S)
    return bool(answers) and answers[0] < _BROKEN


def is_local_only(path: str, *, trust_remote_code: bool = False) -> bool:
    """Tell whether a model's files are to be read from its folder or the hub's cache alone, without asking the hub."""
    if Path(path).is_dir() and not trust_remote_code:  # a folder's code may lie on the hub
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
    """The error for a name that is neither a folder here nor a model that the hub gives."""
    why = "the hub gives no config.json under that name" if is_reachable() else "the hub cannot be reached and its cache here holds none"
    if "/" not in name:
        return UserError(
            f"there is no folder {name!r} here, and no model of that name ({why}): give a model folder, a hub name or tain-mini"
        )
    return UserError(f"model {name!r} cannot be loaded ({why}): give a model folder, a hub name you can reach, or tain-mini")
