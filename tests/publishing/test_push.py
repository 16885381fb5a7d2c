"""Uploading to a local fake of the hub: one commit with every file, a complete card, and refusals in one line without the token."""

import json
import os
import subprocess
import sys

import fake_hub
import pytest
import yaml

from tain.foundation.errors import UserError
from tain.publishing.card import completed_card, evaluation_results
from tain.publishing.push import push
from tain.recipes.mirror.recipe import mirror


@pytest.fixture
def hub():
    with fake_hub.running() as found:
        yield found


@pytest.fixture(scope="module")
def encoder(bert_folder, sentences, tmp_path_factory):
    texts = [f"{first} while {second}" for first in sentences for second in sentences[:4]]
    folder = tmp_path_factory.mktemp("made") / "mine"
    mirror(bert_folder, texts, folder, batch_texts=8, max_tokens=40, held_out=4, dtype="float32", device="cpu", seeds=2)
    return folder


def pushed(hub, *arguments, token=fake_hub.TOKEN, **more):
    """Run ``tain push`` in a process of its own, because the hub's client reads its address when it is imported."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(more.pop("home")), "NO_PROXY": "*"}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-m", "tain", "push", *map(str, arguments)]
    return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


# ---- the upload


def test_a_model_arrives_whole_with_its_card(hub, encoder, bert_folder, tmp_path):
    said = pushed(hub, encoder, "ada/mirrored", "--license", "apache-2.0", "--language", "en", "--json", home=tmp_path)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["url"] == f"{hub.endpoint}/ada/mirrored"
    repo = hub.repos["ada/mirrored"]
    assert repo["private"] is False and repo["message"] == "Upload with tain"
    local = {path.relative_to(encoder).as_posix(): path for path in encoder.rglob("*") if path.is_file()}
    assert repo["files"].keys() == local.keys()
    assert repo["files"]["model.safetensors"] == local["model.safetensors"].read_bytes()
    card = repo["files"]["README.md"].decode()
    found = metadata(card)
    assert found["license"] == "apache-2.0" and found["language"] == "en"
    assert found["library_name"] == "sentence-transformers" and found["pipeline_tag"] == "sentence-similarity"
    assert {"tain", "sentence-transformers"} <= set(found["tags"])
    results = found["model-index"][0]["results"][0]
    mrr = next(metric for metric in results["metrics"] if metric["type"] == "self_retrieval_mrr")
    record = json.loads((encoder / "tain.json").read_text())
    assert mrr["value"] == pytest.approx(record["figures"]["after"]["self_retrieval_mrr"], abs=1e-4)
    assert mrr["args"].keys() == {"mean", "standard_deviation"}
    assert 'SentenceTransformer("ada/mirrored")' in card and 'Embedder.load("ada/mirrored")' in card
    assert card.count("# mirrored\n") == 1
    assert "base_model" not in found  # it was a folder of this machine


def test_paths_of_this_machine_stay_here(hub, encoder, bert_folder, tmp_path):
    assert str(bert_folder) in (encoder / "tain.json").read_text()
    assert pushed(hub, encoder, "ada/mirrored", home=tmp_path).returncode == 0
    for name, content in hub.repos["ada/mirrored"]["files"].items():
        assert str(bert_folder.parent).encode() not in content, name
    assert json.loads(hub.repos["ada/mirrored"]["files"]["tain.json"])["base_model"] == bert_folder.name


def test_the_base_model_and_its_licence_come_from_the_hub(hub, encoder, tmp_path):
    hub.add("org/base", card={"license": "mit"})
    said = pushed(hub, encoder, "ada/mirrored", "--base-model", "org/base", home=tmp_path)
    assert said.returncode == 0, said.stderr
    found = metadata(hub.repos["ada/mirrored"]["files"]["README.md"].decode())
    assert (found["base_model"], found["license"]) == ("org/base", "mit")


def test_a_missing_licence_is_told(hub, encoder, tmp_path):
    said = pushed(hub, encoder, "ada/mirrored", home=tmp_path)
    assert "states no licence" in said.stderr and "license" not in metadata(hub.repos["ada/mirrored"]["files"]["README.md"].decode())


def test_private_means_private(hub, encoder, tmp_path):
    assert pushed(hub, encoder, "ada/hidden", "--private", home=tmp_path).returncode == 0
    assert hub.repos["ada/hidden"]["private"] is True
    hub.add("ada/open")
    said = pushed(hub, encoder, "ada/open", "--private", home=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "error: 'ada/open' already exists and is public: make it private on the hub first, or leave --private out\n"
    assert hub.repos["ada/open"]["files"] == {}


def test_an_existing_repository_gets_a_new_commit(hub, encoder, tmp_path):
    hub.add("ada/mirrored")
    assert pushed(hub, encoder, "ada/mirrored", "--message", "second", home=tmp_path).returncode == 0
    assert hub.repos["ada/mirrored"]["message"] == "second"


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("ada/mirrored", "hf_wrongOne", "401"),
        ("forbidden/mirrored", fake_hub.TOKEN, "403"),
        ("ada/mirrored", None, "there is no token for the hub: set HF_TOKEN"),
    ],
)
def test_refusals_are_one_line_without_the_token(hub, encoder, tmp_path, repo, token, message):
    said = pushed(hub, encoder, repo, "--license", "mit", token=token, home=tmp_path)
    assert said.returncode == 2
    last = said.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert token is None or token not in said.stdout + said.stderr


def test_an_unreachable_hub_is_one_line(hub, encoder, tmp_path):
    hub.endpoint = "http://127.0.0.1:9"
    said = pushed(hub, encoder, "ada/mirrored", "--license", "mit", home=tmp_path)
    assert said.returncode == 2 and said.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said.stderr


# ---- refusals before any request


def test_what_cannot_be_pushed_is_refused(encoder, tmp_path):
    with pytest.raises(UserError, match="give user/name"):
        push(encoder, "mirrored")
    with pytest.raises(UserError, match="does not exist"):
        push(tmp_path / "none", "ada/mirrored")
    with pytest.raises(UserError, match="switched off by HF_HUB_OFFLINE"):
        push(encoder, "ada/mirrored")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="not a report of tain evaluate"):
        push(encoder, "ada/mirrored", evaluation=tmp_path / "report.json")


def test_links_and_pickles_are_refused(encoder, tmp_path):
    import shutil

    linked = shutil.copytree(encoder, tmp_path / "linked")
    (linked / "secrets.txt").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link"):
        push(linked, "ada/mirrored")
    pickled = shutil.copytree(encoder, tmp_path / "pickled")
    for name in ("optimizer.pt", "OPTIMIZER.PT"):
        (pickled / name).write_bytes(b"x")
        with pytest.raises(UserError, match="is a pickle"):
            push(pickled, "ada/mirrored")
        (pickled / name).unlink()


# ---- the card


def test_a_folder_without_a_card_gets_one():
    card = completed_card("", repo="ada/mine", record={"kind": "ranker", "texts": 1200, "steps": 7}, is_sentence_transformers=False)
    found = metadata(card)
    assert (found["library_name"], found["pipeline_tag"]) == ("tain", "text-ranking")
    assert 'tain.load("ada/mine").score(' in card
    assert "- 1,200 texts, 7 steps" in card


def test_entries_of_a_card_are_kept():
    text = "---\nlicense: mit\ntags: [mine]\nwidget: [1]\n---\n\n# local\n\nBody.\n"
    card = completed_card(text, repo="ada/mine", record={}, is_sentence_transformers=True, folder_name="local")
    found = metadata(card)
    assert found["license"] == "mit" and found["widget"] == [1]
    assert found["tags"][0] == "mine" and "tain" in found["tags"]
    assert "# mine\n\nBody." in card


def test_metadata_that_is_no_yaml_is_refused():
    with pytest.raises(UserError, match="not valid YAML"):
        completed_card("---\na: [1\n---\n", repo="ada/mine", record={}, is_sentence_transformers=True)


def test_an_evaluation_becomes_results_with_intervals(encoder, tmp_path):
    import tain

    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\na cat\ta dog\t1\nglass\tmirror\t4\nthe sea\tthe sea is deep\t5\n")
    report = tain.evaluate(str(encoder), str(tmp_path / "pairs.tsv"), resamples=20, dtype="float32").to_dict()
    results = evaluation_results(report)
    (metric,) = results[0]["metrics"]
    assert metric["type"] == "spearman_x_100" and len(metric["args"]["interval_95"]) == 2
    with pytest.raises(UserError, match="not a report of tain evaluate"):
        evaluation_results({"suites": [{"groups": 3}]})
    card = completed_card("", repo="ada/mine", record={}, is_sentence_transformers=True, evaluation=report)
    assert metadata(card)["model-index"][0]["results"][0]["dataset"]["split"] == "test"
    assert str(tmp_path) not in card  # a table's key is its path here
