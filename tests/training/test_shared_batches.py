"""Pretraining and distillation with several processes: weights as with one, checkpoints of other process counts, one writer, one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

_WORK = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[2])
import numpy as np
import torch
torch.set_num_threads(1)
import forked
from tain.batches import shards
from tain.cli.main import main
from tain.recipes.distil.recipe import distil
from tain.recipes.distil.trainer import DistilTrainer
from tain.recipes.pretrain import preparing, recipe
from tain.recipes.shared import run as shared_run
from tain.text.records import Example
from tain.training import checkpoint, distributed

model, corpus, bitext = folder / "model", folder / "corpus.txt", folder / "bitext.tsv"
texts = json.loads((folder / "texts.json").read_text())
common = dict(optimizer="adamw", learning_rate=1e-3, dtype="float32", device="cpu", warmup_steps=1, progress=False)
blocks = dict(common, block_tokens=16, batch_blocks=8, tokens=16.0 * 8 * 3)
PRETRAIN = {
    "random": blocks,
    "by text": dict(blocks, mask_unit="text"),
    "explored": dict(blocks, objective="fully-explored", masking_rate=0.25, tokens=16.0 * 8 * 12),
    "spread": dict(blocks, objective="fully-explored", masking_rate=0.5, spread_over_epochs=True, mask_unit="text"),
    "words": dict(blocks, objective="whole-word"),
    "cmlm": dict(common, objective="cmlm", block_tokens=24, batch_blocks=12, pseudo_tokens=2, min_tokens=1, neighbour="both",
        skip_connection=True, tokens=1200.0, bitext=bitext, bitext_pairs=7),
}
small = dict(features=64, bottleneck=16, state=12, layers=2, batch_texts=10, epochs=1, held_out=8, device="cpu", dtype="float32",
    zoneout=0.0, distortion=0.0, keep_weights=True, progress=False)
given = [Example(text, "LABEL_0" if len(text) < 30 else "LABEL_1", tuple("B-a" if len(w) < 4 else "O" for w in text.split())) for text in texts]
DISTIL = {
    "vectors": (str(model), texts, small),
    "static": (str(model), texts, dict(student="static", static_dim=16, batch_texts=10, epochs=1, held_out=8, device="cpu", progress=False)),
    "labels": (str(folder / "classifier"), [one if number % 3 else Example(one.text) for number, one in enumerate(given)],
        dict(small, task="classify", max_texts=0)),
    "tags": ("none", given, dict(small, task="tag")),
}

def refuse_writing(*given, **more):
    raise AssertionError(f"process {distributed.rank()} writes")

def together(work, processes):
    def one():
        if int(os.environ.get("RANK", "0")) > 0:
            for module in (shards, preparing, recipe, shared_run, checkpoint):
                for name in ("whole_folder", "whole_file"):
                    if hasattr(module, name):
                        setattr(module, name, refuse_writing)
        with distributed.ending_processes():
            work()
    forked.run(processes, one)

def arrays(module):
    return {key: value.cpu().float().numpy().copy() for key, value in module.state_dict().items()}

def record(name, module, losses, start=None):
    weights = arrays(module) | {f"start {key}": value for key, value in (start or {}).items()}
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in weights.values())).hexdigest()
    place = folder / f"{name}-{distributed.world_size()}-{distributed.rank()}"
    np.savez(place, **weights)
    place.with_suffix(".json").write_text(json.dumps({"digest": digest, "losses": losses}))

def pretrain_one(name, output, **more):
    made = recipe.pretrain(model, [corpus], folder / output, **PRETRAIN[name] | more)
    if made.finished:
        record(output, made.model, made.losses)

def distil_one(name, output, **more):
    teacher, given, settings = DISTIL[name]
    start = {}
    def train(self, **given):
        start.update(arrays(self.module))
        return real_train(self, **given)
    DistilTrainer.train = train
    made = distil(teacher, given, folder / output, **settings | more)
    DistilTrainer.train = real_train
    record(output, made.module, made.trained.losses, start)

real_train = DistilTrainer.train
"""

_EQUAL = """
def all_of_them():
    processes = os.environ.get("WORLD_SIZE", "1")
    for name in PRETRAIN:
        pretrain_one(name, f"pretrain {name} {processes}")
    for name in DISTIL:
        distil_one(name, f"distil {name} {processes}")

for processes in (1, 2, 4):
    together(all_of_them, processes)
"""

_RESUMED = """
def interrupted(self, indices, *, step):
    if step == 3:
        raise KeyboardInterrupt
    return real(self, indices, step=step)

real = DistilTrainer.gradient_step

def begin():
    pretrain_one("random", "begun", minutes=1e-9, decay_share=0.0)
    DistilTrainer.gradient_step = interrupted
    try:
        distil_one("vectors", "student", checkpoint_every_s=0.0)
    except KeyboardInterrupt:
        pass

def go_on():
    pretrain_one("random", "begun", resume=True, decay_share=0.0)
    distil_one("vectors", "student", checkpoint_every_s=0.0, resume=True)

def alone():
    pretrain_one("random", "alone", decay_share=0.0)
    distil_one("vectors", "student alone")

together(begin, 3)
together(go_on, 2)
together(alone, 1)
"""

