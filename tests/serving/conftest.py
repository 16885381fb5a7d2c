"""A server on this machine, models that it serves, and embedders that wait."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from http_client import Client, Stuck

from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker
from tain.recipes.distil.recipe import distil
from tain.recipes.export.recipe import export
from tain.serving.app import build_app
from tain.serving.served import load_served
from tain.serving.server import GRACE_S, Server
from tain.serving.service import Limits
from tain.text.records import Example

OPTIONS = {"device": "cpu", "dtype": "float32", "trust_remote_code": False}
SMALL = {"features": 64, "bottleneck": 16, "state": 12, "layers": 1, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def serve():
    """Start a server around models; stops with the module."""
    running = []

    def start(served, *, api_key=None, cors_origins=(), log=None, grace_s=GRACE_S, loading=(), **limits):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        keys = [api_key] if isinstance(api_key, str) else api_key or []
        app = build_app(served, api_keys=keys, limits=Limits(**limits), cors_origins=cors_origins, log=log, loading=loading)
        server = Server(app, grace_s=grace_s, log_level="critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, listener))
        return Client(listener.getsockname()[1], server)

    yield start
    for server, thread, listener in running:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def folders(bert_folder, sentences, save_labeller, tmp_path_factory):
    """A model of each kind by its name in requests. Shared: read only."""
    index = tmp_path_factory.mktemp("served")
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    cross = CrossRanker.start(embedder, context_tokens=12, candidate_tokens=12, generator=torch.Generator().manual_seed(1))
    (index / "cross").mkdir()
    cross.save(index / "cross", record={"base_model": "tiny"}, card="a card")
    distil(bert_folder, sentences, index / "student", **SMALL)
    examples = [Example(f"go to {city}", "go", ("O", "O", "B-city")) for city in "abcdefghijkl"]
    distil("none", examples, index / "tagger", task="tag", **SMALL)
    export(bert_folder, index / "exported", texts=sentences, int8=False)
    return {
        "encoder": bert_folder,
        "exported": index / "exported",
        "cross": index / "cross",
        "student": index / "student",
        "tagger": index / "tagger",
        "classifier": save_labeller("SequenceClassification", ["no", "maybe", "yes"]),
    }


@pytest.fixture(scope="session")
def load_model(folders):
    """Load one of ``folders`` under its name."""

    def load(name):
        options = {**OPTIONS, "dtype": "auto", "device": None} if name == "exported" else OPTIONS
        return load_served(name, str(folders[name]), **options)

    return load


@pytest.fixture
def stuck():
    """An embedder that waits until it may compute."""
    made = Stuck()
    yield made
    made.is_let.set()


@pytest.fixture
def free():
    """An embedder that computes at once."""
    made = Stuck()
    made.is_let.set()
    return made


@pytest.fixture
def threads():
    """Threads that send requests."""
    with ThreadPoolExecutor(8) as made:
        yield made
