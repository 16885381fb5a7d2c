"""Upload a saved model to the hub with a complete card."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tain.foundation.choices import BUILT_IN
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_link
from tain.foundation.progress import Progress
from tain.models.saved import locate, read_record
from tain.publishing.card import completed_card

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_PRIVATE_TEXT = (".json", ".md", ".html", ".txt", ".toml", ".csv")  # in which local paths are shortened
_MOST_TEXT_BYTES = 20_000_000
_MINI_LICENSE, _MINI_LANGUAGE = "cc-by-sa-3.0", "en"


@dataclass(frozen=True)
class Pushed:
    """An uploaded model.

    Attributes:
        repo: Name on the hub.
        url: Its page.
        commit: Identifier of the new commit.
        files: Uploaded files by path, with their sizes in bytes.
        card: The uploaded README.md.
    """

    repo: str
    url: str
    commit: str
    files: dict[str, int]
    card: str


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    languages: Sequence[str] = (),
    base_model: str | None = None,
    evaluation: str | Path | Mapping[str, Any] | None = None,
    message: str = "Upload with tain",
    progress: Progress | bool | None = None,
) -> Pushed:
    """Upload a saved model to the hub as one commit, with a complete card.

    The token comes from the environment (``HF_TOKEN``) or the hub's own login. Paths of this machine in the card and in JSON files are
    shortened to their last part.

    Args:
        folder: The model's folder.
        repo: ``user/name``; created if it does not exist.
        private: Create a private repository. An existing public one is refused.
        license: Identifier of the licence (``apache-2.0``); default: that of the base model, if the hub states one.
        languages: Language codes of the texts.
        base_model: Name of the base model on the hub; default: the recorded one, if the hub has it.
        evaluation: A report of ``tain evaluate -o``, or its content, for the card's results.
        message: Message of the commit.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.

    Raises:
        UserError: The folder is no model, there is no token, or the hub refuses.

    Examples:
        >>> import tain
        >>> pushed = tain.push("encoder", "ada/sentences", license="apache-2.0", languages=["en"])  # doctest: +SKIP
        >>> pushed.url  # doctest: +SKIP
        'https://huggingface.co/ada/sentences'
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    progress = Progress.resolve(progress)
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist: give a model folder that tain or sentence-transformers wrote")
    if not _NAME.fullmatch(repo):
        raise UserError(f"the name is {repo!r}: give user/name, for example ada/sentences-mirrored")
    locate(folder)
    record = read_record(folder)
    files = list(_files(folder))
    report = _report(evaluation)
    if constants.is_offline_mode():
        raise UserError("the hub is switched off by HF_HUB_OFFLINE: unset it to upload")
    token = get_token()
    if not token:
        raise UserError("there is no token for the hub: set HF_TOKEN, or run hf auth login")
    api = HfApi(token=token, library_name="tain")
    with _in_one_line(token, repo):
        _refuse_public(api, repo, private=private)
        base = base_model or _recorded_base(api, record)
        license = license or _license_of(api, base, record)
        if license is None:
            progress.warn("the card states no licence, because the base model's is unknown: give --license")
        if not languages and _is_from_mini(record):
            languages = (_MINI_LANGUAGE,)
        card = completed_card(
            _text_of(folder / "README.md", record),
            repo=repo,
            record=record,
            is_sentence_transformers=(folder / "modules.json").is_file(),
            base_model=base,
            license=license,
            languages=languages,
            evaluation=report,
            folder_name=folder.name,
        )
        operations = [CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode())]
        for path in files:
            name = path.relative_to(folder).as_posix()
            if name != "README.md":
                content: Any = str(path)
                if path.suffix.lower() in _PRIVATE_TEXT and path.stat().st_size <= _MOST_TEXT_BYTES:
                    content = _text_of(path, record).encode()
                operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content))
        sizes = {operation.path_in_repo: operation.upload_info.size for operation in operations}
        progress.note(f"uploading {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB")
        url = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message=message)
    return Pushed(repo, str(url), commit.oid, sizes, card)