_KILLED = """
from tain.recipes.pretrain.objectives import RandomMasks

def slow(real):
    def step(self, *given, **more):
        (folder / f"stepped-{os.getpid()}").touch()
        time.sleep(0.1)
        return real(self, *given, **more)
    return step

RandomMasks.gradient = slow(RandomMasks.gradient)
DistilTrainer.gradient_step = slow(DistilTrainer.gradient_step)
few = ["--device", "cpu", "--dtype", "float32"]
VERBS = {
    "pretrain": ["pretrain", model, corpus, "-o", folder / "killed", "--optimizer", "adamw", "--block-tokens", 16, "--batch-blocks", 8,
        "--tokens", 1e6, *few],
    "distil": ["distil", model, folder / "corpus.txt", "-o", folder / "killed", "--features", 64, "--bottleneck", 16, "--state", 12,
        "--layers", 1, "--batch-texts", 8, "--epochs", 5000, *few],
}
found = {}
for verb, arguments in VERBS.items():
    numbers = forked.start(3, lambda: main([str(each) for each in arguments]), log=folder / verb)
    deadline_s = time.monotonic() + 60
    while not all((folder / f"stepped-{number}").exists() for number in numbers):
        assert time.monotonic() < deadline_s, (folder / f"{verb}-0").read_text()[-2000:]
        time.sleep(0.05)
    os.kill(numbers[2], signal.SIGKILL)
    began_s = time.monotonic()
    ends = forked.codes(numbers)
    lines = [line for rank in (0, 1) for line in (folder / f"{verb}-{rank}").read_text().splitlines() if line.startswith("error: ")]
    found[verb] = {"codes": ends, "seconds": time.monotonic() - began_s, "lines": lines, "exists": (folder / "killed").exists()}
(folder / "killed.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tiny_masked_lm, tiny_tokenizer, sentences, tmp_path_factory) -> Path:
    """A model without dropout, and texts."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_masked_lm("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    torch.manual_seed(1)
    heads = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    heads.save_pretrained(folder / "classifier")
    tiny_tokenizer().save_pretrained(folder / "classifier")
    rng = np.random.default_rng(0)
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    texts = list(dict.fromkeys(" ".join(rng.choice(words, size=rng.integers(3, 9))) for _ in range(80)))
    (folder / "texts.json").write_text(json.dumps(texts))
    documents = ["\n".join(texts[start : start + 4]) for start in range(0, len(texts) - 4, 4)]
    (folder / "corpus.txt").write_text("\n\n".join(documents * 3) + "\n")
    pairs = [f"{' '.join(rng.choice(words, 4))}\t{' '.join(rng.choice(words, 4))}" for _ in range(60)]
    (folder / "bitext.tsv").write_text("here\tthere\n" + "\n".join(pairs) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The folder with the weights of every run in one, two and four processes."""
    run(folder, _EQUAL)
    return folder


def run(folder: Path, work: str) -> None:
    script = folder / "work.py"
    script.write_text(_WORK + work)
    here = str(Path(__file__).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, here, folder], capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


def result(folder: Path, name: str, processes: int) -> tuple[dict[str, np.ndarray], list[float]]:
    """Weights and losses of a run, which are the same in every process."""
    about = [json.loads((folder / f"{name}-{processes}-{rank}.json").read_text()) for rank in range(processes)]
    assert all(each == about[0] for each in about)
    return dict(np.load(folder / f"{name}-{processes}-0.npz")), about[0]["losses"]


def assert_same(found: tuple[dict[str, np.ndarray], list[float]], expected: tuple[dict[str, np.ndarray], list[float]], start: Any) -> None:
    """Equal losses, and weights that moved to the same place; AdamW turns the rounding of a gradient near 0 into a step."""
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-4)
    names = [name for name in start if name in expected[0]]
    moved = np.concatenate([(expected[0][name] - start[name]).ravel() for name in names])
    apart = np.concatenate([(found[0][name] - expected[0][name]).ravel() for name in names])
    assert np.linalg.norm(apart) < 0.01 * np.linalg.norm(moved)


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_the_weights_of_one(trained, processes):
    """Every objective of pretraining and every kind of student, in float32 and without dropout."""
    start = load_file(trained / "model" / "model.safetensors")
    for name in ("random", "by text", "explored", "spread", "words", "cmlm"):
        expected, found = (result(trained, f"pretrain {name} {count}", count) for count in (1, processes))
        assert_same(found, expected, start)
    for name in ("vectors", "static", "labels", "tags"):
        expected, found = (result(trained, f"distil {name} {count}", count) for count in (1, processes))
        assert_same(found, expected, {name[6:]: value for name, value in expected[0].items() if name.startswith("start ")})


def test_two_processes_continue_what_three_began_and_end_where_one_does(folder):
    run(folder, _RESUMED)
    start = load_file(folder / "model" / "model.safetensors")
    assert_same(result(folder, "begun", 2), result(folder, "alone", 1), start)
    found, expected = result(folder, "student", 2), result(folder, "student alone", 1)
    assert_same(found, expected, {name[6:]: value for name, value in expected[0].items() if name.startswith("start ")})
    assert not list(folder.glob(".student*"))


def test_a_killed_process_ends_the_others_with_one_line(folder):
    run(folder, _KILLED)
    for found in json.loads((folder / "killed.json").read_text()).values():
        assert found["codes"] == [2, 2, -9]
        assert found["seconds"] < 30  # less than one on an idle machine
        line = "error: another process of this run has ended, so this one cannot go on: look for its message, and continue with --resume"
        assert found["lines"] == [line, line]
        assert not found["exists"]
