"""The model hub is asked once, briefly; without an answer everything comes from folders and the cache."""

import time
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import transformers

from tain.foundation.errors import UserError
from tain.models import hub
from tain.models.embedder import Embedder


class Hub:
    """Stands in for the client's session: counts requests, and answers with a status, an error or not at all."""

    def __init__(self, answer: int | Exception | None) -> None:
        self.answer, self.requests = answer, 0

    def head(self, url: str, *, timeout: float) -> Any:
        self.requests += 1
        if self.answer is None:
            time.sleep(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(status_code=self.answer)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    def answering(answer: int | Exception | None) -> Hub:
        found = Hub(answer)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.get_session", lambda: found)
        monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
        return found

    hub.is_reachable.cache_clear()
    yield answering
    hub.is_reachable.cache_clear()


@pytest.mark.parametrize(
    ("answer", "reachable"), [(200, True), (404, True), (307, True), (503, False), (ConnectionError("no route"), False), (None, False)]
)
def test_any_answer_but_a_servers_error_counts(answer: int | Exception | None, reachable: bool, asked):
    asked(answer)
    assert hub.is_reachable() == reachable


def test_a_hub_that_does_not_answer_is_asked_once(asked, monkeypatch: pytest.MonkeyPatch):
    found = asked(ConnectionError("no route"))
    given = []

    def from_cache(name: str, file: str, **options: Any) -> None:
        given.append(options["local_files_only"] and huggingface_hub.is_offline_mode())

    monkeypatch.setattr("transformers.utils.hub.cached_file", from_cache)
    for name in ("encodr", "encodr", "somebody/encodr"):
        with pytest.raises(UserError):
            Embedder.load(name)
    assert found.requests == 1
    assert given and all(given)
    assert not huggingface_hub.is_offline_mode()  # another library of this process may reach its own server


def test_while_a_model_is_loaded_without_the_hub_its_client_is_off(asked, bert_folder, monkeypatch: pytest.MonkeyPatch):
    asked(ConnectionError("no route"))
    seen: list[bool] = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModel"):
        loader = getattr(transformers, name)
        plain = loader.from_pretrained

        def watched(*given: Any, plain: Any = plain, **options: Any) -> Any:
            seen.append(huggingface_hub.is_offline_mode())
            return plain(*given, **options)

        monkeypatch.setattr(loader, "from_pretrained", watched)
    Embedder.load(bert_folder, pooling="mean")
    assert len(seen) >= 2 and all(seen)
    assert not huggingface_hub.is_offline_mode()


def test_a_name_without_a_slash_is_first_of_all_a_folder_that_is_not_there(asked):
    asked(ConnectionError("no route"))
    with pytest.raises(UserError, match=r"^there is no folder 'encodr' here, and no model of that name \(the hub cannot be reached"):
        Embedder.load("encodr")


def test_a_folder_is_loaded_without_a_word_to_the_hub(asked, bert_folder, monkeypatch: pytest.MonkeyPatch):
    found = asked(200)
    given: list[bool] = []
    plain = transformers.AutoConfig.from_pretrained

    def from_folder(path: Any, **options: Any) -> Any:
        given.append(options["local_files_only"])
        return plain(path, **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_folder)
    Embedder.load(bert_folder, device="cpu", dtype="float32")
    assert found.requests == 0
    assert given and all(given)