def _files(folder: Path) -> Iterator[Path]:
    """All files of a model's folder, without hidden ones.

    Raises:
        UserError: There is a link or a pickle among them.
    """
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts):
            continue
        refuse_link(path)
        if path.is_file():
            if path.suffix.lower() in _PICKLES:
                raise UserError(
                    f"{str(path)!r} is a pickle, which can run any code when loaded: remove it, or save the model as safetensors"
                )
            yield path


def _report(evaluation: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if evaluation is None or isinstance(evaluation, Mapping):
        return evaluation
    try:
        content = json.loads(Path(evaluation).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"evaluation {str(evaluation)!r} cannot be read ({error}): give the file that tain evaluate -o wrote") from None
    if not isinstance(content, Mapping) or "suites" not in content:
        raise UserError(f"evaluation {str(evaluation)!r} is not a report of tain evaluate: give the file that tain evaluate -o wrote")
    return content


def _text_of(path: Path, record: Mapping[str, Any]) -> str:
    """A text file's content with paths of this machine shortened to their last part; empty if it does not exist."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    for local in sorted(set(_local_paths(record)), key=len, reverse=True):
        short = re.split(r"[\\/]", local.rstrip("\\/"))[-1]
        for spelled in {local, json.dumps(local)[1:-1]}:
            text = text.replace(spelled, short)
    return text


def _local_paths(value: Any) -> Iterator[str]:
    """All texts of a record that are paths of this machine: absolute ones, and relative ones with a folder that exist."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _local_paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _local_paths(inner)
    elif isinstance(value, str) and "\n" not in value and _is_local(value):
        yield value


def _is_local(name: str) -> bool:
    is_absolute = name.startswith(("/", "~/", "./", "../")) or re.match(r"[A-Za-z]:[\\/]", name) is not None
    return (is_absolute and len(name) > 2) or ("/" in name and len(name) < 4096 and Path(name).exists())


def _is_from_mini(record: Mapping[str, Any]) -> bool:
    return str(record.get("base_model")) in BUILT_IN


def _refuse_public(api: Any, repo: str, *, private: bool) -> None:
    """Refuse a private upload into an existing public repository.

    Raises:
        UserError: It is public.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    if not private:
        return
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return
    if not info.private:
        raise UserError(f"{repo!r} already exists and is public: make it private on the hub first, or leave --private out")


def _recorded_base(api: Any, record: Mapping[str, Any]) -> str | None:
    """The recorded base model's name, if the hub has a model of that name."""
    name = str(record.get("base_model") or "")
    if not name or name in BUILT_IN or _is_local(name) or Path(name).exists() or not _HUB_NAME.fullmatch(name):
        return None
    return name if api.repo_exists(name) else None


def _license_of(api: Any, base: str | None, record: Mapping[str, Any]) -> str | None:
    if _is_from_mini(record):
        return _MINI_LICENSE
    if base is None:
        return None
    card = api.model_info(base).card_data
    found = None if card is None else card.get("license")
    return str(found) if found else None


@contextmanager
def _in_one_line(token: str, repo: str) -> Iterator[None]:
    """Convert errors of the hub's client to a one-line ``UserError`` without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = {401: "check the token in HF_TOKEN", 403: "give a token with write access, and a name that is yours"}.get(
            status, "try again later"
        )
        said = error.server_message or " ".join(str(error).split())
        raise UserError(f"the hub refused {repo!r} ({status}: {said})".replace(token, "***") + f": {advice}") from None
    except (OSError, ValueError) as error:  # no connection, or metadata that the hub does not accept
        raise UserError(f"{repo!r} could not be uploaded ({' '.join(str(error).split())})".replace(token, "***")) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests"):
            raise
        raise UserError(f"the hub cannot be reached ({type(error).__name__}): check the network, or HF_ENDPOINT") from None
